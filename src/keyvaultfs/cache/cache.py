"""Secrets with an age. What is promised of it stands in DESIGN §3; all times are of trio's clock."""

from __future__ import annotations

import copy
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

import trio

from keyvaultfs.cache.admission import Admission
from keyvaultfs.cache.fetches import Fetches
from keyvaultfs.cache.freshness import Limits, Verdict, ends
from keyvaultfs.cache.known import ANSWERED_NO, NOBODY_ANSWERED, Known
from keyvaultfs.cache.listings import Listings
from keyvaultfs.cache.lookahead import LookAhead
from keyvaultfs.cache.outage import Outage
from keyvaultfs.cache.overview import Overview
from keyvaultfs.cache.records import Entry, Rotated
from keyvaultfs.cache.refresher import Refresher
from keyvaultfs.errors import NotFound, Unavailable

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence

    from keyvaultfs.cache.records import Record
    from keyvaultfs.cache.source import SecretSource
    from keyvaultfs.cache.values import ValueStore
    from keyvaultfs.log import Causes
    from keyvaultfs.metrics import CacheMetrics
    from keyvaultfs.model import ListItem, Secret, SecretName, SecretValue, Version, VersionItem

__all__ = ["Cache", "Entry", "Limits", "Rotated"]


class Cache:
    """Stands between the kernel's requests and the vault.

    Args:
        source: the vault.
        limits: what is promised.
        rng: for jitter.
        store: the values; what a predecessor left in it is taken over.
        matches: whether a name is to be shown at all.
        shows: whether a secret with these tags is: one that is not is fetched by nobody who was not asked to.
        prefetch: whether a name is to be fetched without being asked for, and kept fresh.
        prefetch_names: names to prefetch that are known without a listing.
        pages_wanted: how many pages of the listing are to be read each `ttl` though nobody asks, as to know which names
            to prefetch. A finite number is a wish: a listing that is longer, or refused, is no matter.
        listed: is told of each listing that was read to its end.
        held: names and versions that others still hold on to.
        let_go: asks them to, best effort.
        concurrency: how many fetches that nobody waits for may be under way.
        monotonic: the clock that outlives this process, for times in `store`.
    """

    def __init__(
        self,
        source: SecretSource,
        limits: Limits,
        *,
        metrics: CacheMetrics,
        causes: Causes,
        rng: random.Random,
        store: ValueStore,
        matches: Callable[[SecretName], bool] = lambda _: True,
        shows: Callable[[Mapping[str, str]], bool] = lambda _: True,
        prefetch: Callable[[SecretName], bool] = lambda _: False,
        prefetch_names: tuple[SecretName, ...] = (),
        pages_wanted: Callable[[], float] = lambda: 0,
        listed: Callable[[Sequence[ListItem]], None] = lambda _: None,
        held: Callable[[], Collection[tuple[SecretName, Version]]] = tuple,
        let_go: Callable[[SecretName], None] = lambda _: None,
        concurrency: int = 14,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self.metrics = metrics
        self.store = store
        self.outage = Outage(causes)
        self._known = Known(limits, store, metrics, monotonic() - trio.current_time())
        self.records = self._known.records
        self.rotated = self._known.rotated
        self._nursery: trio.Nursery | None = None
        self.listings = Listings(self._known, source, self.outage, self._home, matches)
        self.listings.on_listed = listed
        self.overview = Overview(self._known, self.listings, self.outage, matches, shows)
        self._fetches = Fetches(
            self._known, source, self.outage, self._home, concurrency=concurrency, hidden=self.overview.hides
        )
        self.admission = Admission(limits, self.listings, causes, concurrency)
        self._matches = matches
        self._prefetch = prefetch
        self._look_ahead = LookAhead(self._known, self.listings, self._fetches, self.overview.shows)
        self._refresher = Refresher(
            self._known,
            self.listings,
            self._fetches,
            self.outage,
            self.admission,
            rng=rng,
            held=held,
            let_go=let_go,
            prefetch=prefetch,
            shows=shows,
            prefetch_names=prefetch_names,
            pages_wanted=pages_wanted,
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the fetches, and refresh ahead. Runs until cancelled; nothing is fetched before it has started."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await self._refresher.run()

    async def get(self, name: SecretName, uid: int | None = None) -> Entry:
        """The current version of a secret: fresh, or stale while nobody answers. It is hot from now on.

        Args:
            name: of the secret.
            uid: who wants it: of names that nobody knows each user may ask for some a second.

        Raises:
            Busy: for a name of which nothing is known, when too many such are asked for.
            NotFound, Refused: the vault says so, or said so a moment ago.
            Unavailable, trio.TooSlowError: nobody answered, and there is nothing to serve.
        """
        if not self._matches(name):
            raise NotFound("NotShown")
        slots = None
        if uid is not None and self._is_unknown(name):
            slots = await self.admission.admit(name, uid, refused=self._known.was_refused(name))
        now = trio.current_time()
        record = self._known.record(name)
        record.touch(now)
        state = record.state(now, self.limits)
        remembered = record.verdict if now < record.verdict_until else None
        if isinstance(remembered, ANSWERED_NO):
            raise copy.copy(remembered) from None
        if state is Verdict.FRESH:
            self.metrics.hits += 1
            self._look_ahead.asked(record, missed=False)
            return self._known.entry(record, now)
        if remembered is not None:
            return self._stale_or(record, remembered)
        return await self._ask(
            record, in_outage=state is Verdict.STALE and bool(self.outage), slots=slots, uid=uid
        )

    async def _ask(
        self, record: Record, *, in_outage: bool, slots: trio.CapacityLimiter | None, uid: int | None
    ) -> Entry:
        """What the vault says of a name, or what is served since nobody answers."""
        self.metrics.misses += 1
        if in_outage and self._fetches:  # one request at a time finds out whether anybody answers again
            return self._stale_or(record, Unavailable("Outage"))
        if in_outage:
            self._fetches.start(record, slots)
            return self._stale_or(record, Unavailable("Outage"))
        self._look_ahead.asked(record, missed=True)
        begin = trio.current_time()
        flight = await self._fetches.landed(record, slots)
        if slots is not None and uid is not None:
            self.admission.answered(uid, flight.failure, begin)
        if flight.result is not None:
            return flight.result
        failure = flight.failure or Unavailable("Interrupted")
        if isinstance(failure, NOBODY_ANSWERED):
            return self._stale_or(record, failure)
        raise copy.copy(failure) from None

    def peek(self, name: SecretName) -> Entry | None:
        """What is known and may be served while nobody answers. Never waits, and makes nothing hot."""
        record = self.records.get(name.key)
        now = trio.current_time()
        if record is None or record.state(now, self.limits) is Verdict.GONE:
            return None
        return self._known.entry(record, now)

    def refused(self, name: SecretName) -> Entry:
        """What stands for a name after `get` raised Refused, for as long as that is remembered."""
        return self._known.refused(name, trio.current_time())

    def fresh(self, name: SecretName, now: float) -> Record | None:
        """What is known, if it may be served without asking anybody. Never waits, and makes nothing hot.

        Apart from `peek`, since each warm look-up and open asks this.
        """
        return self._known.fresh(name, now)

    def left(self, record: Record, now: float) -> float:
        """Seconds for which a fresh one stays so."""
        return ends(record.checked, self.limits) - now

    def hit(self, record: Record, now: float) -> None:
        """Somebody looked it up and was content with what `fresh` said."""
        self.metrics.hits += 1
        record.touch(now)
        self._look_ahead.asked(record, missed=False)

    def touch(self, name: SecretName) -> None:
        """Somebody opens it: it is hot."""
        record = self.records.get(name.key)
        if record is not None:
            record.touch(trio.current_time())

    async def value(self, name: SecretName, version: Version) -> SecretValue:
        """The bytes of a version, fetched by its id when they have left memory.

        Raises:
            NotFound, Refused, Unavailable, trio.TooSlowError: as `get`.
        """
        kept = self.store.get(name, version)
        if kept is not None:
            return kept
        return (await self._fetches.version(name, version)).value

    async def version(self, name: SecretName, version: Version) -> Secret:
        """One version, asked for by its id: no permission but ``get`` is needed, and the current one is not asked for.

        Raises:
            NotFound, Refused, Unavailable, trio.TooSlowError: as `get`.
        """
        if not self._matches(name):
            raise NotFound("NotShown")
        return await self._fetches.version(name, version)

    def peek_value(self, name: SecretName, version: Version) -> SecretValue | None:
        """As `value`, and None where that would wait."""
        return self.store.get(name, version)

    def is_disabled(self, name: SecretName) -> bool:
        """Whether the vault's last word on it was that it is switched off."""
        return self._known.is_disabled(name)

    async def versions(self, name: SecretName) -> tuple[VersionItem, ...]:
        """All versions of a secret, asked of the vault each time."""
        if not self._matches(name):
            raise NotFound("NotShown")
        return await self._fetches.versions(name)

    async def listing(self) -> AsyncGenerator[tuple[ListItem, ...], None]:
        """All names, page by page while they come.

        Raises:
            Refused: listing is not allowed.
            Unavailable, trio.TooSlowError: nobody answered, and no listing is known.
        """
        async with aclosing(self.listings.stream()) as pages:
            async for page in pages:
                yield page

    def forget(self) -> dict[str, int]:
        """Drop everything; the next read asks the vault. Returns how much of what was dropped."""
        self._fetches.distrust()
        return self._known.forget() | {"listings": self.listings.forget()}

    def expire(self) -> None:
        """Everything must be checked before it is served again, as after a suspended machine woke."""
        self._known.expire(trio.current_time())
        self.listings.expire()
        self._fetches.distrust()

    def lacks(self, name: SecretName) -> bool:
        """Whether the vault's last word on a name was that it has no such secret."""
        record = self.records.get(name.key)
        return record is not None and isinstance(record.verdict, NotFound)

    def follows(self, name: SecretName) -> bool:
        """Whether a name's version is known, so that `rotated` tells of its changes."""
        record = self.records.get(name.key)
        return record is not None and record.version is not None

    def verify(self, name: SecretName) -> None:
        """Ask for a name that the listing lacks: names may move between its pages."""
        self._fetches.soon(self._known.record(name))

    def _home(self) -> trio.Nursery:
        assert self._nursery is not None, "run() has not started"
        return self._nursery

    def _is_unknown(self, name: SecretName) -> bool:
        """Whether a look-up of it would ask the vault for the sake of this name alone, and may do so in vain."""
        record = self.records.get(name.key)
        if record is None:
            return not self._prefetch(name)
        remembered = record.version is not None or trio.current_time() < record.verdict_until
        return not remembered and name.key not in self._fetches and not self._prefetch(name)

    def _stale_or(self, record: Record, failure: Exception) -> Entry:
        now = trio.current_time()
        if record.state(now, self.limits) is Verdict.GONE:
            raise copy.copy(failure) from None
        entry = self._known.entry(record, now)
        self.metrics.stale_served += entry.stale
        return entry
