"""For how long a user's made-up names may hold a folder's lock. Pure: told the time.

Whoever makes a name (mkdir(2), or open(2) with O_CREAT) has the kernel look it up under a lock that lets no other
look-up of the folder in, on a read-only mount too. So 64 threads that do only that, with names that no secret has,
would have everybody wait for 64 answers of the vault. Nobody can tell such a look-up from another. What counts is the
time in which at least one of a user's is under way: many at once, as no lock lets them be, cost no more than one.
"""

from __future__ import annotations

from collections import OrderedDict

from keyvaultfs.cache.budget import ROOT, Bucket

_ONE = (0.5, 5.0)
_ALL_BUT_ROOT = (0.7, 10.0)
"""Seconds that come back in a second, and the most that are kept."""

_LOW_SECONDS, _PAUSE_SECONDS = 1.0, 0.5
"""When so little is left, one name goes through in each pause: what is under way is not yet charged."""

_UNBLAMED_SECONDS = 4.5
_MOST_USERS = 256


class _Hold:
    """Of a user: what is left, until when it was charged, and when the next name may go through."""

    __slots__ = ("bucket", "following", "until")

    def __init__(self, limits: tuple[float, float], now: float) -> None:
        self.bucket = Bucket.full(limits, now)
        self.until = self.following = now

    def admit(self, now: float) -> bool:
        left = self.bucket.amount(now)
        if left <= 0 or (left < _LOW_SECONDS and now < self.following):
            return False
        self.following = now + _PAUSE_SECONDS
        return True

    def charge(self, begin: float, now: float) -> None:
        self.bucket.spend(now - max(begin, self.until), now)
        self.until = now


class Holds:
    """Seconds of all users but root."""

    def __init__(self, now: float) -> None:
        self._all = _Hold(_ALL_BUT_ROOT, now)
        self._users: OrderedDict[int, _Hold] = OrderedDict()

    def admit(self, uid: int, now: float) -> bool:
        """Whether a user may have a name looked up that nobody knows."""
        if uid == ROOT:
            return True
        own = self._users.get(uid)
        return (own is None or own.admit(now)) and self._all.admit(now)

    def blamed(self, uid: int, now: float) -> bool:
        """Whether a user has had names of nobody's looked up of late, for more than a moment."""
        own = self._users.get(uid)
        return own is not None and own.bucket.amount(now) < _UNBLAMED_SECONDS

    def charge(self, uid: int, begin: float, now: float) -> None:
        """A name of a user's that no secret has was waited for, from `begin` until now."""
        if uid == ROOT:
            return
        own = self._users.get(uid)
        if own is None:
            own = self._users[uid] = _Hold(_ONE, begin)
            if len(self._users) > _MOST_USERS:
                self._users.popitem(last=False)
        self._users.move_to_end(uid)
        own.charge(begin, now)
        self._all.charge(begin, now)
