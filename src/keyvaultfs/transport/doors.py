"""Which ways to a peer are trusted, and how long: a kept connection, an address, an answer. Pure: told the time."""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

IDLE_SECONDS = 75.0
"""A connection that nobody used for so long is let go. Azure's load balancers forget it after 240 s, without a word."""

LIFE_SECONDS = 240.0
"""No connection is older: the name may have moved to other addresses meanwhile, and is asked for again."""

_LESSON_SECONDS = 600.0
_KEPT_SECONDS = 1.25
_HANDSHAKE_SECONDS = 1.0
_ANSWER_SECONDS = 2.5
_SHUNNED_SECONDS = 60.0
_MOST_SHUNNED = 64
_FORGETS = 0.9


@dataclass(slots=True, eq=False)
class Doors:
    """What experience tells of the way to one peer. Methods may be called from any thread.

    All times are seconds of one clock; connections are told by when they were made.
    """

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _trusted_from: float = -math.inf
    _losses: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=2))
    """When kept connections turned out to be dead, and how long they had been idle."""
    _pace: float = 0.0
    _shunned: dict[Any, float] = field(default_factory=dict)

    def usable(self, made: float, used: float, now: float) -> bool:
        """Whether a connection may be used again that was made at `made` and last used at `used`."""
        return made > self._trusted_from and now - made < LIFE_SECONDS and now - used < self.idle_limit(now)

    def idle_limit(self, now: float) -> float:
        """Seconds without use after which a connection is let go.

        Where two were dead, one after the other, it is half of what they had been idle, for a while: this network
        forgets sooner than others. 0 where they had not been idle at all: it lets no connection serve twice.
        """
        if len(self._losses) < 2 or now - self._losses[0][0] > _LESSON_SECONDS:
            return IDLE_SECONDS
        longest = max(idle for _, idle in self._losses)
        return min(IDLE_SECONDS, longest / 2) if longest > 1 else 0.0

    def lost(self, made: float, idle: float, now: float) -> None:
        """A kept connection was silent, after `idle` seconds without use: it and the others are used no more."""
        with self._lock:
            if made > self._trusted_from:  # those that are lost together are one lesson
                self._losses.append((now, idle))
            self._trusted_from = now

    def distrust(self, now: float) -> None:
        """No connection of before now is used again: they led to somebody else, or the machine was suspended."""
        with self._lock:
            self._trusted_from = now

    def answered(self, seconds: float) -> None:
        """A peer took so long for an answer: the measure of what is to be called silence."""
        self._pace = max(seconds, self._pace * _FORGETS)

    def patience_with_kept(self, left: float) -> float:
        """Seconds without a byte after which a kept connection counts as dead, when `left` are left in all.

        A quarter at most, and little more than a second, unless the peer was slow lately: then twice its time.
        """
        return max(min(_KEPT_SECONDS, left / 4), min(2 * self._pace, left / 2))

    def patience_with_handshake(self, left: float) -> float:
        """The same for a handshake with one address, where the name has others."""
        return min(_HANDSHAKE_SECONDS, left / 3)

    def patience_with_answer(self, left: float) -> float:
        """The same for an answer from one address, where the name has others."""
        return min(max(_ANSWER_SECONDS, 2 * self._pace), left / 2)

    def shun(self, address: Any, now: float) -> None:
        """An address did not do what others of its name may do: try it last for a while."""
        with self._lock:
            if len(self._shunned) >= _MOST_SHUNNED:
                self._shunned.clear()
            self._shunned[address] = now + _SHUNNED_SECONDS

    def shunned(self, now: float) -> set[Any]:
        """Addresses to try last."""
        with self._lock:
            return {address for address, until in self._shunned.items() if now < until}
