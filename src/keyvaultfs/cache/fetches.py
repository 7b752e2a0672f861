"""The requests for secrets that are under way: one for each secret at most, each with a deadline of its own."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

import trio

from keyvaultfs import threads
from keyvaultfs.cache.flight import Flight, Flights
from keyvaultfs.cache.known import ANSWERED_NO, NOBODY_ANSWERED
from keyvaultfs.cache.records import NEVER, Entry, Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyvaultfs.cache.known import Known
    from keyvaultfs.cache.outage import Outage
    from keyvaultfs.cache.source import SecretSource
    from keyvaultfs.model import Secret, SecretName, Version, VersionItem


_MOST_OF_IT = 0.9
"""Of a fetch's `timeout`."""


class Fetches:
    """Gets under way. True while there are any of a current version.

    Args:
        known: is told what comes of them.
        source: the vault.
        outage: is told whether anybody answers.
        home: the nursery in which they run, whoever wants them.
        concurrency: how many may be under way that nobody waits for.
        hidden: whether a secret is known to be none of this mount's.
    """

    def __init__(
        self,
        known: Known,
        source: SecretSource,
        outage: Outage,
        home: Callable[[], trio.Nursery],
        *,
        concurrency: int,
        hidden: Callable[[SecretName], bool],
    ) -> None:
        self._known = known
        self._source = source
        self._outage = outage
        self._metrics = known.metrics
        self._home = home
        self._hidden = hidden
        self._current: Flights[Entry] = Flights()
        self._by_id: Flights[Secret] = Flights()
        self._versions: Flights[tuple[VersionItem, ...]] = Flights()
        self._background = trio.CapacityLimiter(concurrency)
        self._soon: set[str] = set()
        self._epoch = 0

    def __bool__(self) -> bool:
        return bool(self._current)

    def __contains__(self, key: str) -> bool:
        """Whether a fetch for this folded name is under way or queued."""
        return key in self._soon or key in self._current

    def start(self, record: Record, slots: trio.CapacityLimiter | None = None) -> Flight[Entry]:
        """Fetch the current version now, or when there is room in `slots`, or join who does. Does not wait."""
        return self._current.start(record.name.key, partial(self._fetch, record, slots), self._home())

    async def landed(self, record: Record, slots: trio.CapacityLimiter | None) -> Flight[Entry]:
        """As `start`, and wait for what comes of it."""
        key = record.name.key
        if self._end() < trio.current_time() + self._known.limits.timeout * _MOST_OF_IT:
            flight = self.start(record, slots)  # who cannot wait to the end would end it for others
            await flight.landed.wait()
            return flight
        return await self._current.lead(key, partial(self._fetch, record, slots), self._home())

    def soon(self, record: Record) -> None:
        """Fetch it in the background, when there is room."""
        key = record.name.key
        if key not in self:
            self._soon.add(key)
            self._home().start_soon(self._fetch_in_background, record)

    async def version(self, name: SecretName, version: Version) -> Secret:
        """One version. Raises as `Cache.value`."""
        call = partial(self._fetch_version, name, version)
        return await self._by_id.join((name.key, version), call, self._home())

    async def versions(self, name: SecretName) -> tuple[VersionItem, ...]:
        """All versions of a secret. Raises as `Cache.get`."""
        return await self._versions.join(name.key, partial(self._fetch_versions, name), self._home())

    def distrust(self) -> None:
        """Answers that are on their way prove no freshness: they may be older than the doubt."""
        self._epoch += 1

    async def _fetch_in_background(self, record: Record) -> None:
        key = record.name.key
        async with self._background:
            if key in self._soon:  # else a reader was faster
                await self.start(record).landed.wait()

    async def _fetch(self, record: Record, slots: trio.CapacityLimiter | None) -> Entry:
        sent, epoch, name = trio.current_time(), self._epoch, str(record.name)
        end = self._end()
        self._soon.discard(record.name.key)
        try:
            with trio.fail_at(end):
                async with contextlib.nullcontext() if slots is None else threads.Slot(slots):
                    sent = trio.current_time()
                    self._metrics.gets += 1
                    secret = await self._source.get(record.name)
            self._known.is_current(record, secret, sent if epoch == self._epoch else NEVER)
        except ANSWERED_NO as exc:
            self._known.answered_no(record, exc, trio.current_time())
            if self._hidden(record.name):  # that it is refused is no trouble of this mount, and is not told
                self._outage.answered(name, trio.current_time())
            else:
                self._outage.refused(name, exc, trio.current_time())
            raise
        except NOBODY_ANSWERED as exc:
            self._nobody_answered(record, exc, sent)
            raise
        except trio.Cancelled:
            if trio.current_time() >= end:  # it was the caller's as well
                self._nobody_answered(record, trio.TooSlowError(), sent)
            raise
        self._outage.answered(str(record.name), trio.current_time())
        return self._known.entry(record, trio.current_time())

    def _nobody_answered(self, record: Record, exc: Exception, sent: float) -> None:
        self._known.nobody_answered(record, exc, trio.current_time())
        self._outage.failed(str(record.name), exc, sent)

    def _end(self) -> float:
        """When a fetch ends that begins now."""
        return min(trio.current_time() + self._known.limits.timeout, trio.current_effective_deadline())

    async def _fetch_version(self, name: SecretName, version: Version) -> Secret:
        self._metrics.version_gets += 1
        with trio.fail_after(self._known.limits.timeout):
            secret = await self._source.get_version(name, version)
        self._known.is_a_version(secret)
        return secret

    async def _fetch_versions(self, name: SecretName) -> tuple[VersionItem, ...]:
        with trio.fail_after(self._known.limits.timeout):
            return await self._source.versions(name)
