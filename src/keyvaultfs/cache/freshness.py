"""The rules of time, as functions of it: no clock, no I/O."""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import random

    from keyvaultfs.model import Properties, Secret, Version

PAGE = 25
"""Items on a page of the listing (PROTOCOL §3)."""

FAILURE_SECONDS = 1.0
"""How long a failure is remembered: the kernel repeats a failed revalidation at once."""

_RACY_SECONDS = 2.0
_READABLE_TTLS, _READABLE_SECONDS = 16.0, 4800.0


class Limits(NamedTuple):
    """What is promised. Times in seconds, `max_cache` in bytes."""

    ttl: float = 300.0
    list_ttl: float = 60.0
    negative_ttl: float = 5.0
    max_stale: float = 86400.0
    max_cache: int = 64 << 20
    timeout: float = 10.0


class Verdict(Enum):
    """What an age means."""

    FRESH = "fresh"
    STALE = "stale"
    GONE = "gone"


def ends(checked: float, limits: Limits) -> float:
    """Until when something checked at `checked` is fresh."""
    return checked + limits.ttl


def ended(now: float, limits: Limits) -> float:
    """The latest time of a check that no longer makes anything fresh."""
    return now - limits.ttl


def judge(checked: float, now: float, limits: Limits, *, lasts: float | None = None) -> Verdict:
    """Whether something checked at `checked` may be served: always, only while nobody answers, or no more.

    Args:
        checked: in seconds.
        now: in seconds of the same clock.
        limits: what is promised.
        lasts: how long it is fresh, where that is not `ttl`.
    """
    end = ends(checked, limits) if lasts is None else checked + lasts
    if now < end:
        return Verdict.FRESH
    return Verdict.STALE if now < end + limits.max_stale else Verdict.GONE


def changed(known: Properties, listed: Properties) -> bool:
    """Whether the listing says that a secret is not what it was; any other `updated` does, an older one too."""
    return known.updated != listed.updated or known.enabled != listed.enabled


def racy(secret: Secret) -> bool:
    """Whether an equal `updated` proves nothing, since it has whole seconds.

    The value may have been replaced in the second in which it was read. Both times are of the vault's own clock; a date
    is cut to its second, and so one second's difference is not enough.
    """
    updated = secret.properties.updated
    return updated is None or secret.answered is None or secret.answered - updated < _RACY_SECONDS


def readable(got: float, version: Version, now: float, limits: Limits) -> bool:
    """Whether it may be taken for granted that a value that was got at `got` is still given to us.

    A listing does not tell: who may list may have lost the right to read. So each is asked for again after 16 to 24
    times `ttl`, but no sooner than after 80 minutes: that shall cost nothing beside the listings. Its version's id,
    which is random, says after how long, so that they do not all come together.
    """
    chance = int(version[:4], 16) / (1 << 16)
    return now - got < max(limits.ttl * _READABLE_TTLS, _READABLE_SECONDS) * (1 + chance / 2)


def lead(ttl: float, rng: random.Random) -> float:
    """How long before its end a value is checked: late enough for one listing per `ttl`, spread over a fleet."""
    return rng.uniform(shortest_lead(ttl), 2 * shortest_lead(ttl))


def shortest_lead(ttl: float) -> float:
    """How long before its end a value is checked at the latest, so that a reader need not wait for it."""
    return 0.04 * ttl


def listing_is_cheaper(names_to_check: int, names_known: int) -> bool:
    """Whether the pages of the listing are fewer than the single gets that it saves."""
    return math.ceil(max(1, names_known) / PAGE) < names_to_check
