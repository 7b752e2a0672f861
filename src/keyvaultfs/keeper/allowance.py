"""How much of something a worker may cause in a while. Pure: it is told the time."""

from __future__ import annotations


class Allowance:
    """A token bucket.

    Args:
        rate: how many a second, in the long run.
        burst: how many at once.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._seen: float | None = None
        self.refused = 0

    def take(self, now: float) -> bool:
        """Whether one more is allowed; if not, it is counted in `refused`."""
        if self._seen is not None:
            self._left = min(self._burst, self._left + (now - self._seen) * self._rate)
        self._seen = now
        if self._left < 1:
            self.refused += 1
            return False
        self._left -= 1
        return True
