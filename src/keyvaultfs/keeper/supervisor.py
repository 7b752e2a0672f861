"""When to start a worker, when to kill one, when to give up. Pure: it is told the time."""

from __future__ import annotations

from enum import Enum

MISSED_HEARTBEATS = 3
START_SECONDS = 30.0
"""How long a worker may take from its start to its first heartbeat."""

_FIRST_WAIT = 0.25
_LONGEST_WAIT = 8.0
_ATTEMPTS = 8
_MEMORY_SECONDS, _MEMORY_ATTEMPTS = 600.0, 6


class Step(Enum):
    """What the keeper is to do now."""

    NOTHING = "nothing"
    START = "start"
    KILL = "kill"
    GIVE_UP = "give up"


class Supervisor:
    """Restarts at once a worker that had served, with back-off one that never did, and not for ever.

    Args:
        heartbeat: seconds between heartbeats.
        attempts: workers in a row that may end before their first heartbeat.
    """

    def __init__(self, heartbeat: float = 1.0, attempts: int = _ATTEMPTS) -> None:
        self.heartbeat = heartbeat
        self.attempts = attempts
        self._failures = 0
        self._excused = 0
        self._refused = 0
        self._served = False
        self._due: float | None = 0.0
        self._started = 0.0
        self._beat: float | None = None
        self._alive = False
        self._killed: list[float] = []

    def started(self, now: float) -> None:
        """A worker was started."""
        self._started, self._beat, self._due, self._alive = now, None, None, True
        self._refused = 0

    def beat(self, now: float) -> None:
        """A heartbeat arrived."""
        self._beat = now
        self._failures = self._excused = 0
        self._served = True

    def ended(self, now: float) -> None:
        """The worker died."""
        if not self._alive:
            return
        self._alive = False
        if self._beat is not None:
            self._due = now
            return
        self._failures += 1
        self._due = now + min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (self._failures - 1))

    def excuse(self) -> None:
        """The worker that ended was killed by somebody else: what it inherited, table and values, is not to blame."""
        self._excused += self._beat is None

    def not_started(self, now: float) -> None:
        """No process could be had (fork failed): tried again, for as long as it takes once a worker had served."""
        if self._alive:
            return  # a successor; the worker serves on
        self._refused += 1
        self._due = now + min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(self._refused - 1, 10))

    def out_of_memory(self, now: float) -> int:
        """The worker that ended was killed for lack of memory: a successor waits, and there are not many of them.

        Returns:
            How many were killed so in the last `_MEMORY_SECONDS`.
        """
        self._killed = [then for then in self._killed if now - then < _MEMORY_SECONDS] + [now]
        self._due = now + min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (len(self._killed) - 1))
        return len(self._killed)

    def step(self, now: float) -> Step:
        """What is to be done at this time."""
        if not self._alive:
            refused = self._refused >= self.attempts and not self._served
            if self._failures >= self.attempts or refused or len(self._killed) >= _MEMORY_ATTEMPTS:
                return Step.GIVE_UP
            return Step.START if self._due is not None and now >= self._due else Step.NOTHING
        if self._beat is None:
            return Step.KILL if now - self._started > START_SECONDS else Step.NOTHING
        return Step.KILL if now - self._beat > MISSED_HEARTBEATS * self.heartbeat else Step.NOTHING

    @property
    def unserved(self) -> int:
        """Workers in a row that ended by themselves before their first heartbeat."""
        return self._failures - self._excused

    @property
    def failures(self) -> int:
        """Workers in a row that ended before their first heartbeat, or could not be started, or had no memory."""
        return max(self._failures, self._refused, len(self._killed))
