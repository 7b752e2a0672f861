"""Secrets that are there from the start: from a TOML file, a directory of files, or the control interface."""

from __future__ import annotations

import base64
import datetime as dt
import tomllib
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from keyvaultfs_devvault.chains import ChainError, Wish
from keyvaultfs_devvault.records import NAME, VERSION, Attributes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from keyvaultfs_devvault.certificates import Authority
    from keyvaultfs_devvault.store import Store

_ATTRIBUTES = {item.name: item.type for item in fields(Attributes)}
_KNOWN = {"name", "value", "version", *_ATTRIBUTES}


class SeedError(ValueError):
    """What is wrong with a seed, for people. It names the secret, never its value."""


def plant(store: Store, entry: object) -> str:
    """Make a version of a secret, times and all as the entry says.

    Args:
        store: where.
        entry: name and value, and any of content_type, tags, enabled, nbf, exp, created, updated, managed, odd
            (see `Attributes`), and version, its id.

    Returns:
        The version's id.

    Raises:
        SeedError: when the entry is none.
        VaultError: when the store refuses it, such as a name that is soft-deleted.
    """
    if not isinstance(entry, dict):
        raise SeedError("a secret is an object with name and value")
    name, value, version = entry.get("name"), entry.get("value"), entry.get("version")
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise SeedError(f"{name!r} is no secret's name: 1 to 127 letters, digits and -")
    if not isinstance(value, str):
        raise SeedError(f"{name}: value must be a string")
    if unknown := sorted(set(entry) - _KNOWN):
        raise SeedError(f"{name}: unknown {', '.join(unknown)}; known: {', '.join(sorted(_KNOWN))}")
    if version is not None and (not isinstance(version, str) or VERSION.fullmatch(version) is None):
        raise SeedError(f"{name}: version must be 32 lower-case hexadecimal digits")
    secret, made = store.set(name, value, parse_attributes(name, entry))
    if version is not None:
        del secret.versions[made.id]
        made.id = secret.current = version
        secret.versions[version] = made
    return made.id


def certified(entry: object, authority: Authority) -> object:
    """An entry whose `certificate` has become a new key and certificate; any other entry as it is.

    Raises:
        SeedError: when no certificate can be made so.
    """
    if not isinstance(entry, dict) or entry.get("certificate") is None:
        return entry
    rest = {key: value for key, value in entry.items() if key != "certificate"}
    name = str(rest.get("name"))
    try:
        return {**authority.secret(name, Wish.parse(entry["certificate"])), **rest}
    except ChainError as error:
        raise SeedError(f"{name}: {error}") from None


def parse_attributes(name: str, entry: dict[str, Any]) -> Attributes:
    """The attributes that an entry gives.

    Raises:
        SeedError: for a wrong type.
    """
    kinds: dict[str, type] = {
        "tags": dict,
        "content_type": str,
        "enabled": bool,
        "managed": bool,
        "odd": dict,
    }
    given = {key: entry[key] for key in _ATTRIBUTES if entry.get(key) is not None}
    for key, value in given.items():
        kind = kinds.get(key, int)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise SeedError(f"{name}: {key} has the wrong type")
    return Attributes(**given)


def load(store: Store, path: Path, authority: Authority) -> int:
    """Plant a file or a directory.

    Returns:
        How many secrets.

    Raises:
        SeedError: naming the file and what is wrong.
        OSError: when it cannot be read.
    """
    entries: Sequence[object] = _directory(path) if path.is_dir() else _toml(path, authority)
    for entry in entries:
        plant(store, entry)
    return len(entries)


def _directory(path: Path) -> list[dict[str, Any]]:
    """Each regular file is a secret of its name; bytes that are no UTF-8 are stored as `az` would."""
    return [{"name": file.name, **_content(file)} for file in sorted(path.iterdir()) if file.is_file()]


def _content(file: Path) -> dict[str, Any]:
    raw = file.read_bytes()
    try:
        return {"value": raw.decode()}
    except UnicodeDecodeError:
        return {"value": base64.encodebytes(raw).decode(), "tags": {"file-encoding": "base64"}}


def _toml(path: Path, authority: Authority) -> list[object]:
    """`[secrets]` with ``name = "value"`` or ``name = { … }``; the latter may have file or certificate."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise SeedError(f"{path}: {reason}") from None
    secrets = document.get("secrets")
    if not isinstance(secrets, dict) or set(document) != {"secrets"}:
        raise SeedError(f"{path}: wants one table, [secrets]")
    return [_entry(path, name, given, authority) for name, given in secrets.items()]


def _entry(path: Path, name: str, given: object, authority: Authority) -> object:
    if isinstance(given, str):
        return {"name": name, "value": given}
    if not isinstance(given, dict):
        raise SeedError(f"{path}: {name}: wants a string or a table")
    entry: dict[str, Any] = {"name": name, **{key: _time(value) for key, value in given.items()}}
    if (file := entry.pop("file", None)) is not None:
        entry = {**_content(path.parent / file), **entry}
    try:
        return certified(entry, authority)
    except SeedError as error:
        raise SeedError(f"{path}: {error}") from None


def _time(value: object) -> object:
    if isinstance(value, dt.datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=dt.UTC)
        return int(aware.timestamp())
    return value
