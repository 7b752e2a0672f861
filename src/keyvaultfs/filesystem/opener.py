"""Which bytes an OPEN gets. An inode without a name shows new bytes only once the kernel has their size."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pyfuse3
import trio

from keyvaultfs.filesystem.bound import BOUNDED_SECONDS
from keyvaultfs.filesystem.inodes.nodes import State
from keyvaultfs.filesystem.retries import Came
from keyvaultfs.model import UNREADABLE

if TYPE_CHECKING:
    from keyvaultfs.files.editions import Editions
    from keyvaultfs.filesystem.inodes.nodes import Handle, Node
    from keyvaultfs.filesystem.inodes.table import InodeTable
    from keyvaultfs.filesystem.resolver import Resolver
    from keyvaultfs.filesystem.rotation import Rotation

_SWITCH_SECONDS = 2.0
"""How long an OPEN waits for the kernel to get the size of new bytes, where the old ones will do."""

_SURE_SECONDS = 6.0
"""How long it waits at most where the old ones are shown no more: splice(2) would cut new ones at the old size."""

_CURRENT = State.CURRENT
"""Each warm open and close asks for it; to get it from the class takes as long as a call."""


class Opener:
    """Opens, reads and closes files."""

    def __init__(self, editions: Editions, table: InodeTable, rotation: Rotation, resolver: Resolver) -> None:
        self._editions = editions
        self._table = table
        self._rotation = rotation
        self._resolver = resolver
        self._retries = resolver.retries
        self._values = editions.kept(
            {
                handle.fh: (handle.content.name, handle.content.version)
                for handle in table.handles.by_number.values()
                if not handle.doubtful  # what those show is still to be seen
            }
        )
        # As trio.current_time(), which finds the clock anew with each call.
        self._now = trio.lowlevel.current_clock().current_time

    def open_now(self, node: Node, thread: int = 0) -> tuple[Handle, bool] | None:
        """As `open`, where that need not wait, else None."""
        current = node.state is _CURRENT
        if not current and node.pinned and node.version != UNREADABLE:
            return self._opened(node), True
        now = self._now()
        if self._retries.waiting and self._came_again(node, thread, now):
            return self._opened(node), current
        edition = self._editions.opened(node.name, now)
        if edition is None:
            return None
        if current and node.version == edition.id:
            return self._opened(node), True
        if node.version == UNREADABLE or now >= node.promised or node.content_inode != node.inode:
            return None
        return self._opened(node), True

    def _came_again(self, node: Node, thread: int, now: float) -> bool:
        """Whether an open that was sent back has come to an inode by its name. It is served whatever has passed since.

        It would fail if it were sent back again, and the inode had the name a moment ago, after the open began.
        """
        came = self._retries.came(node, thread, now)
        if came is Came.BOUND and node.superseded:
            node.bound = True
        return came is Came.AGAIN and node.version != UNREADABLE and node.content_inode == node.inode

    async def open(
        self, node: Node, patience: float, uid: int | None = None, thread: int = 0
    ) -> tuple[Handle, bool]:
        """Open an inode that `open_now` did not.

        Returns:
            The handle, and whether the kernel may keep the pages that it has.

        Raises:
            pyfuse3.FUSEError: ESTALE when the name now stands for another inode: the kernel walks the path again.
        """
        self._editions.touch(node.name)
        edition = await self._resolver.edition(node.name, patience, uid)
        if node.state is State.CURRENT:
            if node.version == edition.id:
                return self._opened(node), True
            self._rotation.supersede(node, edition.id, edition.updated)
        elif node.pinned:  # it could not be read, and can be: another inode shows it
            raise pyfuse3.FUSEError(errno.ESTALE)
        # A bind mount, or a path through /proc/PID/fd, leads to an inode without a name; or the name was lost just now.
        if not node.bound:
            await self._send_back(node, thread)
        current = await self._resolver.node(edition)
        behind = self._table.content(node) is not current
        if node.unsure or (behind and not self._table.handles.is_open(node)):
            await self._switch(node, patience)
        if self._table.content(node).version == UNREADABLE:  # it would read as an empty file
            raise pyfuse3.FUSEError(errno.ESTALE)
        return self._opened(node), False

    async def _switch(self, node: Node, patience: float) -> None:
        """Have the inode show the current bytes. Once it may, it is served when the kernel has their size."""
        with trio.move_on_after(min(_SURE_SECONDS, patience)):
            with trio.move_on_after(_SWITCH_SECONDS):
                await self._rotation.bound.switch(node)
            await self._rotation.bound.make_sure(node)

    async def _send_back(self, node: Node, thread: int) -> None:
        """Answer ESTALE, if that leads to the new inode: to one who came by the name just before it passed on.

        With the old inode open, and showing new bytes, a watch on it would not hear of its end. Just after a
        take-over nobody is sent back: it may be the second try, after a look-up that the predecessor answered.
        """
        if node.state is State.SUPERSEDED and self._rotation.can_wait():
            with trio.move_on_after(BOUNDED_SECONDS):
                await self._rotation.announced(node).wait()
        now = trio.current_time()
        if now >= self._retries.lenient_until:
            self._retries.sent_back(node, thread, now)
            raise pyfuse3.FUSEError(errno.ESTALE)

    def read_now(self, handle: Handle, offset: int, size: int) -> bytes | None:
        """As `read`, where the bytes are in memory, else None."""
        value = self._values.get(handle.fh)
        return None if value is None else value.reveal()[offset : offset + size]

    async def read(self, handle: Handle, offset: int, size: int) -> bytes:
        """Bytes of the edition that the file was opened on.

        Raises:
            NotFound, Refused, Unavailable, trio.TooSlowError, CannotMake: as `Editions.value`.
        """
        node = handle.content
        value = self._values.get(handle.fh) or await self._editions.value(node.name, node.version)
        return value.reveal()[offset : offset + size]

    def release(self, fh: int) -> None:
        """Close a handle."""
        self._values.pop(fh, None)
        handle = self._table.release(fh)
        if handle is not None and handle.node.state is not _CURRENT and handle.node.superseded:
            self._rotation.bound.want(handle.node)

    def _opened(self, node: Node) -> Handle:
        handle = self._table.open(node)
        # An open file keeps its bytes even when the cache lets them go or the vault loses the version.
        content = handle.content
        self._values[handle.fh] = self._editions.peek_value(content.name, content.version)
        return handle
