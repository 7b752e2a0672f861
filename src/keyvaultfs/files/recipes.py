"""Recipes: which secrets a file is made of. How bytes are made of them is `makers`'s."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as field_
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from keyvaultfs.model import SecretName

if TYPE_CHECKING:
    from keyvaultfs.content.template import Template
    from keyvaultfs.model import Version


class Source(NamedTuple):
    """A secret that a file is made of.

    Attributes:
        version: this version for ever; None for the current one.
        previous: how many versions before the current one, by `created`.
    """

    name: SecretName
    version: Version | None = None
    previous: int = 0

    @property
    def current(self) -> bool:
        """Whether it is simply what the vault has now."""
        return self.version is None and not self.previous

    @property
    def identity(self) -> str:
        """For a hash."""
        return f"{self.name.key} {self.version or ''} {self.previous}"


@dataclass(frozen=True, slots=True)
class OneSecret:
    """A file made of one secret.

    Attributes:
        decode: "auto", "raw", "base64" or "hex"; None for what the mount does.
        newline: it ends with a newline, whether the value does or not.
        part: of a certificate.
        field: of a JSON object: a key, or a JSON Pointer that begins with ``/``.
        password: the secret that protects a PFX.
    """

    source: Source
    decode: str | None = None
    newline: bool = False
    part: str | None = None
    field: str | None = None
    password: Source | None = None
    sources: tuple[Source, ...] = field_(init=False, repr=False, compare=False)
    """the secrets that it is made of"""
    plain: bool = field_(init=False, repr=False, compare=False)
    """whether it is the current version as the mount shows it: the recipe that does nothing"""
    kind: ClassVar[str] = "secret"

    def __post_init__(self) -> None:
        # Told once: each warm open asks for them.
        sources = (self.source,) if self.password is None else (self.source, self.password)
        object.__setattr__(self, "sources", sources)
        same = not (self.part or self.field is not None or self.newline or self.decode)
        plain = same and self.source.current
        object.__setattr__(self, "plain", plain)

    @property
    def salted(self) -> bool:
        """Whether the bytes are others each time."""
        return self.part == "pfx"

    @property
    def identity(self) -> str:
        """For a hash: what the bytes depend on, but for the versions."""
        return repr(("secret", self.decode, self.newline, self.part, self.field))


@dataclass(frozen=True, slots=True)
class Rendered:
    """A file made by a template; `text` is the template's, and its secrets are literals in it."""

    text: str
    template: Template = field_(compare=False, repr=False)
    sources: tuple[Source, ...] = field_(init=False)
    kind: ClassVar[str] = "template"
    plain: ClassVar[bool] = False
    salted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        names = {name.lower(): SecretName(name) for name in self.template.secrets}
        object.__setattr__(self, "sources", tuple(Source(name) for name in names.values()))

    @property
    def identity(self) -> str:
        """For a hash."""
        return repr(("template", self.text))


class Value(NamedTuple):
    """A value of a formatted file: a secret, or a field of one."""

    source: Source
    field: str | None = None


@dataclass(frozen=True, slots=True)
class Formatted:
    """A file of keys and values in a known format."""

    format: str
    values: tuple[tuple[str, Value], ...]
    sources: tuple[Source, ...] = field_(init=False)
    kind: ClassVar[str] = "format"
    plain: ClassVar[bool] = False
    salted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(dict.fromkeys(value.source for _, value in self.values)))

    @property
    def identity(self) -> str:
        """For a hash."""
        rows = [(key, value.source.identity, value.field) for key, value in self.values]
        return repr(("format", self.format, rows))


Recipe = OneSecret | Rendered | Formatted
