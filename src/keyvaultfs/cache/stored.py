"""What stands beside a kept value: whose it is, and what is shown of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from keyvaultfs.model import NO_TAGS, Properties, SecretName, Version

if TYPE_CHECKING:
    from weakref import ReferenceType

    from keyvaultfs.model import SecretValue

_JSON = json.JSONEncoder(separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class FileKey:
    """Stands in the place of a secret's name for bytes that a file was made of. No secret's name has a slash."""

    path: str
    key: str = field(init=False, repr=False, compare=False)
    """apart from every folded name"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", "/" + self.path)

    @property
    def spelling(self) -> str:
        """As it is written down."""
        return self.path


@dataclass(slots=True, eq=False)
class Stored:
    """A value's record.

    Attributes:
        checked: seconds of CLOCK_MONOTONIC, which all processes share.
        given: the copy of the bytes that somebody has, if anybody does.
    """

    name: SecretName | FileKey
    version: Version
    properties: Properties
    racy: bool
    checked: float
    start: int
    length: int
    value_start: int
    value_length: int
    given: ReferenceType[SecretValue] | None = None


def packed(name: SecretName | FileKey, version: Version, properties: Properties, *, racy: bool) -> bytes:
    """All but the value, for `unpacked`."""
    key = "f" if isinstance(name, FileKey) else "n"
    return _JSON.encode({key: name.spelling, "v": version, "r": racy, "p": _row(properties)}).encode()


def unpacked(raw: bytes) -> tuple[SecretName | FileKey, Version, Properties, bool]:
    """Name, version, properties, and whether it is racy."""
    data = json.loads(raw)
    name = FileKey(data["f"]) if "f" in data else SecretName(data["n"])
    return name, Version(data["v"]), _properties(data["p"]), data["r"]


def _row(properties: Properties) -> list[object]:
    return [
        properties.enabled, properties.created, properties.updated, properties.expires, properties.not_before,
        properties.content_type, dict(properties.tags), properties.managed,
    ]  # fmt: skip


def _properties(row: list[Any]) -> Properties:
    enabled, created, updated, expires, not_before, content_type, tags, managed = row
    mapped = MappingProxyType(tags) if tags else NO_TAGS
    return Properties(enabled, created, updated, expires, not_before, content_type, mapped, managed)
