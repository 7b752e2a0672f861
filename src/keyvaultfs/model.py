"""What a secret is, in the words of Key Vault. Frozen values, no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, NewType

if TYPE_CHECKING:
    from collections.abc import Mapping

Version = NewType("Version", str)
"""32 lower-case hex characters; random, so they have no order in time."""

UNREADABLE = Version("0" * 32)
"""What a name stands for whose value the vault refuses to give, as it does for a disabled secret."""

NAME_PATTERN = re.compile("[0-9A-Za-z-]{1,127}")
VERSION_PATTERN = re.compile("[0-9a-f]{32}")
NO_TAGS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class SecretName:
    """The name of a secret: equal and hashed without regard to case, shown as the vault spells it.

    Raises:
        ValueError: the text is no Key Vault name (1-127 of ``[0-9A-Za-z-]``); the text is not quoted.
    """

    spelling: str = field(compare=False)
    key: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not NAME_PATTERN.fullmatch(self.spelling):
            raise ValueError("not a Key Vault name")
        key = self.spelling.lower()
        # Most names are spelled so: one text for both is a fifth of what a listed name takes.
        object.__setattr__(self, "key", self.spelling if key == self.spelling else key)

    def __str__(self) -> str:
        return self.spelling


def version(text: str) -> Version:
    """Check a version id.

    Raises:
        ValueError: not 32 lower-case hex characters; the text is not quoted.
    """
    if not VERSION_PATTERN.fullmatch(text):
        raise ValueError("not a version id")
    return Version(text)


@dataclass(frozen=True, slots=True, weakref_slot=True, repr=False, eq=False)
class SecretValue:
    """The UTF-8 bytes of a secret's value. Shown by its length only; `reveal` is the one way in."""

    _raw: bytes

    def __repr__(self) -> str:
        return f"<SecretValue {len(self._raw)} B>"

    def __len__(self) -> int:
        return len(self._raw)

    def __reduce__(self) -> str:
        raise TypeError("a secret value is never pickled")

    def reveal(self) -> bytes:
        """The bytes themselves. Called in `content`, `cache.values` and `transport.session` only."""
        return self._raw


class Properties(NamedTuple):
    """What is known of a secret besides its value. Times are whole Unix seconds (PROTOCOL §4)."""

    enabled: bool = True
    created: int | None = None
    updated: int | None = None
    expires: int | None = None
    not_before: int | None = None
    content_type: str | None = None
    tags: Mapping[str, str] = NO_TAGS
    managed: bool = False


class Secret(NamedTuple):
    """One version of a secret, with its value; `answered` is the vault's clock, Unix seconds, if it told."""

    name: SecretName
    version: Version
    value: SecretValue
    properties: Properties
    answered: float | None = None


class ListItem(NamedTuple):
    """A line of the vault's listing: attributes of the current version, which it does not name."""

    name: SecretName
    properties: Properties


class VersionItem(NamedTuple):
    """A line of a secret's list of versions, which has no order in time."""

    version: Version
    properties: Properties
