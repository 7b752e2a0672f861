"""What is being asked of the vault, and what becomes of the answers."""

from __future__ import annotations

import contextlib
import hashlib
import os
from functools import partial
from typing import TYPE_CHECKING

import trio

from keyvaultfs.cache import freshness
from keyvaultfs.cache.flight import Flight, Flights
from keyvaultfs.cache.freshness import FAILURE_SECONDS
from keyvaultfs.cache.records import NEVER, Entry, Record
from keyvaultfs.errors import BadAnswer, NotFound, Refused, Unavailable
from keyvaultfs.model import UNREADABLE

if TYPE_CHECKING:
    from keyvaultfs.cache.cache import Cache, SecretSource
    from keyvaultfs.model import Secret, SecretName, Version, VersionItem

NOBODY_ANSWERED = (Unavailable, trio.TooSlowError)
ANSWERED_NO = (NotFound, Refused)


class Fetches:
    """Gets under way, one for each secret at most. True while there are any. Arguments as of `Cache`."""

    def __init__(self, cache: Cache, source: SecretSource, concurrency: int) -> None:
        self._cache = cache
        self._source = source
        self._current: Flights[Entry] = Flights()
        self._by_id: Flights[Secret] = Flights()
        self._versions: Flights[tuple[VersionItem, ...]] = Flights()
        self._background = trio.CapacityLimiter(concurrency)
        self._soon: set[str] = set()
        self._epoch = 0
        self._salt = os.urandom(16)

    def __bool__(self) -> bool:
        return bool(self._current)

    def __contains__(self, key: str) -> bool:
        """Whether a fetch for this folded name is under way or queued."""
        return key in self._soon or key in self._current

    def start(self, record: Record, slots: trio.CapacityLimiter | None = None) -> Flight[Entry]:
        """Fetch the current version now, or when there is room in `slots`, or join who does. Does not wait."""
        return self._current.start(record.name.key, partial(self._fetch, record, slots), self._cache.home())

    def soon(self, record: Record) -> None:
        """Fetch it in the background, when there is room."""
        key = record.name.key
        if key not in self:
            self._soon.add(key)
            self._cache.home().start_soon(self._fetch_in_background, record)

    async def version(self, name: SecretName, version: Version) -> Secret:
        """One version. Raises as `Cache.value`."""
        call = partial(self._fetch_version, name, version)
        return await self._by_id.join((name.key, version), call, self._cache.home())

    async def versions(self, name: SecretName) -> tuple[VersionItem, ...]:
        """All versions of a secret. Raises as `Cache.get`."""
        return await self._versions.join(name.key, partial(self._fetch_versions, name), self._cache.home())

    def distrust(self) -> None:
        """What is on its way is no proof of freshness."""
        self._epoch += 1

    async def _fetch_in_background(self, record: Record) -> None:
        key = record.name.key
        async with self._background:
            if key in self._soon:  # else a reader was faster
                await self.start(record).landed.wait()

    async def _fetch(self, record: Record, slots: trio.CapacityLimiter | None) -> Entry:
        sent, epoch = trio.current_time(), self._epoch
        self._soon.discard(record.name.key)
        try:
            with trio.fail_after(self._cache.limits.timeout):
                async with contextlib.nullcontext() if slots is None else slots:
                    sent = trio.current_time()
                    self._cache.metrics.gets += 1
                    secret = await self._source.get(record.name)
            self._keep(record, secret, sent if epoch == self._epoch else NEVER)
        except ANSWERED_NO as exc:
            self._answered_no(record, exc)
            raise
        except NOBODY_ANSWERED as exc:
            record.verdict, record.verdict_until = exc, trio.current_time() + FAILURE_SECONDS
            self._cache.outage.failed(str(record.name), exc, sent)
            raise
        return record.entry(trio.current_time(), self._cache.limits, retry=FAILURE_SECONDS)

    def _keep(self, record: Record, secret: Secret, sent: float) -> None:
        digest = hashlib.blake2b(secret.value.reveal(), digest_size=16, key=self._salt).digest()
        if record.version == secret.version and record.digest and record.digest != digest:
            raise BadAnswer("VersionChanged")
        racy = freshness.racy(secret)
        if record.version != secret.version:
            self._cache.announce(record, secret.version)
            self._cache.metrics.rotations += record.version is not None
        record.name, record.version, record.properties = secret.name, secret.version, secret.properties
        record.digest, record.checked, record.racy, record.outdated = digest, sent, racy, False
        record.verdict, record.verdict_until, record.hot = None, NEVER, False
        checked = sent + self._cache.shift
        self._cache.store.put(
            secret.name, secret.version, secret.value, secret.properties, racy=racy, checked=checked
        )
        self._cache.metrics.evictions = self._cache.store.evicted
        self._cache.outage.answered(str(record.name), trio.current_time())

    def _answered_no(self, record: Record, exc: Exception) -> None:
        now = trio.current_time()
        if record.version is not None:
            self._cache.metrics.rotations += 1
        self._cache.announce(record, UNREADABLE if isinstance(exc, Refused) else None)
        if record.version is not None:
            self._cache.store.drop(record.name, record.version)
        record.version, record.properties, record.digest, record.hot = None, None, b"", False
        record.verdict, record.verdict_until = exc, now + self._cache.limits.negative_ttl
        self._cache.outage.refused(str(record.name), exc, now)

    async def _fetch_version(self, name: SecretName, version: Version) -> Secret:
        self._cache.metrics.version_gets += 1
        with trio.fail_after(self._cache.limits.timeout):
            secret = await self._source.get_version(name, version)
        record = self._cache.records.get(name.key)
        current = record is not None and record.version == version
        if record is not None and current:
            digest = hashlib.blake2b(secret.value.reveal(), digest_size=16, key=self._salt).digest()
            if record.digest and digest != record.digest:
                raise BadAnswer("VersionChanged")
        checked = record.checked + self._cache.shift if record is not None and current else NEVER
        self._cache.store.put(name, version, secret.value, secret.properties, racy=True, checked=checked)
        return secret

    async def _fetch_versions(self, name: SecretName) -> tuple[VersionItem, ...]:
        with trio.fail_after(self._cache.limits.timeout):
            return await self._source.versions(name)
