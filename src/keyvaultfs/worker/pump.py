"""pyfuse3's loop with fewer rounds of trio's scheduler: requests that are there already are read one after another.

pyfuse3 waits for each request as if it were the only one: a round for its lock, one for its neighbour in the queue for
that lock, one for epoll(7). With constants for answers, a warm open and close took 52 us so, and takes 22.
"""

from __future__ import annotations

import select
from types import SimpleNamespace

import pyfuse3
import trio

_IN_A_ROW = 32
"""Requests that are read before others of the event loop get their turn: about half a millisecond."""


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


class Readable:
    """`trio.lowlevel.wait_readable` that does not wait for what is there already."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._fd = -1
        self._in_a_row = 0

    async def wait(self, fd: int) -> None:
        """Until `fd` can be read; every so often a round of the scheduler, whether or not it can.

        Raises:
            trio.ClosedResourceError: as `trio.lowlevel.notify_closing` makes it.
        """
        if fd != self._fd:
            self._poll = select.poll()
            self._poll.register(fd, select.POLLIN)
            self._fd = fd
        if self._in_a_row < _IN_A_ROW and self._poll.poll(0):
            self._in_a_row += 1
            return
        self._in_a_row = 0
        await trio.lowlevel.wait_readable(fd)


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
