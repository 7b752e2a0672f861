"""Worker and successor: who serves, who is to, and what the keeper does next. Pure: it is told the time.

A take-over reads as one list, `Succession.turn`: bury who is dead, bury a successor that came to nothing, hand the
mount on, start a worker where none is left. The keeper does each act when it is yielded, so the next one sees its
effect.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Generic, TypeVar

from keyvaultfs.keeper.supervisor import START_SECONDS, Step, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_RETIRE_SECONDS = 2.0
"""How long a worker may finish what it has begun when a newer one is ready."""

_CORPSE_SECONDS = 1.0
"""After a SIGKILL this long ago a worker counts as dead, whether or not its death can be seen."""

W = TypeVar("W")


class Act(Enum):
    """What the keeper is to do with a worker."""

    START = "start"
    GO = "go"
    RETIRE = "retire"
    KILL = "kill"
    KILL_HANGING = "kill hanging"
    BURY = "bury"
    BURY_SUCCESSOR = "bury successor"


class Life(Generic[W]):
    """One worker, from its start to its burial.

    Attributes:
        process: what the keeper knows it by.
        started: when.
        standby: it said that it can take the mount over.
        going: it was told to take it over.
        retire_by: when it is killed, if it has been asked to end.
        killed: when it was sent SIGKILL.
    """

    __slots__ = ("going", "killed", "process", "retire_by", "standby", "started")

    def __init__(self, process: W, started: float) -> None:
        self.process = process
        self.started = started
        self.standby = False
        self.going = False
        self.retire_by: float | None = None
        self.killed: float | None = None


class Succession(Generic[W]):
    """The worker that serves and the one that is to follow it.

    Args:
        supervisor: says when to start, to kill, to give up.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.worker: Life[W] | None = None
        self.successor: Life[W] | None = None

    def lives(self) -> list[Life[W]]:
        """Those that are there."""
        return [life for life in (self.worker, self.successor) if life is not None]

    def life(self, process: W) -> Life[W] | None:
        """The life of a process; None once it is buried."""
        return next((life for life in self.lives() if life.process is process), None)

    def serves(self, process: W) -> bool:
        """Whether it is the worker that has been told to serve."""
        return self.worker is not None and self.worker.process is process and self.worker.going

    def may_reload(self) -> bool:
        """Whether a successor may be started beside the worker."""
        return self.worker is not None and self.successor is None

    def began(self, process: W, now: float) -> None:
        """A worker was started: the first one, one in a dead one's place, or a successor beside one that serves."""
        life = Life(process, now)
        if self.worker is None:
            self.worker = life
            self.supervisor.started(now)
        else:
            self.successor = life

    def turn(
        self, now: float, dead: Callable[[W], bool], over: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[Act, W | None]]:
        """What is to be done now, in order.

        Args:
            dead: whether a process has ended, as far as can be seen.
            over: whether nothing is left to serve. Workers end of that, and the keeper may see it of them first.
        """
        yield from self._bury_the_worker(now, dead)
        yield from self._bury_the_successor(now, dead)
        yield from self._hand_over(now)
        if self.worker is not None or self.successor is None:
            yield from self._supervise(now, over)

    def _bury_the_worker(self, now: float, dead: Callable[[W], bool]) -> Iterator[tuple[Act, W | None]]:
        one = self.worker
        if one is None:
            return
        if one.retire_by is not None and now > one.retire_by and one.killed is None:
            one.killed = now
            yield Act.KILL, one.process
        if dead(one.process) or _long_killed(one, now):
            self.supervisor.ended(now)
            yield Act.BURY, one.process
            self.worker = None

    def _bury_the_successor(self, now: float, dead: Callable[[W], bool]) -> Iterator[tuple[Act, W | None]]:
        one = self.successor
        if one is None:
            return
        ended = dead(one.process)
        if ended or now > one.started + START_SECONDS:
            if not ended:
                yield Act.KILL, one.process
            yield Act.BURY_SUCCESSOR, one.process
            self.successor = None

    def _hand_over(self, now: float) -> Iterator[tuple[Act, W | None]]:
        """Give the mount to a worker that is ready for it, when no other serves."""
        one, following = self.worker, self.successor
        if one is not None and one.standby and not one.going:
            one.going = True
            yield Act.GO, one.process
        if following is None or not following.standby:
            return
        if one is not None:
            if one.retire_by is None:
                one.retire_by = now + _RETIRE_SECONDS
                yield Act.RETIRE, one.process
            return
        self.worker, self.successor = following, None
        self.supervisor.started(now)
        following.going = True
        yield Act.GO, following.process

    def _supervise(self, now: float, over: Callable[[], bool]) -> Iterator[tuple[Act, W | None]]:
        step = self.supervisor.step(now)
        if step is Step.START:
            if not over():
                yield Act.START, None
        elif step is Step.KILL and self.worker is not None and self.worker.killed is None:
            self.worker.killed = now
            yield Act.KILL_HANGING, self.worker.process


def _long_killed(life: Life[W], now: float) -> bool:
    return life.killed is not None and now > life.killed + _CORPSE_SECONDS
