"""Refresh ahead: one listing checks all names, or single gets where that is cheaper or the listing is forbidden."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from keyvaultfs.cache import freshness

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Collection, Mapping

    from keyvaultfs.cache.admission import Admission
    from keyvaultfs.cache.fetches import Fetches
    from keyvaultfs.cache.known import Known
    from keyvaultfs.cache.listing import Listing
    from keyvaultfs.cache.listings import Listings
    from keyvaultfs.cache.outage import Outage
    from keyvaultfs.cache.records import Record
    from keyvaultfs.model import ListItem, SecretName, Version

_SHORTEST_TICK, _LONGEST_TICK = 0.02, 5.0
_TICKS_PER_TTL = 100
_SWEEP_TICKS = 10
_OUTAGE_SECONDS = 1.0


class Refresher:
    """Checks what is hot, held or prefetched before it expires.

    Args:
        known: names, and what is known of them.
        listings: is read where that is cheaper than single gets; what it shows is acted on here.
        fetches: asks for single names.
        outage: while there is one, a request at a time is enough.
        admission: is swept with the rest.
        rng: for jitter.
        held: names and versions that others still hold on to.
        let_go: asks them to, best effort.
        prefetch: whether a name is to be fetched without being asked for, and kept fresh.
        shows: whether a secret with these tags is.
        prefetch_names: names to prefetch that are known without a listing.
        pages_wanted: as of `Cache`.
    """

    def __init__(
        self,
        known: Known,
        listings: Listings,
        fetches: Fetches,
        outage: Outage,
        admission: Admission,
        *,
        rng: random.Random,
        held: Callable[[], Collection[tuple[SecretName, Version]]],
        let_go: Callable[[SecretName], None],
        prefetch: Callable[[SecretName], bool],
        shows: Callable[[Mapping[str, str]], bool],
        prefetch_names: tuple[SecretName, ...],
        pages_wanted: Callable[[], float],
    ) -> None:
        self._known = known
        self._limits = known.limits
        self._listings = listings
        self._fetches = fetches
        self._outage = outage
        self._admission = admission
        self._held = held
        self._let_go = let_go
        self._prefetch = prefetch
        self._shows = shows
        self._prefetch_names = prefetch_names
        self._pages_wanted = pages_wanted
        self._rng = rng
        # Rounds begin at a random moment of the mount's life, so that machines booted together, or cut off together,
        # do not come together from then on.
        self._round = trio.current_time() + rng.uniform(0, self._limits.ttl)
        self._tick = min(_LONGEST_TICK, max(_SHORTEST_TICK, self._limits.ttl / _TICKS_PER_TTL))
        self._released: set[str] = set()
        self._next_try = -1.0
        listings.heard, listings.heard_all = self.listed, self.listed_all

    async def run(self) -> None:
        """Check whatever is due, again and again. Runs until cancelled."""
        for name in self._prefetch_names:
            self._fetches.soon(self._known.record(name))
        ticks = 0
        while True:
            self._refresh(trio.current_time())
            if ticks % _SWEEP_TICKS == 0:
                self._sweep(trio.current_time())
            ticks += 1
            await trio.sleep(self._tick)

    def listed(self, item: ListItem, sent: float) -> None:
        """Take in a line of a listing, whose page was asked for at `sent`."""
        record = self._known.records.get(item.name.key)
        if record is None or record.version is None or record.properties is None:
            if record is not None:
                self._known.is_there(record, item, sent)
            properties = item.properties
            if properties.enabled and self._prefetch(item.name) and self._shows(properties.tags):
                self._fetch_unless_refused(self._known.record(item.name), sent)
            return
        if record.checked >= sent:
            return
        wanted = record.hot or self._prefetch(item.name)
        if freshness.changed(record.properties, item.properties):
            # Where nobody is about to read it the change is announced without a value: the next look-up fetches it.
            self._known.is_changed(record, tell=not wanted, updated=item.properties.updated)
            if wanted:
                self._fetches.soon(record)
        elif record.racy and (wanted or record.name.key in self._held_names()):
            self._fetches.soon(record)
        elif not record.racy:
            self._known.is_unchanged(record, sent)
            if wanted and not freshness.readable(record.got, record.version, sent, self._limits):
                self._fetches.soon(record)

    def listed_all(self, listing: Listing) -> None:
        """Take in the end of a listing. Names that it lacks are asked for singly: they may have moved between pages."""
        if trio.current_time() >= self._round:
            lead = freshness.lead(self._limits.ttl, self._rng)
            self._round = freshness.ends(listing.began, self._limits) - lead
        held = self._held_names()
        for record in tuple(self._known.records.values()):
            key = record.name.key
            if record.version is None or key in listing.positions or record.checked >= listing.began:
                continue
            if record.hot or key in held or self._prefetch(record.name):
                self._fetches.soon(record)
            else:
                self._known.is_changed(record, tell=False)

    def _refresh(self, now: float) -> None:
        if self._outage and now < self._next_try:
            return
        ttl, in_round = self._limits.ttl, now >= self._round
        then = freshness.ends(now, self._limits) - freshness.lead(ttl, self._rng) if in_round else now
        # What is fresh no longer at `horizon` is checked now. In a round that is all that would end before the next.
        horizon = then + freshness.shortest_lead(ttl)
        due = self._due(now, horizon)
        unusable = self._listings.unusable(now)
        wanted = self._pages_wanted()
        list_due = wanted > 0 and not unusable and self._listing_is_due(horizon)
        if not due and not list_due:
            self._round = max(self._round, then)
            return
        self._next_try = now + _OUTAGE_SECONDS
        saved = self._renewed_by_a_listing()
        if list_due or (not unusable and freshness.listing_is_cheaper(saved, self._listings.names_known())):
            verdict = self._listings.verdict
            if verdict is None or now >= verdict[1]:
                self._start_listing(wanted if list_due else 0, saved)
            return
        self._round = max(self._round, then)
        for record in due[:1] if self._outage else due:
            if (
                unusable
                and not record.hot
                and not self._prefetch(record.name)
                and record.name.key not in self._released
            ):
                # It may be held only because the kernel caches it. So the kernel is asked to let it go; if it is still
                # held next time, somebody watches it or has it open, and it is worth a request.
                self._released.add(record.name.key)
                self._let_go(record.name)
                continue
            self._fetches.soon(record)

    def _start_listing(self, wanted: float, saved: float) -> None:
        # What nothing depends on is not complained of when it is refused.
        wish = 0 < wanted < math.inf
        wish = wish and not freshness.listing_is_cheaper(int(saved), self._listings.names_known())
        self._listings.start(max(wanted, saved), quiet=wish)

    def _due(self, now: float, horizon: float) -> list[Record]:
        """What must be checked now so that it is not older than `ttl` when it is."""
        held = self._held_names()
        for key, name in held.items():
            if key not in self._known.records:  # of a predecessor whose values had left memory
                self._known.record(name)
        limit = freshness.ended(horizon, self._limits)
        due = []
        for key, record in self._known.records.items():
            if record.hot and key in self._released:
                self._released.discard(key)
            if now < record.verdict_until or (record.checked > limit and not record.outdated):
                continue
            if record.outdated and not (record.hot or self._prefetch(record.name)):
                continue  # it was announced: the next look-up fetches it
            if self._is_wanted(record, held):
                due.append(record)
        return due

    def _renewed_by_a_listing(self) -> int:
        """How many single gets, now or later in this ttl, one listing saves."""
        held = self._held_names()
        return sum(self._is_wanted(record, held) for record in self._known.records.values())

    def _is_wanted(self, record: Record, held: Collection[str]) -> bool:
        """Whether it is checked ahead of time. Any other name is checked by the next look-up of it."""
        known = record.version is not None
        if record.name.key in held and (known or record.verdict is None):
            return True
        return (known and record.hot) or (
            self._prefetch(record.name) and (known or record.verdict is not None)
        )

    def _listing_is_due(self, horizon: float) -> bool:
        listing = self._listings.last
        return listing is None or freshness.ends(listing.began, self._limits) <= horizon

    def _fetch_unless_refused(self, record: Record, now: float) -> None:
        if now >= record.verdict_until:
            self._fetches.soon(record)

    def _held_names(self) -> dict[str, SecretName]:
        return {name.key: name for name, _ in self._held()}

    def _sweep(self, now: float) -> None:
        """Let go of what nobody needs any more."""
        self._admission.sweep(now)
        held = {(name.key, version) for name, version in self._held()}
        names = {key for key, _ in held}
        for key, record in tuple(self._known.records.items()):
            if self._known.is_over(record, now) and key not in names and key not in self._fetches:
                self._known.let_go(record)
                self._released.discard(key)
        self._known.let_go_versions(held)
