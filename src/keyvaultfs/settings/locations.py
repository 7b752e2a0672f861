"""Kinds of values that say where something is: a URL, a file, a folder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from keyvaultfs.settings.kind import Kind

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_LARGEST_URL_FILE = 4096

JOURNAL = "journal"


def _below(raw: str, folder: str) -> str:
    return os.path.normpath(os.path.join(folder, raw))  # noqa: PTH118 - pathlib would resolve links


def _split(text: str) -> SplitResult:
    from urllib.parse import urlsplit  # half a megabyte that a keeper whose options have no URL need not have

    return urlsplit(text)


def _url(text: str) -> str:
    try:
        parts = _split(text)
        sound = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        sound = False
    if not sound or not text.isprintable():
        raise ValueError("a URL that begins with http:// or https://")
    return text.rstrip("/")


def _open_url(text: str) -> str:
    found = _url(text)
    if "@" in _split(found).netloc:
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
    if _split(found).path:
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
