"""What one user may take up: requests that wait, and files that are open. Others are served beside.

pyfuse3 works on so many requests at once and no more, and each open file takes memory; any user may start threads and
open folders by the ten thousand. Root has no bound.
"""

from __future__ import annotations

import errno
from collections import Counter
from typing import TYPE_CHECKING

import pyfuse3

from keyvaultfs.errors import Busy

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyvaultfs.log import Causes

_ROOT = 0
_CODE = "TooManyAtOnce"


class _Crowd:
    """Counts for each user, and says of whom there are too many."""

    def __init__(self, causes: Causes, kind: str, of_one: int, of_all: int, there: Callable[[], int]) -> None:
        self._causes = causes
        self._kind = kind
        self._most_of_one, self._most_of_all = of_one, of_all
        self._there = there
        self._of = Counter[int]()
        self._told: set[int] = set()

    def _has_room(self, uid: int) -> bool:
        if uid == _ROOT or (self._of[uid] < self._most_of_one and self._there() < self._most_of_all):
            return True
        # Who has none is not to blame, and would never be seen to have fewer again.
        blamed = uid if uid in self._of else max(self._of, key=self._of.__getitem__, default=None)
        if blamed is not None:
            self._told.add(blamed)
            self._causes.begin(self._kind, f"uid {blamed}", error=_CODE)
        return False

    def _less(self, uid: int) -> None:
        self._of[uid] -= 1
        if uid in self._told and 2 * self._of[uid] < self._most_of_one:
            self._told.discard(uid)
            self._causes.end(self._kind, f"uid {uid}")
        if not self._of[uid]:
            del self._of[uid]


class Waiting(_Crowd):
    """Requests that wait for something, such as the network.

    Args:
        there: how many there are of all users.
    """

    OF_ONE, OF_ALL = 1024, 3072
    """Of one user, and of all before only root's may come: below what pyfuse3 is told to work on (`worker.main`)."""

    def __init__(self, causes: Causes, there: Callable[[], int]) -> None:
        super().__init__(causes, "too many requests of {} wait", self.OF_ONE, self.OF_ALL, there)

    def enter(self, uid: int) -> None:
        """One more.

        Raises:
            Busy: there are too many.
        """
        if not self._has_room(uid):
            raise Busy(_CODE)
        self._of[uid] += 1

    def leave(self, uid: int) -> None:
        """One less."""
        self._less(uid)


class Held(_Crowd):
    """Files and folders that are open.

    Args:
        there: how many there are of all users, also those of which an earlier worker knew whose they are.

    Attributes:
        owners: who has one open, by its handle; root's are not here.
    """

    OF_ONE, OF_ALL = 1 << 15, 1 << 17
    """Of one user, and of all before only root may open more: a folder takes 1.2 KiB, a file 0.8."""

    def __init__(self, causes: Causes, there: Callable[[], int]) -> None:
        super().__init__(causes, "too many files are open of {}", self.OF_ONE, self.OF_ALL, there)
        self.owners: dict[int, int] = {}

    def admit(self, uid: int) -> None:
        """See whether a user may open one more.

        Raises:
            FUSEError: ENFILE: no.
        """
        if uid != _ROOT and not self._has_room(uid):
            raise pyfuse3.FUSEError(errno.ENFILE)

    def opened(self, fh: int, uid: int) -> None:
        """A user has one more."""
        if uid != _ROOT:
            self.owners[fh] = uid
            self._of[uid] += 1

    def closed(self, fh: int) -> None:
        """It is closed."""
        uid = self.owners.pop(fh, _ROOT)
        if uid != _ROOT:
            self._less(uid)
