"""pyfuse3's loop with fewer rounds of trio's scheduler: requests that are there already are read one after another.

pyfuse3 waits for each request as if it were the only one: a round for its lock, one for its neighbour in the queue for
that lock, one for epoll(7). With constants for answers, a warm open and close took 52 us so, and takes 22.
"""

from __future__ import annotations

import os
import select
import time
from types import SimpleNamespace

import pyfuse3
import trio

_IN_A_ROW = 32
"""Requests that are read before others of the event loop get their turn: about half a millisecond."""

_MOMENT_NS = 60_000
_SHORT_NS = 150_000
"""A sleep of no more than this is a moment and the time that it takes to be woken."""

_TRUST, _LASTING, _MOST_NEEDED = 8, 64, 4096
_A_MOMENT_COUNTS = 4
"""As many reads in a row as take as long: others of the event loop wait no longer than without it."""


class Turn(trio.abc.Instrument):
    """Whose turn it is to read. Unlike trio.Lock it is handed on only when its last holder waits for something else.

    The instrument that it is sees the end of each task's step: a reader that is back by then has its turn again.
    """

    def __init__(self) -> None:
        self._taken = False
        self._waiting = trio.lowlevel.ParkingLot()
        trio.lowlevel.add_instrument(self)

    async def __aenter__(self) -> None:
        while self._taken:
            await self._waiting.park()
        self._taken = True

    async def __aexit__(self, *_: object) -> None:
        self._taken = False

    def after_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002
        """Called by trio."""
        if not self._taken and self._waiting:
            self._waiting.unpark()


class Eagerness:
    """Whether to look on for a moment before going to sleep, since to be woken costs more. Pure.

    It pays where a program asks for one thing after another, and another processor lets it run meanwhile. It begins
    when sleeps are about as short as a moment, and ends when a third of the moments are in vain: that is how a machine
    looks that has other work. Each time that it ends so, it takes twice as many short sleeps to begin again.

    Args:
        processors: that this process may run on.
    """

    def __init__(self, processors: int) -> None:
        self._most = _TRUST if processors > 1 else 0
        self._trust = 0
        self._needed = self._short = 1

    @property
    def looks(self) -> bool:
        """Whether to look on now."""
        return self._trust > 0

    def came(self) -> None:
        """Something came within the moment."""
        self._trust += 1
        if self._trust > _LASTING:
            self._trust, self._needed = self._most, 1

    def in_vain(self) -> None:
        """Nothing came."""
        self._trust -= 2
        if self._trust <= 0:
            self._trust, self._needed = 0, min(_MOST_NEEDED, self._needed * 2)
            self._short = self._needed

    def slept(self, nanoseconds: int) -> None:
        """Something came after a sleep."""
        if nanoseconds < _SHORT_NS and not self._trust:
            self._short -= 1
            if self._short <= 0:
                self._trust = self._most


class Readable:
    """`trio.lowlevel.wait_readable` that does not wait for what is there already, or in a moment."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._fd = -1
        self._in_a_row = 0
        self._eager = Eagerness(len(os.sched_getaffinity(0)))

    async def wait(self, fd: int) -> None:
        """Until `fd` can be read; every so often a round of the scheduler, whether or not it can.

        Raises:
            trio.ClosedResourceError: as `trio.lowlevel.notify_closing` makes it.
        """
        if fd != self._fd:
            self._poll = select.poll()
            self._poll.register(fd, select.POLLIN)
            self._fd = fd
        if self._in_a_row < _IN_A_ROW:
            if self._poll.poll(0):
                self._in_a_row += 1
                return
            if self._eager.looks and self._comes_in_a_moment():
                self._in_a_row += _A_MOMENT_COUNTS
                return
        self._in_a_row = 0
        began = time.perf_counter_ns()
        await trio.lowlevel.wait_readable(fd)
        self._eager.slept(time.perf_counter_ns() - began)

    def _comes_in_a_moment(self) -> bool:
        end = time.perf_counter_ns() + _MOMENT_NS
        while time.perf_counter_ns() < end:
            if self._poll.poll(0):
                self._eager.came()
                return True
        self._eager.in_vain()
        return False


def install() -> None:
    """Have pyfuse3 wait so from its next `main` on; by the name under which its own asyncio mode replaces trio."""
    lowlevel = SimpleNamespace(
        current_task=trio.lowlevel.current_task,
        current_trio_token=trio.lowlevel.current_trio_token,
        notify_closing=trio.lowlevel.notify_closing,
        wait_readable=Readable().wait,
    )
    pyfuse3.trio = SimpleNamespace(  # type: ignore[attr-defined]
        ClosedResourceError=trio.ClosedResourceError,
        Lock=Turn,
        from_thread=trio.from_thread,
        lowlevel=lowlevel,
        open_nursery=trio.open_nursery,
    )
