"""Kinds of values that an option can have: how each is parsed, shown, written in TOML and completed.

Each number has a range: one that passes here and fails later would fail in the worker, far from who wrote it.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_TRUE, _FALSE = {"", "1", "yes", "true", "on"}, {"0", "no", "false", "off"}

DAY = 86400.0
_LONGEST = 3650 * DAY
_LARGEST = 1 << 40
_HIGHEST_ID = (1 << 32) - 2
"""(uid_t) -1 means "leave it as it is", chown(2)."""
_LARGEST_URL_FILE = 4096

JOURNAL = "journal"
NAME_LETTERS = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-")
"""Of a secret's name."""


def as_text(value: Any) -> str:
    """A TOML value that is to be text.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str):
        raise ValueError("text, in quotation marks")
    return value


def _as_number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError('a number, or text such as "5m"')
    return str(value)


def _as_id(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("a number, or a name in quotation marks")
    return str(value)


def _as_word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, str):
        raise ValueError("true or false")
    return value


def _as_list(separator: str) -> Callable[[Any], str]:
    def joined(value: Any) -> str:
        if isinstance(value, str):
            return value
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError("a list of texts")
        return separator.join(value)

    return joined


def _anywhere(raw: str, _folder: str) -> str:
    return raw


def _below(raw: str, folder: str) -> str:
    return os.path.normpath(os.path.join(folder, raw))  # noqa: PTH118 - pathlib would resolve links


def _plain(raw: str) -> str:
    return raw


def _never(_raw: str) -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What values of an option can be.

    Attributes:
        unit: the metavariable of ``--help``; "" for a flag, which may stand without a value.
        parse: text -> value; a ValueError says what it should be, and never quotes the text.
        show: value -> text, as a user would write it.
        toml: a TOML value -> text; a ValueError says what it should be.
        anchored: text and a folder -> the same text, in which a file's name is no longer relative to the folder.
        quoted: text -> how a message may quote it: a password is left out.
        exposed: whether the text has what other users must not see; they see a command line.
        separator: what joins texts of an option that may be given several times; "" where the last one counts.
        offers: what a shell offers: words, or one of "files", "folders", "users", "groups".
    """

    unit: str
    parse: Callable[[str], Any]
    show: Callable[[Any], str] = str
    toml: Callable[[Any], str] = as_text
    anchored: Callable[[str, str], str] = _anywhere
    quoted: Callable[[str], str] = _plain
    exposed: Callable[[str], bool] = _never
    separator: str = ""
    offers: str | tuple[str, ...] = ()


def _spoken(number: float) -> str:
    for unit, length in (("day", DAY), ("hour", 3600.0), ("minute", 60.0)):
        if number >= length and number % length == 0:
            return f"{number / length:g} {unit}{'s' if number > length else ''}"
    return f"{number:g} second{'s' if number != 1 else ''}"


def seconds(*, least: float = 0, most: float = _LONGEST) -> Kind:
    """A duration: ``90``, ``1.5``, ``5m``, ``24h``, ``30d``; from `least` to `most` seconds."""

    def parse(text: str) -> float:
        found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)([smhd]?)", text.strip().lower())
        if not found:
            raise ValueError("a number of seconds, or one with s, m, h or d behind")
        number = float(found[1]) * _UNITS[found[2]]
        if number < least:
            raise ValueError(f"at least {_spoken(least)}")
        if number > most:
            raise ValueError(f"at most {_spoken(most)}")
        return number

    return Kind(unit="SECONDS", parse=parse, show=lambda value: f"{value:g}", toml=_as_number)


def _size(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,15})([kmgt]?)(?:i?b)?", text.strip().lower())
    if not found:
        raise ValueError("a number of bytes, or one with K, M or G behind")
    number = int(found[1]) * _SIZES[found[2]]
    if number > _LARGEST:
        raise ValueError("at most 1T")
    return number


SIZE = Kind(unit="SIZE", parse=_size, show=lambda value: f"{value >> 20}M", toml=_as_number)
"""``65536``, ``64M``, ``64MiB``."""


def count(least: int, most: int) -> Kind:
    """A whole number."""

    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return int(text)

    return Kind(unit="NUMBER", parse=parse, toml=_as_id)


def _octal(text: str) -> int:
    if not re.fullmatch("0?[0-7]{3}", text):
        raise ValueError("three octal digits such as 0400")
    return int(text, 8)


def _octal_toml(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError('in quotation marks, as in "0400"')
    return value


OCTAL = Kind(unit="OCTAL", parse=_octal, show=lambda value: f"{value:04o}", toml=_octal_toml)
"""``0400``."""


def _flag(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError("yes or no")


FLAG = Kind(unit="", parse=_flag, show=lambda value: "yes" if value else "no", toml=_as_word)
"""The bare word, or ``yes`` or ``no``."""


def words(unit: str, *allowed: str) -> Kind:
    """One of some words."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"{', '.join(allowed[:-1])} or {allowed[-1]}")
        return text

    return Kind(unit=unit, parse=parse, toml=_as_word if "yes" in allowed else as_text, offers=allowed)


def _numbered(text: str, find: Callable[[str], int], what: str) -> int:
    if re.fullmatch("[0-9]+", text):
        if len(text) > 10 or int(text) > _HIGHEST_ID:
            raise ValueError(f"at most {_HIGHEST_ID}, the highest number of a {what}")
        return int(text)
    try:
        return find(text)
    except (KeyError, ValueError):  # ValueError: a NUL in it
        raise ValueError(f"a {what} of this machine, or a number") from None


def _user(text: str) -> int:
    return _numbered(text, lambda name: pwd.getpwnam(name).pw_uid, "user")


def _group(text: str) -> int:
    return _numbered(text, lambda name: grp.getgrnam(name).gr_gid, "group")


def _user_name(text: str) -> str:
    try:
        return pwd.getpwnam(text).pw_name
    except (KeyError, ValueError):
        raise ValueError("the name of a user of this machine") from None


USER = Kind(unit="USER", parse=_user, toml=_as_id, offers="users")
"""A user's name or number."""
GROUP = Kind(unit="GROUP", parse=_group, toml=_as_id, offers="groups")
"""A group's name or number."""
USER_NAME = Kind(unit="USER", parse=_user_name, offers="users")
"""The name of a user of this machine."""


def _globs(text: str) -> tuple[str, ...]:
    patterns = tuple(part for part in text.split(":") if part)
    if not patterns or not all(re.fullmatch(r"[0-9A-Za-z*?\[\]!-]+", part) for part in patterns):
        raise ValueError("patterns such as pg-*:app-?, with ':' between them")
    return patterns


GLOBS = Kind(unit="GLOBS", parse=_globs, show=":".join, toml=_as_list(":"))
"""Patterns over names, with ``:`` between them (no name has one, and ``,`` ends an option)."""


def _tags(text: str) -> tuple[tuple[str, str], ...]:
    found = []
    for line in text.split("\n"):
        key, equals, value = line.partition("=")
        if not key or not equals or not line.isprintable():
            raise ValueError("a tag as KEY=VALUE, such as env=prod")
        found.append((key, value))
    return tuple(found)


TAGS = Kind(
    unit="KEY=VALUE",
    parse=_tags,
    show=lambda value: "\n".join(map("=".join, value)),
    toml=_as_list("\n"),
    separator="\n",
)
"""Tags of a secret; several times for several tags."""


def _text(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("a word")
    return text


def text(unit: str) -> Kind:
    """Any text but none."""
    return Kind(unit=unit, parse=_text)


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        sound = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        sound = False
    if not sound or not text.isprintable():
        raise ValueError("a URL that begins with http:// or https://")
    return text.rstrip("/")


def _open_url(text: str) -> str:
    found = _url(text)
    if "@" in urlsplit(found).netloc:
        raise ValueError("a URL without a user's name and password")
    return found


def _without_password(text: str) -> str:
    """A URL, or what was meant to be one, without what stands before its host; ``@FILE`` as it is."""
    before, at, _ = text.rpartition("@")
    if not before or not at or (text.startswith("@") and ":" not in before):
        return text
    return "…@" + text.rpartition("@")[2]


URL = Kind(unit="URL", parse=_open_url, quoted=_without_password)
"""``http://…`` or ``https://…``, kept without a final slash."""


def _resource(text: str) -> str:
    found = _open_url(text)
    if urlsplit(found).path:
        raise ValueError("a URL without a path, such as https://vault.azure.net")
    return found


RESOURCE = Kind(unit="URL", parse=_resource, quoted=_without_password)
"""What a token is for: an https URL without path, as a challenge names it."""


def _proxy(text: str) -> str:
    if not text.startswith("@"):
        return _url(text)
    wanted = "behind the @ the name of a file that has one line, the proxy's URL"
    path = text[1:]
    if not os.path.isfile(path):  # noqa: PTH113
        raise ValueError(f"{wanted}, and there is none of this name")
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - as the keeper does everywhere
            raw = file.read(_LARGEST_URL_FILE + 1)
    except OSError as exc:
        raise ValueError(f"{wanted}; that one gives: {exc.strerror}") from None
    if len(raw) > _LARGEST_URL_FILE:
        raise ValueError(wanted)
    try:
        return _url(raw.decode().strip())
    except ValueError:  # UnicodeDecodeError is one; its text would quote the file
        raise ValueError(wanted) from None


def _proxy_anchored(raw: str, folder: str) -> str:
    return "@" + _below(raw[1:], folder) if raw.startswith("@") else raw


PROXY = Kind(
    unit="URL",
    parse=_proxy,
    show=lambda _: "…",
    anchored=_proxy_anchored,
    quoted=_without_password,
    exposed=lambda text: "@" in text and not text.startswith("@"),
)
"""A proxy's URL, or ``@FILE``: the file has it, since a URL with a password must not stand on a command line."""


def _existing_file(text: str) -> str:
    path = os.path.abspath(text)  # noqa: PTH100 - pathlib would resolve links
    if not os.path.isfile(path):  # noqa: PTH113
        raise ValueError("a file, and there is none of this name")
    return path


FILE = Kind(unit="FILE", parse=_existing_file, anchored=_below, offers="files")
"""The absolute path of a file that is there."""


def _folder(text: str) -> str:
    if not os.path.isabs(text) or not text.isprintable():  # noqa: PTH117
        raise ValueError("the absolute path of a folder")
    return text.rstrip("/") or "/"


FOLDER = Kind(unit="DIR", parse=_folder, offers="folders")
"""The absolute path of a folder, which need not be there."""


def _audit(text: str) -> str:
    if text == JOURNAL:
        return text
    path = os.path.abspath(text)  # noqa: PTH100
    if not text or not text.isprintable():
        raise ValueError("journal, or a file's name")
    return path


AUDIT = Kind(
    unit="FILE",
    parse=_audit,
    anchored=lambda raw, folder: raw if raw == JOURNAL else _below(raw, folder),
    offers="files",
)
"""``journal``, or the absolute path of a file. The keeper opens it, and says what is wrong with it."""


def _api_version(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,4}(?:[.-][0-9]{1,4}){1,2}(?:-preview(?:\.[0-9]{1,4})?)?", text):
        raise ValueError("a version such as 7.4 or 2025-07-01")
    return text


API_VERSION = Kind(unit="VERSION", parse=_api_version)
"""``7.4`` or ``2025-07-01`` and the like."""
