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


@dataclass(slots=True)
class Throttle:
    """Says when the next request may go. All times in seconds of one clock.

    Args:
        rng: for jitter.
        failures: requests in a row that nobody answered before the circuit opens.
    """

    rng: random.Random
    failures: int = _FAILURES
    _failed: int = 0
    _throttled: int = 0
    _not_before: float = field(default=-1.0)
    _probe_at: float = field(default=-1.0)

    @property
    def open(self) -> bool:
        """Whether the vault counts as dead."""
        return self._failed >= self.failures

    def wait(self, now: float) -> float:
        """Seconds until a request may go; 0 for now. With an open circuit a 0 is the one probe, counted."""
        left = self._not_before - now
        if self.open:
            left = max(left, self._probe_at - now)
            if left <= 0:
                self._probe_at = now + self._probe_pause()
        return max(0.0, left)

    def answered(self) -> None:
        """Somebody answered, be it with an error of ours."""
        self._failed = 0
        self._throttled = 0

    def failed(self, now: float) -> None:
        """Nobody answered."""
        self._failed += 1
        if self.open:
            self._probe_at = now + self._probe_pause()

    def throttled(self, now: float, retry_after: float | None) -> float:
        """A 429, or another answer with `Retry-After`; returns the seconds for which all are to be silent."""
        self._failed = 0
        if retry_after is None:
            longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(self._throttled, 8))
            retry_after = self.rng.uniform(longest / 2, longest)
            if now >= self._not_before:  # those that were in flight together count once
                self._throttled += 1
        else:
            retry_after *= self.rng.uniform(1.0, 1.1)  # a fleet that was told the same second
        self._not_before = max(self._not_before, now + retry_after)
        return retry_after

    def _probe_pause(self) -> float:
        doublings = max(0, min(self._failed - self.failures, 8))
        return min(PROBE_SECONDS, _FIRST_PROBE_SECONDS * float(1 << doublings))
