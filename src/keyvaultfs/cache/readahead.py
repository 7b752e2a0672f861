"""Stat read-ahead: `ls -l` asks for names one by one, in the order of the listing. Pure."""

from __future__ import annotations

from dataclasses import dataclass

WINDOW = 64
"""How many names ahead of the reader are fetched."""

_SKIP = 3
"""A reader may leave out names, such as those that the kernel knows."""


@dataclass(slots=True, eq=False)
class ReadAhead:
    """Called with the position in the listing of each name that is asked for; answers with those to fetch ahead."""

    window: int = WINDOW
    _last: int = -10
    _streak: int = 0
    _fetched: int = 0

    def asked(self, position: int, *, missed: bool, end: int) -> range:
        """The positions to fetch now: none before the second miss in a row, and none from `end` on."""
        if position == self._last and not missed:
            return range(0)  # the kernel looks a listed name up twice
        if 0 < position - self._last <= _SKIP and self._streak:
            self._streak += 1
        else:
            self._streak = 1 if missed else 0
            self._fetched = position + 1
        self._last = position
        if self._streak < 2:
            return range(0)
        first = max(position + 1, self._fetched)
        self._fetched = max(first, min(end, position + 1 + self.window))
        return range(first, self._fetched)
