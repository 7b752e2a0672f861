"""FUSE's notifications: have the kernel ask again for an inode's attributes, or drop an entry."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Protocol

import pyfuse3
import trio

from keyvaultfs import threads

if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE_SECONDS = 60.0


class Kernel(Protocol):
    """The notifications as blocking calls. `entry` waits for the directory's lock, which a look-up may hold."""

    def inode(self, inode: int) -> None:
        """Make the kernel ask for an inode's attributes again; OSError ENOENT if it no longer has it."""

    def entry(self, parent: int, name: bytes, deleted: int) -> None:
        """Drop a name of a folder, and tell its watchers that `deleted` is gone (0: nobody is told)."""


class FuseKernel:
    """The real one."""

    def inode(self, inode: int) -> None:
        """See `Kernel`. Takes no directory lock and disturbs no entry."""
        pyfuse3.invalidate_inode(inode, attr_only=True)

    def entry(self, parent: int, name: bytes, deleted: int) -> None:
        """See `Kernel`."""
        pyfuse3.invalidate_entry(parent, name, deleted)


class Notifications:
    """Sends them from threads: one for those that may block, and one for those that do not."""

    def __init__(self, kernel: Kernel | None = None) -> None:
        self._kernel = kernel or FuseKernel()
        self._blocking = trio.CapacityLimiter(1)
        self._quick = trio.CapacityLimiter(1)
        self.disturbed: dict[int, bool] = {}
        """Of inodes whose attributes a process fetches: whether the kernel was sent a notification meanwhile.

        It drops an answer that was on its way then, as one that may be older than the notification.
        """

    async def attributes(self, inode: int) -> int:
        """Have an inode's attributes fetched anew; an errno, ENOENT where the kernel no longer has it."""

        def send() -> None:
            self._disturb(inode)
            self._kernel.inode(inode)
            self._disturb(inode)

        return await self._call(send, self._quick)

    def _disturb(self, inode: int) -> None:
        if inode in self.disturbed:
            self.disturbed[inode] = True

    async def entry(self, parent: int, name: bytes, deleted: int = 0) -> int:
        """Have a name looked up anew; an errno."""
        return await self._call(lambda: self._kernel.entry(parent, name, deleted), self._blocking)

    async def _call(self, fn: Callable[[], None], thread: trio.CapacityLimiter) -> int:
        def blocking(_end: float) -> int:
            try:
                fn()
            except OSError as exc:
                return exc.errno or errno.EIO
            return 0

        with trio.move_on_after(_PATIENCE_SECONDS):
            return await threads.run(blocking, thread)
        return errno.ETIMEDOUT
