"""Which version of a secret a source means now, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import trio

from keyvaultfs.cache.freshness import FAILURE_SECONDS, Verdict, judge
from keyvaultfs.cache.records import Entry
from keyvaultfs.errors import NotFound, Refused, Unavailable
from keyvaultfs.files.recipes import Source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keyvaultfs.cache.cache import Cache
    from keyvaultfs.files.shown import Shown
    from keyvaultfs.model import SecretName, Version, VersionItem

NOBODY_ANSWERED = (Unavailable, trio.TooSlowError)


@dataclass(frozen=True, slots=True)
class Part(Entry):
    """A version of a secret that is in an edition: of `source`, it is the one meant."""

    source: Source


class _Versions(NamedTuple):
    """The versions of a secret, as they were when `current` was its current one."""

    items: tuple[VersionItem, ...]
    current: Version
    checked: float


class Sources:
    """Joins sources with the cache.

    Args:
        shown: which secrets this mount shows; any other does not exist for it.
    """

    def __init__(self, cache: Cache, shown: Shown) -> None:
        self._cache = cache
        self._shown = shown
        self._pinned: dict[tuple[str, str], Part] = {}
        self._versions: dict[str, _Versions] = {}

    def shows(self, tags: Mapping[str, str]) -> bool:
        """Whether this mount shows a secret with these tags."""
        return self._shown.by_tags(tags)

    def hides(self, name: SecretName) -> bool:
        """Whether a secret is known to be one that this mount does not show."""
        return bool(self._shown.tags) and self._cache.overview.hides(name)

    async def see_whether_shown(self, name: SecretName) -> None:
        """Check that this mount shows a secret, and ask the vault if need be.

        A secret whose current version is not shown has no earlier versions to show either.

        Raises:
            NotFound: the mount does not show it, or there is no such secret.
            Unavailable, trio.TooSlowError: nobody answered.
        """
        if not self._shown.tags:
            return
        try:
            await self.get(Source(name))
        except Refused:
            if self._cache.overview.tags(name) is None:  # it is disabled, and nobody has listed the vault
                raise NotFound("NotShown") from None

    def last(self, source: Source) -> Part | None:
        """The version that was last found, even if it is too old to be served; never waits."""
        record = self._cache.records.get(source.name.key)
        if not source.current or record is None or record.version is None or record.properties is None:
            return self.peek(source)
        if not self.shows(record.properties.tags):
            return None
        now = trio.current_time()
        return Part(
            record.name, record.version, record.properties, record.checked, now, stale=True, source=source
        )

    def peek(self, source: Source) -> Part | None:
        """The version that may be served while nobody answers; never waits."""
        entry = self._cache.peek(source.name)
        if source.current:
            return None if entry is None or not self.shows(entry.properties.tags) else _part(source, entry)
        version = source.version
        if source.previous:
            versions = self._versions.get(source.name.key)
            if versions is None or entry is None or versions.current != entry.version:
                return None
            version = _previous(versions, source.previous)
        part = None if version is None else self._pinned.get((source.name.key, version))
        return None if part is None else self._aged(replace(part, source=source))

    async def get(self, source: Source, uid: int | None = None) -> Part:
        """The version that a source means: fresh, or stale while nobody answers.

        Args:
            source: what is wanted.
            uid: who wants it, as of `Cache.get`.

        Raises:
            NotFound, Refused, Unavailable, trio.TooSlowError: as `Cache.get`; NotFound while there is no such version.
        """
        if source.version is not None:
            return await self._of_version(source, source.version)
        try:
            entry = await self._cache.get(source.name, uid)
        except Refused:
            if self.hides(source.name):
                raise NotFound("NotShown") from None
            raise
        if not self.shows(entry.properties.tags):
            raise NotFound("NotShown")
        if not source.previous:
            return _part(source, entry)
        version = _previous(await self._all_versions(entry), source.previous)
        if version is None:
            raise NotFound("NoPreviousVersion")
        part = await self._of_version(source, version)
        return replace(part, expires=min(part.expires, entry.expires), stale=part.stale or entry.stale)

    def forget(self) -> None:
        """Drop what is known."""
        self._pinned.clear()
        self._versions.clear()

    async def _all_versions(self, entry: Entry) -> _Versions:
        key, now = entry.name.key, trio.current_time()
        known = self._versions.get(key)
        if known is not None and known.current == entry.version:
            if now - known.checked < self._cache.limits.ttl:
                return known
        else:
            known = None
        try:
            items = await self._cache.versions(entry.name)
        except NOBODY_ANSWERED:
            if known is None or judge(known.checked, now, self._cache.limits) is Verdict.GONE:
                raise
            return known
        found = self._versions[key] = _Versions(items, entry.version, now)
        return found

    async def _of_version(self, source: Source, version: Version) -> Part:
        key, now = (source.name.key, version), trio.current_time()
        known = self._pinned.get(key)
        if known is not None and now < known.expires:
            return replace(known, source=source)
        try:
            properties = (await self._cache.version(source.name, version)).properties
        except NOBODY_ANSWERED:
            aged = None if known is None else self._aged(known)
            if aged is None:
                raise
            self._pinned[key] = aged
            return replace(aged, source=source)
        if not self.shows(properties.tags):
            raise NotFound("NotShown")
        part = Part(
            source.name, version, properties, now, now + self._cache.limits.ttl, stale=False, source=source
        )
        self._pinned[key] = part
        return part

    def _aged(self, part: Part) -> Part | None:
        now = trio.current_time()
        verdict = judge(part.checked, now, self._cache.limits)
        if verdict is Verdict.GONE:
            return None
        return part if verdict is Verdict.FRESH else replace(part, expires=now + FAILURE_SECONDS, stale=True)


def _part(source: Source, entry: Entry) -> Part:
    return Part(
        entry.name, entry.version, entry.properties, entry.checked, entry.expires, entry.stale, source
    )


def _previous(versions: _Versions, count: int) -> Version | None:
    """The version `count` places before the current one, in the order of `created`: ids are random."""
    current = next((item for item in versions.items if item.version == versions.current), None)
    newest = None if current is None else current.properties.created
    older = [item for item in versions.items if item.version != versions.current]
    if newest is not None:
        older = [item for item in older if (item.properties.created or 0) <= newest]
    older.sort(key=lambda item: item.properties.created or 0, reverse=True)
    return older[count - 1].version if len(older) >= count else None
