"""How many names that nobody knows may be asked for: by one user, by all but root, by all. Pure: told the time.

Whoever makes names up costs the vault a request for each, and its limit (4,000 in 10 s, PROTOCOL §6) is shared with
other mounts and machines. A name that turns out to be a secret's costs nothing: `give_back`.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

ROOT = 0

_ALL = (40.0, 20.0)
_ALL_BUT_ROOT = (30.0, 10.0)
_ONE = (20.0, 10.0)
_MOST_USERS = 256
_MISSES = (0.5, 5.0)
_WHOLE = 1.0 - 1e-6
"""What counts as a whole token: waiting for the rest, which is rounding, would take no time and never end."""


@dataclass(slots=True, eq=False)
class Bucket:
    """Tokens that come back at `rate` a second, up to `most`."""

    rate: float
    most: float
    level: float
    at: float

    @classmethod
    def full(cls, limits: tuple[float, float], now: float) -> Bucket:
        """A new one."""
        rate, most = limits
        return cls(rate, most, most, now)

    def left(self, now: float) -> float:
        """Seconds until there is a token; 0 for now."""
        self._fill(now)
        return 0.0 if self.level >= _WHOLE else (1.0 - self.level) / self.rate

    def take(self, now: float) -> None:
        """Take a token; there may be none: then the next one comes later."""
        self._fill(now)
        self.level = max(0.0, self.level - 1.0)

    def give_back(self, now: float) -> None:
        """Put one back."""
        self._fill(now)
        self.level = min(self.most, self.level + 1.0)

    def spend(self, amount: float, now: float) -> None:
        """Take what was used already, be it more than there is."""
        self._fill(now)
        self.level -= amount

    def amount(self, now: float) -> float:
        """What is left; less than nothing if more was spent."""
        self._fill(now)
        return self.level

    def _fill(self, now: float) -> None:
        self.level = min(self.most, self.level + (now - self.at) * self.rate)
        self.at = now


class Budget:
    """Tokens for names that nobody knows. Root has a bucket of its own, and shares that of all."""

    def __init__(self, now: float) -> None:
        self._all = Bucket.full(_ALL, now)
        self._all_but_root = Bucket.full(_ALL_BUT_ROOT, now)
        self._misses = Bucket.full(_MISSES, now)
        self._users: OrderedDict[int, Bucket] = OrderedDict()

    def left(self, uid: int, now: float) -> float:
        """Seconds until `uid` may ask for a name; 0 for now."""
        return max(bucket.left(now) for bucket in self._of(uid, now))

    def take(self, uid: int, now: float) -> None:
        """Somebody asks."""
        for bucket in self._of(uid, now):
            bucket.take(now)

    def give_back(self, uid: int, now: float) -> None:
        """It was a secret's name."""
        for bucket in self._of(uid, now):
            bucket.give_back(now)

    def missed(self, now: float) -> None:
        """It was nobody's name."""
        self._misses.take(now)

    def strained(self, now: float) -> bool:
        """Whether several names of late were nobody's: somebody may be making them up."""
        return self._misses.left(now) > 0

    def _of(self, uid: int, now: float) -> tuple[Bucket, ...]:
        own = self._users.get(uid)
        if own is None:
            own = self._users[uid] = Bucket.full(_ONE, now)
            if len(self._users) > _MOST_USERS:
                # A user namespace has 65,536 users: then the buckets of all are the bound.
                self._users.popitem(last=False)
        self._users.move_to_end(uid)
        return (self._all, own) if uid == ROOT else (self._all, self._all_but_root, own)
