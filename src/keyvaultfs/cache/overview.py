"""What is known of the vault's secrets as a whole: for ``status`` and ``metrics``, and for who looks at their tags."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import trio

from keyvaultfs.cache.freshness import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keyvaultfs.cache.known import Known
    from keyvaultfs.cache.listings import Listings
    from keyvaultfs.cache.outage import Outage
    from keyvaultfs.model import ListItem, SecretName


class Overview:
    """Looks, and changes nothing.

    Args:
        matches, shows: as of `Cache`.
    """

    def __init__(
        self,
        known: Known,
        listings: Listings,
        outage: Outage,
        matches: Callable[[SecretName], bool],
        shows: Callable[[Mapping[str, str]], bool],
    ) -> None:
        self._known = known
        self._listings = listings
        self._outage = outage
        self._matches = matches
        self._shows = shows

    def shows(self, item: ListItem) -> bool:
        """Whether a line of the vault's listing is shown, as far as its name and its tags go."""
        return self._matches(item.name) and self._shows(item.properties.tags)

    def expiries(self) -> dict[str, int]:
        """When secrets expire (Unix seconds), by name: of those that do, as far as listings and gets have told."""
        found = (
            {}
            if self._listings.last is None
            else {
                str(item.name): item.properties.expires
                for item in self._listings.last.items
                if item.properties.expires is not None and self.shows(item)
            }
        )
        for record in self._known.records.values():
            if record.properties is not None:
                found.pop(str(record.name), None)
                if record.properties.expires is not None and self._shows(record.properties.tags):
                    found[str(record.name)] = record.properties.expires
        return found

    def taken(self) -> int:
        """How many secrets could be read and are refused now, as far as anybody has asked for them of late."""
        return sum(record.taken for record in self._known.records.values())

    def hides(self, name: SecretName) -> bool:
        """Whether a secret is known to have tags of one that is not to be shown."""
        tags = self.tags(name)
        return tags is not None and not self._shows(tags)

    def tags(self, name: SecretName) -> Mapping[str, str] | None:
        """A secret's tags, as they were last heard of; None when they never were."""
        record, listing = self._known.records.get(name.key), self._listings.last
        if record is not None and record.properties is not None and not record.outdated:
            return record.properties.tags
        position = None if listing is None else listing.positions.get(name.key)
        return None if listing is None or position is None else listing.items[position].properties.tags

    def snapshot(self) -> dict[str, Any]:
        """For the files ``status`` and ``metrics``; never a value.

        Ages in seconds; ``answered`` is the age of the vault's last answer, None if it never answered.
        """
        now = trio.current_time()
        states = self._known.states(now)
        listing = self._listings.last
        return {
            "names": len(states),
            "fresh": states.count(Verdict.FRESH),
            "stale": states.count(Verdict.STALE),
            "hot": sum(record.hot for record in self._known.records.values()),
            "values": len(self._known.store),
            "bytes": self._known.store.live,
            "evicted": self._known.store.evicted,
            "listed": None if listing is None else len(listing.items),
            "listing_age": None if listing is None else round(now - listing.began, 1),
            "outage": bool(self._outage),
            "answered": None
            if math.isinf(self._outage.last_answer)
            else round(now - self._outage.last_answer, 1),
        }
