"""What a user writes for an option -> its value. A ValueError says what it should have been."""

from __future__ import annotations

import grp
import os
import pwd
import re
from urllib.parse import urlsplit

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_TRUE, _FALSE = {"", "1", "yes", "true", "on"}, {"0", "no", "false", "off"}


def _number(text: str) -> float:
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,9})?)([smhd]?)", text.strip().lower())
    if not found:
        raise ValueError("a number of seconds, or one with s, m, h or d behind")
    return float(found[1]) * _UNITS[found[2]]


def seconds(text: str) -> float:
    """``90``, ``1.5``, ``5m``, ``24h``."""
    return _number(text)


def positive_seconds(text: str) -> float:
    """As `seconds`, and at least one."""
    number = _number(text)
    if number < 1:
        raise ValueError("at least 1 second")
    return number


def size(text: str) -> int:
    """``65536``, ``64M``, ``64MiB``."""
    found = re.fullmatch(r"(\d{1,12})([kmg]?)(?:i?b)?", text.strip().lower())
    if not found:
        raise ValueError("a number of bytes, or one with K, M or G behind")
    return int(found[1]) * _SIZES[found[2]]


def count(text: str) -> int:
    """A whole number from 1 to 256."""
    if not re.fullmatch(r"\d{1,3}", text) or not 1 <= int(text) <= 256:
        raise ValueError("a whole number from 1 to 256")
    return int(text)


def octal(text: str) -> int:
    """``0400``."""
    if not re.fullmatch("0?[0-7]{3}", text):
        raise ValueError("three octal digits such as 0400")
    return int(text, 8)


def flag(text: str) -> bool:
    """The bare word, or ``yes`` or ``no``."""
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError("yes or no")


def user(text: str) -> int:
    """A user's name or number."""
    if text.isdigit():
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        raise ValueError("a user of this machine, or a number") from None


def group(text: str) -> int:
    """A group's name or number."""
    if text.isdigit():
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise ValueError("a group of this machine, or a number") from None


def user_name(text: str) -> str:
    """The name of a user of this machine."""
    try:
        return pwd.getpwnam(text).pw_name
    except KeyError:
        raise ValueError("the name of a user of this machine") from None


def globs(text: str) -> tuple[str, ...]:
    """Patterns over names, with ``:`` between them (no name has one, and ``,`` ends an option)."""
    patterns = tuple(part for part in text.split(":") if part)
    if not patterns or not all(re.fullmatch(r"[0-9A-Za-z*?\[\]!-]+", part) for part in patterns):
        raise ValueError("patterns such as pg-*:app-?, with ':' between them")
    return patterns


def text(text: str) -> str:
    """Any text but none."""
    if not text or not text.isprintable():
        raise ValueError("a word")
    return text


def url(text: str) -> str:
    """``http://…`` or ``https://…``, without a final slash."""
    try:
        parts = urlsplit(text)
        sound = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or True)
    except ValueError:
        sound = False
    if not sound or not text.isprintable():
        raise ValueError("a URL that begins with http:// or https://")
    return text.rstrip("/")


def resource(text: str) -> str:
    """What a token is for: an https URL without path, as a challenge names it."""
    found = url(text)
    if urlsplit(found).path:
        raise ValueError("a URL without a path, such as https://vault.azure.net")
    return found


def existing_file(text: str) -> str:
    """The absolute path of a file that is there."""
    path = os.path.abspath(text)  # noqa: PTH100 - pathlib would resolve links
    if not os.path.isfile(path):  # noqa: PTH113
        raise ValueError("a file, and there is none of this name")
    return path


def api_version(text: str) -> str:
    """``7.4`` or ``2025-07-01`` and the like."""
    if not re.fullmatch(r"\d{1,4}(?:[.-]\d{1,4}){1,2}(?:-preview(?:\.\d+)?)?", text):
        raise ValueError("a version such as 7.4 or 2025-07-01")
    return text


def auth(text: str) -> str:
    """``imds`` or ``azure-identity``."""
    if text not in {"imds", "azure-identity"}:
        raise ValueError("imds or azure-identity")
    return text
