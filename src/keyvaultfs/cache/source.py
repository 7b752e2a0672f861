"""What the cache needs of a vault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from keyvaultfs.model import ListItem, Secret, SecretName, Version, VersionItem


class SecretSource(Protocol):
    """A vault. Each call may raise NotFound, Refused or Unavailable."""

    async def get(self, name: SecretName) -> Secret:
        """The current version."""

    async def get_version(self, name: SecretName, version: Version) -> Secret:
        """One version."""

    def pages(self) -> AsyncGenerator[tuple[ListItem, ...], None]:
        """The listing."""

    async def versions(self, name: SecretName) -> tuple[VersionItem, ...]:
        """All versions of a secret."""
