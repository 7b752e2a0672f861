"""What the vault keeps of a secret. Nothing here knows HTTP."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field, fields
from typing import Any

NAME = re.compile(r"[0-9a-zA-Z-]{1,127}")
VERSION = re.compile(r"[0-9a-f]{32}")


@dataclass(slots=True, kw_only=True)
class Attributes:
    """What a caller may say of a version; None is "not said". Times are whole Unix seconds.

    Args:
        odd: the control interface's alone: written over `attributes` in every answer, of whatever type, such as
            ``{"exp": "soon"}``; secrets of other tools' making have such.
    """

    content_type: str | None = None
    tags: dict[str, str] | None = None
    enabled: bool | None = None
    nbf: int | None = None
    exp: int | None = None
    created: int | None = None
    updated: int | None = None
    managed: bool | None = None
    odd: dict[str, Any] | None = None


@dataclass(slots=True, kw_only=True)
class Version:
    """One version. Its value never changes; what describes it does, and then `updated` moves."""

    id: str = field(default_factory=lambda: secrets.token_hex(16))
    value: str = field(repr=False)
    created: int
    updated: int
    enabled: bool = True
    content_type: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    nbf: int | None = None
    exp: int | None = None
    managed: bool = False
    odd: dict[str, Any] = field(default_factory=dict)

    def describe(self, given: Attributes) -> None:
        """Take over what is said; what is not said stays. Given tags replace all tags."""
        for one in fields(given):
            value = getattr(given, one.name)
            if value is not None:
                setattr(self, one.name, value)


@dataclass(slots=True, kw_only=True)
class Secret:
    """A name with its versions, the last of which is the current one."""

    name: str
    versions: dict[str, Version]
    current: str

    @property
    def now(self) -> Version:
        """The current version."""
        return self.versions[self.current]


@dataclass(slots=True, kw_only=True)
class Deleted:
    """A soft-deleted secret. Times are Unix seconds.

    Args:
        visible: from when on GET /deletedsecrets shows it.
    """

    secret: Secret
    deleted: int
    purge: int
    visible: float
