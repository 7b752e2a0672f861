"""The secrets of the vault: versions, soft delete, recovery, purge, backup. In memory, and knows no HTTP."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

from keyvaultfs_devvault import errors
from keyvaultfs_devvault.records import NAME, Attributes, Deleted, Secret, Version

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = 86400


class Store:
    """Names are equal without regard to case; the spelling of the first PUT stays.

    Args:
        clock: Unix seconds.
        retention: days between a deletion and the purge, 7 to 90.
    """

    def __init__(self, clock: Callable[[], float], retention: int = 90) -> None:
        self._clock = clock
        self.retention = retention
        self.delete_delay = 0.0
        """Seconds for which a deletion, and a recovery, is not yet visible: Azure takes up to 22."""
        self._secrets: dict[str, Secret] = {}
        self._order: list[str] = []
        self._deleted: dict[str, Deleted] = {}
        self._ready: dict[str, float] = {}

    # --- reading -----------------------------------------------------------------------------------------

    def find(self, name: str) -> Secret | None:
        """The secret, or None if it is not there, deleted, or still being recovered."""
        key = name.upper()
        if self._ready.get(key, 0.0) > self._clock():
            return None
        return self._secrets.get(key)

    def get(self, name: str, version: str | None = None) -> tuple[Secret, Version]:
        """A version, the current one unless it is named.

        Raises:
            VaultError: 404.
        """
        secret = self.find(name)
        if secret is None:
            raise errors.not_found(name if version is None else f"{name}/{version}")
        found = secret.versions.get(secret.current if version is None else version.lower())
        if found is None:
            raise errors.not_found(f"{name}/{version}")
        return secret, found

    def order(self) -> list[str]:
        """The keys of all secrets in listing order (upper-cased name)."""
        if self._ready:
            now = self._clock()
            self._ready = {key: ready for key, ready in self._ready.items() if ready > now}
        if self._ready:
            return [key for key in self._order if key not in self._ready]
        return self._order

    def by_key(self, key: str) -> Secret:
        """The secret of a key from `order`."""
        return self._secrets[key]

    def deleted_order(self) -> list[str]:
        """The keys of the deleted secrets that are visible."""
        now = self._clock()
        return sorted(key for key, gone in self._deleted.items() if gone.visible <= now)

    def deleted_by_key(self, key: str) -> Deleted:
        """The deleted secret of a key from `deleted_order`."""
        return self._deleted[key]

    # --- writing -----------------------------------------------------------------------------------------

    def set(self, name: str, value: str, given: Attributes) -> tuple[Secret, Version]:
        """Make a new version, even of an equal value; it inherits nothing.

        Raises:
            VaultError: 409 when the name is soft-deleted.
        """
        key = name.upper()
        gone = self._deleted.get(key)
        if gone is not None:
            raise errors.being_deleted() if gone.visible > self._clock() else errors.is_deleted(name)
        now = int(self._clock())
        version = Version(value=value, created=now, updated=now)
        version.describe(given)
        secret = self._secrets.get(key)
        if secret is None:
            secret = Secret(name=name, versions={}, current=version.id)
            self._insert(key, secret)
        secret.versions[version.id] = version
        secret.current = version.id
        return secret, version

    def update(self, name: str, version: str | None, given: Attributes) -> tuple[Secret, Version]:
        """Change what describes a version: `updated` moves, the id and the value stay.

        Raises:
            VaultError: 404.
        """
        secret, found = self.get(name, version)
        found.updated = int(self._clock())
        found.describe(given)
        return secret, found

    def delete(self, name: str) -> Deleted:
        """Soft-delete all versions.

        Raises:
            VaultError: 404.
        """
        self.get(name)
        key = name.upper()
        now = self._clock()
        purge = int(now) + self.retention * DAY
        gone = Deleted(secret=self._pop(key), deleted=int(now), purge=purge, visible=now + self.delete_delay)
        self._deleted[key] = gone
        return gone

    def deleted(self, name: str) -> Deleted:
        """A deleted secret that is visible as such.

        Raises:
            VaultError: 404.
        """
        gone = self._deleted.get(name.upper())
        if gone is None or gone.visible > self._clock():
            raise errors.deleted_not_found(name)
        return gone

    def recover(self, name: str) -> Secret:
        """Bring a deleted secret back; it is visible after `delete_delay`.

        Raises:
            VaultError: 404, with the long text.
        """
        gone = self._deleted.get(name.upper())
        if gone is None or gone.visible > self._clock():
            raise errors.not_found(name)
        del self._deleted[name.upper()]
        self._insert(name.upper(), gone.secret)
        if self.delete_delay:
            self._ready[name.upper()] = self._clock() + self.delete_delay
        return gone.secret

    def purge(self, name: str) -> None:
        """Forget a deleted secret for good.

        Raises:
            VaultError: 404.
        """
        self.deleted(name)
        del self._deleted[name.upper()]

    def restore(self, secret: Secret) -> None:
        """Put a backed-up secret in its place, versions and times as they were.

        Raises:
            VaultError: 409 when the name is in use or soft-deleted.
        """
        key = secret.name.upper()
        if key in self._secrets or key in self._deleted:
            raise errors.restore_conflict(secret.name)
        self._insert(key, secret)

    def erase(self, name: str) -> bool:
        """Forget a secret in whatever state it is, without the protocol's ceremonies.

        Returns:
            Whether there was one.
        """
        key = name.upper()
        known = key in self._secrets or key in self._deleted
        if key in self._secrets:
            self._pop(key)
        self._deleted.pop(key, None)
        return known

    def clear(self) -> None:
        """Forget everything."""
        self._secrets.clear()
        self._deleted.clear()
        self._ready.clear()
        self._order = []

    def __len__(self) -> int:
        return len(self._secrets)

    def _insert(self, key: str, secret: Secret) -> None:
        self._secrets[key] = secret
        bisect.insort(self._order, key)

    def _pop(self, key: str) -> Secret:
        del self._order[bisect.bisect_left(self._order, key)]
        self._ready.pop(key, None)
        return self._secrets.pop(key)


def check_name(name: str) -> str:
    """The name itself.

    Raises:
        VaultError: 400 when it is none.
    """
    if NAME.fullmatch(name) is None:
        raise errors.invalid_name(name)
    return name
