"""The vault's listing: read once for all who want it at the same time, and kept for `list_ttl`."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import TYPE_CHECKING

import trio

from keyvaultfs.cache import freshness
from keyvaultfs.cache.freshness import FAILURE_SECONDS, Verdict
from keyvaultfs.cache.known import NOBODY_ANSWERED
from keyvaultfs.cache.listing import Listing
from keyvaultfs.errors import BadAnswer, Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Sequence

    from keyvaultfs.cache.known import Known
    from keyvaultfs.cache.outage import Outage
    from keyvaultfs.cache.source import SecretSource
    from keyvaultfs.model import ListItem, SecretName


_MOST_READINGS = 4
"""At the same time: those that take long, and one that began later. A vault may make each of them last for days."""


class Listings:
    """The names of the vault, for readers and for the refresher.

    Args:
        known: names of which something is known.
        source: the vault.
        outage: is told whether anybody answers.
        home: the nursery in which a reading runs, whoever wants it.
        matches: whether a name is to be shown at all.

    Attributes:
        last: the last whole one.
        reading: the one that is being read.
        verdict: why there was none, and until when that is remembered.
        heard: is told each line, with the time at which its page was asked for.
        heard_all: is told of a whole listing.
        on_listed: called with what is shown of each whole listing.
    """

    def __init__(
        self,
        known: Known,
        source: SecretSource,
        outage: Outage,
        home: Callable[[], trio.Nursery],
        matches: Callable[[SecretName], bool],
    ) -> None:
        self.last: Listing | None = None
        self.reading: Listing | None = None
        self.verdict: tuple[Exception, float] | None = None
        self.heard: Callable[[ListItem, float], None] = lambda _item, _sent: None
        self.heard_all: Callable[[Listing], None] = lambda _listing: None
        self.on_listed: Callable[[Sequence[ListItem]], None] = lambda _items: None
        self._known = known
        self._limits = known.limits
        self._source = source
        self._outage = outage
        self._metrics = known.metrics
        self._home = home
        self._matches = matches
        self._most = 0
        self._epoch = 0
        self._under_way = 0
        self._untold: Exception | None = None

    async def stream(self) -> AsyncGenerator[tuple[ListItem, ...], None]:
        """See `Cache.listing`. A listing that is still good comes as one page, which is the same object each time."""
        now = trio.current_time()
        old = self.last
        state = Verdict.GONE if old is None else self._judge(old, now)
        if old is not None and state is Verdict.FRESH:
            old.proof = old.began
            if old.shown is None:
                old.shown = self._shown(old.items)
            yield old.shown
            return
        if state is Verdict.GONE:
            old = None
        given: set[str] = set()
        try:
            if self.verdict is not None and now < self.verdict[1]:
                self._tell_late()
                raise copy.copy(self.verdict[0]) from None
            reading = self.start()
            if not (self._outage and old is not None):
                async for page in reading.stream():
                    given.update(item.name.key for item in page)
                    yield self._shown(page)
                return
        except NOBODY_ANSWERED:
            if old is None:
                raise
        assert old is not None
        self._metrics.stale_served += 1
        yield self._shown([item for item in old.items if item.name.key not in given])

    def start(self, worth: float = math.inf, *, quiet: bool = False) -> Listing:
        """The reading that is under way, or a new one; given up after `worth` pages.

        Args:
            quiet: whether nobody is to hear of a refusal.
        """
        now = trio.current_time()
        if self.reading is None or self.reading.given_up or self._is_old(self.reading, now):
            self.reading = Listing(now, worth)
            self._under_way += 1
            self._home().start_soon(self._read, self.reading)
        self.reading.worth = max(self.reading.worth, worth)
        self.reading.quiet = self.reading.quiet and quiet
        if not quiet:
            self.reading.proof = self.reading.began
        return self.reading

    def _is_old(self, reading: Listing, now: float) -> bool:
        """Whether who asks now shall not have to do with a reading that is under way."""
        old = now - reading.began >= max(1.0, self._limits.list_ttl)
        return old and self._under_way < _MOST_READINGS

    def names_known(self) -> int:
        """How many names the vault has, as far as listings and gets have shown."""
        return max(len(self._known.records), self._most)

    @property
    def size(self) -> int:
        """How many names the vault had when it was last listed, at least; 0 if it never was."""
        return self._most

    def usable(self, now: float) -> bool:
        """Whether a reading is worth a try."""
        return not self.unusable(now) and (self.verdict is None or now >= self.verdict[1])

    def unusable(self, now: float) -> bool:
        """Whether listing was refused, or answered with nonsense, less than a ttl ago: an outage passes sooner."""
        if self.verdict is None or not isinstance(self.verdict[0], Refused | BadAnswer):
            return False
        return now < self.verdict[1] + self._limits.ttl

    def forget(self) -> int:
        """Drop what is known; returns how many listings that were."""
        dropped = int(self.last is not None)
        self.last = self.verdict = self.reading = None
        self._epoch += 1
        return dropped

    def expire(self) -> None:
        """What is known must be checked before it is shown again; what is on its way proves nothing."""
        self.verdict = self.reading = None
        if self.last is not None:
            self.last.began = min(self.last.began, trio.current_time() - self._limits.list_ttl)
            self.last.proof = -math.inf
        self._epoch += 1

    async def _read(self, reading: Listing) -> None:
        try:
            await reading.read(
                self._source.pages(), self._limits.timeout, partial(self._on_page, self._epoch)
            )
        finally:
            self._under_way -= 1
        now = trio.current_time()
        current = self.reading is reading
        if current:
            self.reading = None
        if reading.given_up:  # it has one more page at least
            self._most = max(self._most, len(reading.items) + freshness.PAGE)
            self._outage.answered("the listing", now)
            return
        if reading.complete:
            self._most = len(reading.items)
            self._outage.answered("the listing", now)
            if current:
                if self.last is not None:
                    reading.proof = max(reading.proof, self.last.proof)
                self.last, self.verdict = reading, None
                self.heard_all(reading)
                self.on_listed(self._shown(reading.items))
            return
        failure = reading.failure or Unavailable("Interrupted")
        if isinstance(failure, NOBODY_ANSWERED):
            self._outage.failed("the listing", failure, reading.began)
            self.verdict = (failure, now + FAILURE_SECONDS)
        else:
            self._untold = failure if reading.quiet else None
            if not reading.quiet:
                self._outage.refused("the listing", failure, now)
            self.verdict = (failure, now + self._limits.negative_ttl)

    def _tell_late(self) -> None:
        """Somebody meets what is remembered: a refusal on which nothing depended is told of from now on."""
        untold, self._untold = self._untold, None
        if untold is not None:
            self._outage.recalled("the listing", untold)

    def _judge(self, listing: Listing, now: float) -> Verdict:
        return freshness.judge(listing.began, now, self._limits, lasts=self._limits.list_ttl)

    def _on_page(self, epoch: int, page: tuple[ListItem, ...], sent: float) -> None:
        self._metrics.list_pages += 1
        if epoch == self._epoch:
            for item in page:
                if self._matches(item.name):
                    self.heard(item, sent)

    def _shown(self, items: Collection[ListItem]) -> tuple[ListItem, ...]:
        """Without disabled secrets: a program that walks a directory would fail at a file that it cannot read."""
        return tuple(item for item in items if item.properties.enabled and self._matches(item.name))
