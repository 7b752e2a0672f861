"""Who may ask the vault for a name that nobody knows, and what spares the question (DESIGN §3, §10)."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import trio

from keyvaultfs.cache.budget import Budget
from keyvaultfs.cache.freshness import PAGE
from keyvaultfs.cache.holds import Holds
from keyvaultfs.cache.known import NOBODY_ANSWERED
from keyvaultfs.errors import Busy, Disabled, KeyVaultFSError, NotFound, Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyvaultfs.cache.freshness import Limits
    from keyvaultfs.cache.listings import Listings
    from keyvaultfs.log import Causes
    from keyvaultfs.model import ListItem, SecretName

_PATIENCE_SECONDS = 0.5
"""How long a name waits for its turn while somebody makes names up, who is slowed down by it, too. At other times it
waits as long as whoever asks: a program that reads a hundred secrets at once makes none up."""

_MOST_WAITING, _MOST_WAITING_OF_ONE = 1024, 320
_MOST_LOGGED = 128
_STRAINED_SLOTS = 2
_STRAINED_QUEUE, _OTHERS_QUEUE = 4, 16
"""Names that may wait for those slots, of who asked for nobody's of late and of others: a look-up that waits holds the
folder's lock, and rotations wait for that."""

_MOST_PAGES = 10
_SHORTEST_NEGATIVE_TTL = 1.0
_CAUSE = "names that no secret has are asked for too often by {}"


class Admission:
    """Decides about each name of which the cache knows nothing, before the vault is asked for it.

    Args:
        concurrency: how many of them may be asked for at once; while names are made up, they are two.
    """

    def __init__(self, limits: Limits, listings: Listings, causes: Causes, concurrency: int) -> None:
        self._limits = limits
        self._listings = listings
        self._causes = causes
        self._budget = Budget(trio.current_time())
        self._holds = Holds(trio.current_time())
        self._concurrency = max(_STRAINED_SLOTS, concurrency)
        self._slots = trio.CapacityLimiter(self._concurrency)
        self._long_until = -math.inf
        self._waiting: Counter[int] = Counter()
        self._turns: dict[int, trio.Lock] = {}
        self._logged: dict[int, float] = {}
        self._patient: set[trio.CancelScope] = set()

    async def admit(
        self, name: SecretName, uid: int, *, refused: bool = False
    ) -> trio.CapacityLimiter | None:
        """Let a user ask the vault for a name; waits for its turn if need be.

        Args:
            name: of which nothing is known that could be served.
            uid: the user's.
            refused: whether the last answer was a refusal, so that it is to be expected again.

        Returns:
            What the request is to hold while it is under way; None for a name that a listing shows, and that can be
            read as far as anybody knows.

        Raises:
            NotFound: a listing that was read less than `negative_ttl` ago does not have it.
            Busy: too many such names are asked for.
        """
        item = self._listed(name)
        if item is None and self._budget.strained(trio.current_time()) and await self._read_listing():
            item = self._listed(name)
        if item is not None and item.properties.enabled and not refused:
            return None
        begin = trio.current_time()
        if not self._holds.admit(uid, begin):
            self._refuse(uid)
        try:
            await self._wait_for_turn(uid)
        except Busy:
            self._holds.charge(uid, begin, trio.current_time())
            raise
        now = trio.current_time()
        strained = self._budget.strained(now)
        queue = _STRAINED_QUEUE if self._holds.blamed(uid, now) else _OTHERS_QUEUE
        self._slots.total_tokens = _STRAINED_SLOTS if strained else self._concurrency
        if strained and self._slots.statistics().tasks_waiting >= queue:
            self._refuse(uid)
        return self._slots

    def answered(self, uid: int, failure: Exception | None, begin: float) -> None:
        """What came of a name that was let through: only one that could not be read is paid for.

        Args:
            begin: when it was asked for.
        """
        if failure is None:
            self._budget.give_back(uid, trio.current_time())
            return
        if isinstance(failure, NOBODY_ANSWERED):
            return  # of a name that may be good; a vault that is silent is soon not asked any more
        self._holds.charge(uid, begin, trio.current_time())
        if isinstance(failure, NotFound | Refused) and not isinstance(failure, Disabled):
            self._missed(trio.current_time())

    def sweep(self, now: float) -> None:
        """Log for each user who has stopped making names up that it is over."""
        for uid, last in tuple(self._logged.items()):
            if now - last > self._limits.ttl or not self._budget.strained(now):
                del self._logged[uid]
                self._causes.end(_CAUSE, f"uid {uid}")

    def _listed(self, name: SecretName) -> ListItem | None:
        """The line of a listing that shows it.

        Raises:
            NotFound: a fresh one does not.
        """
        now = trio.current_time()
        for listing in (self._listings.reading, self._listings.last):
            if listing is None:
                continue
            if name.key in listing.positions:
                return listing.items[listing.positions[name.key]]
            # One that has just come to its end is still being read as far as anybody else knows.
            # One that nobody asked for says nothing: whoever has just made a secret expects to find it.
            if listing.complete and now - listing.proof < self._limits.negative_ttl:
                self._missed(now)
                raise NotFound("NotListed")
        return None

    async def _read_listing(self) -> bool:
        """Read a short listing, once for all who wait: it costs a request for 25 names, and answers for all of them.

        Returns:
            Whether there is one now.
        """
        listings, now = self._listings, trio.current_time()
        long = listings.size > PAGE * _MOST_PAGES or now < self._long_until
        if long or self._limits.negative_ttl < _SHORTEST_NEGATIVE_TTL or not listings.usable(now):
            return False
        reading = listings.reading
        if reading is None or reading.given_up:
            reading = listings.start(_MOST_PAGES)
        try:
            async for _ in reading.stream():
                pass
        except (KeyVaultFSError, trio.TooSlowError):
            if reading.given_up:
                self._long_until = trio.current_time() + self._limits.ttl
            return False
        return True

    async def _wait_for_turn(self, uid: int) -> None:
        """Take a token, in the order of arrival for each user.

        Raises:
            Busy: it would take too long, or too many wait.
        """
        turn = self._turns.get(uid)
        if turn is None and not self._budget.left(uid, trio.current_time()):
            self._budget.take(uid, trio.current_time())
            return
        if self._waiting[uid] >= _MOST_WAITING_OF_ONE or self._waiting.total() >= _MOST_WAITING:
            self._refuse(uid)
        turn = self._turns.setdefault(uid, trio.Lock())
        self._waiting[uid] += 1
        try:
            with self._patience():
                async with turn:
                    while left := self._budget.left(uid, trio.current_time()):  # noqa: ASYNC110 - time is what it waits for
                        await trio.sleep(left)
                    self._budget.take(uid, trio.current_time())
                    return
        finally:
            self._waiting[uid] -= 1
            if not self._waiting[uid]:
                del self._waiting[uid], self._turns[uid]
        self._refuse(uid)

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """Wait as long as whoever asks; half a second while names are made up, also when that begins meanwhile."""
        now = trio.current_time()
        with trio.CancelScope() as scope:
            if self._budget.strained(now):
                scope.deadline = now + _PATIENCE_SECONDS
            self._patient.add(scope)
            try:
                yield
            finally:
                self._patient.discard(scope)

    def _missed(self, now: float) -> None:
        calm = not self._budget.strained(now)
        self._budget.missed(now)
        if calm and self._budget.strained(now):
            for scope in self._patient:
                scope.deadline = min(scope.deadline, now + _PATIENCE_SECONDS)

    def _refuse(self, uid: int) -> NoReturn:
        if uid in self._logged or len(self._logged) < _MOST_LOGGED:
            self._logged[uid] = trio.current_time()
        self._missed(trio.current_time())  # while a slow vault says little, too
        self._causes.begin(_CAUSE, f"uid {uid}", error="TooManyNames")
        raise Busy("TooManyNames")
