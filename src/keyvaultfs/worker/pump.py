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

_TRUST, _LASTING = 8, 64
_TRIAL, _LEAST_NEEDED, _MOST_NEEDED = 64, 512, 4096
_LOOKED_ENOUGH = 8192
"""Moments after which we sleep for a while, to see anew what that costs: where a program runs changes."""

_PAUSE_NS = 5_000_000
"""After a sleep of that length the kernel places program and worker anew."""

_LONG_COUNTS = 4
"""As many short sleeps as a longer one outweighs."""

_WORTH_IT = 0.85
"""The time from one request to the next while we look on, of that while we sleep."""

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
    """Whether to look on for a moment before going to sleep, since to be woken costs more. Pure; times in nanoseconds.

    It pays where a program asks for one thing after another, and another processor lets it run meanwhile. It begins
    when some hundred sleeps were about as short as a moment, and ends when a third of the moments are in vain: that
    is how a machine looks that has other work. It ends as well when requests do not come sooner than while we slept:
    the kernel may run a program and us on one processor by turns, where neither has to be woken by the other, and who
    looks on drives the program away. Each time that it ends so, it takes twice as many short sleeps to begin again.
    It ends with each pause too, after which the kernel may have placed them otherwise. Tried on Linux 6.18 with two
    processors, a warm open, read and close: by turns on one 20 to 26 us, apart 83 us, apart and looking on 55 us.

    Args:
        processors: that this process may run on.
    """

    def __init__(self, processors: int) -> None:
        self._most = _TRUST if processors > 1 else 0
        self._trust = 0
        self._needed = self._short = _LEAST_NEEDED
        self.requests = 0
        """since `_since`; whoever waits counts them"""
        self._since = 0
        self._pace = 0.0  # time from one request to the next, while we slept
        self._looked = 0

    @property
    def looks(self) -> bool:
        """Whether to look on now."""
        return self._trust > 0

    def came(self, now: int) -> None:
        """Something came within the moment."""
        self._looked += 1
        self._trust += 1
        if self._looked == _TRIAL and now - self._since > self._pace * _WORTH_IT * self.requests:
            self._end(now, self._needed * 2)
        elif self._looked >= _LOOKED_ENOUGH:
            self._end(now, _LEAST_NEEDED)
        elif self._trust > _LASTING:
            self._trust = self._most
            if self._looked > _TRIAL:
                self._needed = _LEAST_NEEDED

    def in_vain(self, now: int) -> None:
        """Nothing came."""
        self._trust -= 2
        if self._trust <= 0:
            self._end(now, self._needed * 2)

    def slept(self, began: int, now: int) -> None:
        """Something came after a sleep."""
        if now - began >= _PAUSE_NS:
            self._end(now, self._needed)
            return
        if now - began >= _SHORT_NS:
            self._since += now - began  # the program did something else
            self._short = min(self._needed, self._short + _LONG_COUNTS)
            return
        if self._trust:
            return
        self._short -= 1
        if self._short == self._needed // 2:  # by now the kernel has put the two where it wants them
            self._begin(now)
        if self._short <= 0:
            self._pace = (now - self._since) / max(1, self.requests)
            self._trust, self._looked = self._most, 0
            self._begin(now)

    def _begin(self, now: int) -> None:
        self._since, self.requests = now, 0

    def _end(self, now: int, needed: int) -> None:
        self._trust = 0
        self._short = self._needed = min(_MOST_NEEDED, needed)
        self._begin(now)


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
        self._eager.requests += 1
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
        self._eager.slept(began, time.perf_counter_ns())

    def _comes_in_a_moment(self) -> bool:
        now = time.perf_counter_ns()
        end = now + _MOMENT_NS
        while now < end:
            found = self._poll.poll(0)
            now = time.perf_counter_ns()
            if found:
                self._eager.came(now)
                return True
        self._eager.in_vain(now)
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
