"""One throttle for the whole mount: `Retry-After` for all, a circuit that leaves a dead vault alone. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

PROBE_SECONDS = 5.0
"""An open circuit lets a request through at least this often."""

_FAILURES = 5
_FIRST_PROBE_SECONDS = 0.5
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 16.0
_WIDE_SPREAD_SECONDS, _WIDEST_SPREAD_SECONDS = 8.0, 60.0
_WISHES = 4
"""A span is at most so many times what was asked for, or 8 seconds: a vault that asks for a second each time shall not
silence a mount for a minute, since a reader waits ten."""

_AT_FIRST, _PLENTY = 8, 16


@dataclass(slots=True, eq=False)
class Throttle:
    """Says when the next request may go. All times in seconds of one clock.

    Args:
        rng: for jitter.
        failures: requests in a row that nobody answered before the circuit opens.
    """

    rng: random.Random
    failures: int = _FAILURES
    room: int = _AT_FIRST
    """Requests that may be in flight: few at first, one after a pause, and one more for each answer from then on."""
    _failed: int = 0
    _throttled: int = 0
    _not_before: float = field(default=-1.0)
    _probe_at: float = field(default=-1.0)

    @property
    def open(self) -> bool:
        """Whether the vault counts as dead."""
        return self._failed >= self.failures

    @property
    def free(self) -> bool:
        """Whether `room` is no limit: nobody was told to wait lately."""
        return self.room >= _PLENTY

    def left(self, now: float) -> float:
        """Seconds until a request may go; 0 for now."""
        left = self._not_before - now
        return max(0.0, left, self._probe_at - now if self.open else 0.0)

    def wait(self, now: float) -> float:
        """As `left`; with an open circuit a 0 is the one probe, counted."""
        left = self.left(now)
        if self.open and not left:
            self._probe_at = now + self._probe_pause()
        return left

    def answered(self, now: float) -> None:
        """Somebody answered, be it with an error of ours."""
        self._failed = 0
        if now >= self._not_before and not self.free:
            self.room += 1
            if self.free:
                self._throttled = 0

    def failed(self, now: float) -> None:
        """Nobody answered."""
        self._failed += 1
        if self.open:
            self._probe_at = now + self._probe_pause()

    def throttled(self, now: float, retry_after: float | None) -> float:
        """A 429, or another answer with `Retry-After`; returns the seconds for which all are to be silent.

        The pause ends at a random moment, in a span that doubles from one pause to the next: a fleet that was told
        the same second comes back one machine after the other.
        """
        self._failed = 0
        if now >= self._not_before:  # those that were in flight together count once
            doublings = 2 ** min(self._throttled, 8)
            self._throttled += 1
            self.room = 1
            if retry_after is None:
                longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * doublings)
                pause = self.rng.uniform(0, longest)
            else:
                widest = min(_WIDEST_SPREAD_SECONDS, max(_WIDE_SPREAD_SECONDS, _WISHES * retry_after))
                spread = min(widest, max(_FIRST_PAUSE_SECONDS, retry_after) * doublings)
                pause = retry_after + self.rng.uniform(0, spread)
            self._not_before = now + pause
        self._not_before = max(self._not_before, now + (retry_after or 0.0))
        return self._not_before - now

    def _probe_pause(self) -> float:
        doublings = max(0, min(self._failed - self.failures, 8))
        return min(PROBE_SECONDS, _FIRST_PROBE_SECONDS * float(1 << doublings))
