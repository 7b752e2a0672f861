"""Which answers are tried again, and when. Pure: told the time, given a source of chance (PROTOCOL §6)."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which a GET is sent again."""

_FIRST_SECONDS = 0.4
_LONGEST_SECONDS = 30.0
_LONGEST_WISH = 3600.0
_MILLISECONDS = ("retry-after-ms", "x-ms-retry-after-ms")


def pause(
    attempt: int, rng: random.Random, *, first: float = _FIRST_SECONDS, longest: float = _LONGEST_SECONDS
) -> float:
    """Seconds to wait after the `attempt`-th failure (from 0): exponential, with full jitter."""
    return rng.uniform(0, min(longest, first * 2 ** min(attempt, 30)))


def retry_after(headers: Mapping[str, str], wall: float) -> float | None:
    """Seconds that the server asks to be left alone, or None; at most an hour.

    Args:
        headers: with lower-case names.
        wall: Unix seconds now, for a date in an answer that has no date of its own. Where it has, both are of one
            clock, and it does not matter that this machine's may be wrong.
    """
    for name in _MILLISECONDS:
        if re.fullmatch(r"[0-9]{1,9}", headers.get(name, "")):
            return min(_LONGEST_WISH, int(headers[name]) / 1000)
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return min(_LONGEST_WISH, float(text))
    seconds, answered = date(text), date(headers.get("date", ""))
    now = wall if math.isnan(answered) else answered
    return None if math.isnan(seconds) else min(_LONGEST_WISH, max(0.0, seconds - now))


def date(text: str) -> float:
    """An HTTP date as Unix seconds; NaN if it is none."""
    from email.utils import parsedate_to_datetime  # not at each start

    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return math.nan
