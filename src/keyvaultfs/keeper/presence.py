"""Whether our mount is still there. The mount table tells of an unmount, the device of the connection's end."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, NamedTuple

from keyvaultfs.keeper import mountinfo
from keyvaultfs.keeper.spawn import high

if TYPE_CHECKING:
    from keyvaultfs.keeper.mountinfo import Mounted

_GRACE_SECONDS = 0.5
"""Between the end of a connection and that of its mount: ``umount -f`` does the one first and then the other."""

_BETWEEN_SECONDS = 0.1
"""Between two readings of the table: any user may mount and unmount in a loop, with a thousand mounts in the table."""


class End(NamedTuple):
    """How a mount ended.

    Attributes:
        failed: nobody unmounted it: its connection was aborted, and what is left in the table is dead.
        message: for the log.
    """

    failed: bool
    message: str


class Presence:
    """Follows one mount by its id, wherever it is moved to.

    Args:
        ours: the mount that was just made.
        device: its FUSE device.

    Attributes:
        fd: the mount table; poll(2) says POLLPRI when it changed.
        gone: it is in this namespace's table no more. A lazy unmount lets the connection live until the last close.
    """

    def __init__(self, ours: Mounted, device: int) -> None:
        self.ours = ours
        self.fd = high(os.open(mountinfo.PATH, os.O_RDONLY))
        self.gone = False
        self._device = device
        self._ended: float | None = None
        self._wanted = True
        self._next = 0.0

    def reread(self) -> None:
        """Have the next check read the mount table, whether or not it changed."""
        self._wanted = True

    def check(self, now: float, *, changed: bool) -> End | None:
        """How the mount ended; None while it has not.

        Args:
            now: seconds of a clock.
            changed: whether the mount table did.
        """
        ended = self.connection_ended()
        self._wanted = self._wanted or changed or ended
        if self._wanted and not self.gone and now >= self._next:
            there = mountinfo.now(self.ours)
            self.gone = there is None
            self.ours = there or self.ours
            self._wanted, self._next = False, now + _BETWEEN_SECONDS
        if not ended:
            return None
        if self.gone:
            return End(failed=False, message=f"{self.ours.mountpoint} was unmounted")
        if self._ended is None:
            self._ended = now
        if now - self._ended < _GRACE_SECONDS:
            return None
        return End(failed=True, message=f"{self.ours.mountpoint}: the connection to the kernel was aborted")

    def connection_ended(self) -> bool:
        """Whether the kernel has nothing more to ask: it was unmounted everywhere, or aborted."""
        poll = (
            select.poll()
        )  # never in the loop's own wait: there each request to the device would wake the keeper
        poll.register(self._device, 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
