"""Kinds of option values: numbers, times, flags, choices, users, lists and other text.

Each number has a range: one that passes here and fails later would fail in the worker, far from who wrote it.
"""

from __future__ import annotations

import grp
import pwd
import re
from typing import TYPE_CHECKING, Any

from keyvaultfs.settings.kind import Kind, as_flag, as_id, as_list, as_number, as_text

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

NAME_LETTERS = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-")
"""The letters that a secret's name can have."""


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

    return Kind(unit="SECONDS", parse=parse, show=lambda value: f"{value:g}", toml=as_number)


def _size(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,15})([kmgt]?)(?:i?b)?", text.strip().lower())
    if not found:
        raise ValueError("a number of bytes, or one with K, M or G behind")
    number = int(found[1]) * _SIZES[found[2]]
    if number > _LARGEST:
        raise ValueError("at most 1T")
    return number


SIZE = Kind(unit="SIZE", parse=_size, show=lambda value: f"{value >> 20}M", toml=as_number)
"""``65536``, ``64M``, ``64MiB``."""


def count(least: int, most: int) -> Kind:
    """A whole number."""

    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return int(text)

    return Kind(unit="NUMBER", parse=parse, toml=as_id)


def _octal(text: str) -> int:
    if not re.fullmatch("0?[0-7]{3}", text):
        raise ValueError("three octal digits such as 0400")
    return int(text, 8)


def _octal_digits(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError('in quotation marks, as in "0400"')
    return value


OCTAL = Kind(unit="OCTAL", parse=_octal, show=lambda value: f"{value:04o}", toml=_octal_digits)
"""``0400``."""


def _flag(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError("yes or no")


FLAG = Kind(unit="", parse=_flag, show=lambda value: "yes" if value else "no", toml=as_flag)
"""The bare word, or ``yes`` or ``no``."""


def choice(unit: str, *allowed: str) -> Kind:
    """One of a few texts, as they stand in `allowed`."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"{', '.join(allowed[:-1])} or {allowed[-1]}")
        return text

    return Kind(unit=unit, parse=parse, toml=as_flag if "yes" in allowed else as_text, offers=allowed)


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


USER = Kind(unit="USER", parse=_user, toml=as_id, offers="users")
"""A user's name or number."""
GROUP = Kind(unit="GROUP", parse=_group, toml=as_id, offers="groups")
"""A group's name or number."""
USER_NAME = Kind(unit="USER", parse=_user_name, offers="users")
"""The name of a user of this machine."""


def _globs(text: str) -> tuple[str, ...]:
    patterns = tuple(part for part in text.split(":") if part)
    if not patterns or not all(re.fullmatch(r"[0-9A-Za-z*?\[\]!-]+", part) for part in patterns):
        raise ValueError("patterns such as pg-*:app-?, with ':' between them")
    return patterns


GLOBS = Kind(unit="GLOBS", parse=_globs, show=":".join, toml=as_list(":"))
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
    toml=as_list("\n"),
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


def _api_version(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,4}(?:[.-][0-9]{1,4}){1,2}(?:-preview(?:\.[0-9]{1,4})?)?", text):
        raise ValueError("a version such as 7.4 or 2025-07-01")
    return text


API_VERSION = Kind(unit="VERSION", parse=_api_version)
"""``7.4`` or ``2025-07-01`` and the like."""
