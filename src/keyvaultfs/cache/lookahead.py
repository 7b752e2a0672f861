"""What a reader who goes through the listing will ask for next is fetched before he does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from keyvaultfs.cache.freshness import Verdict
from keyvaultfs.cache.readahead import ReadAhead

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyvaultfs.cache.fetches import Fetches
    from keyvaultfs.cache.known import Known
    from keyvaultfs.cache.listings import Listings
    from keyvaultfs.cache.records import Record
    from keyvaultfs.model import ListItem


class LookAhead:
    """Has names fetched that are next in the listing.

    Args:
        shows: whether a line of the listing is shown.
    """

    def __init__(
        self, known: Known, listings: Listings, fetches: Fetches, shows: Callable[[ListItem], bool]
    ) -> None:
        self._known = known
        self._listings = listings
        self._fetches = fetches
        self._shows = shows
        self._read_ahead = ReadAhead()

    def asked(self, record: Record, *, missed: bool) -> None:
        """Somebody asked for a name; whether that took a request."""
        listing = self._listings.reading or self._listings.last
        position = None if listing is None else listing.positions.get(record.name.key)
        if listing is None or position is None:
            return
        now = trio.current_time()
        for place in self._read_ahead.asked(position, missed=missed, end=len(listing.items)):
            item = listing.items[place]
            ahead = self._known.record(item.name)
            known = ahead.state(now, self._known.limits) is Verdict.FRESH or now < ahead.verdict_until
            known = known or self._known.was_refused(item.name)
            if self._shows(item) and item.properties.enabled and not known:
                self._fetches.soon(ahead)
