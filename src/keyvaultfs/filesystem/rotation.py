"""A rotation in the vault -> notifications to the kernel, in the order that makes inotify fire (DESIGN §2)."""

from __future__ import annotations

import errno
import traceback
from typing import TYPE_CHECKING, Protocol

import pyfuse3
import trio

from keyvaultfs import threads
from keyvaultfs.filesystem.inodes import numbers
from keyvaultfs.log import LOG

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from keyvaultfs.files.changes import Changed
    from keyvaultfs.filesystem.inodes.nodes import Node
    from keyvaultfs.filesystem.inodes.table import InodeTable
    from keyvaultfs.metrics import FilesystemMetrics

BOUNDED_SECONDS = 0.3
"""How long a LOOKUP that finds a rotation waits for its notification (DESIGN §2)."""

_PATIENCE_SECONDS = 60.0
_PUT_OFF_SECONDS = 1.0
_HELPER_SECONDS = 1.0


class Kernel(Protocol):
    """The notifications, which block: each but the first takes the directory's lock."""

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


class Rotation:
    """Notifies the kernel of inodes that lost their name. One thread, since a notification may block.

    Args:
        helper: asks the keeper to look a name up once, from another process, and never waits.
        pending: how many look-ups wait for the network; a notification is put off while there are any.
    """

    def __init__(
        self,
        table: InodeTable,
        metrics: FilesystemMetrics,
        helper: Callable[[bytes], None],
        pending: Callable[[], int],
        kernel: Kernel | None = None,
    ) -> None:
        self._table = table
        self._metrics = metrics
        self._helper = helper
        self._pending = pending
        self._kernel = kernel or FuseKernel()
        self._thread = trio.CapacityLimiter(1)
        self._asking = trio.CapacityLimiter(1)
        self._to_ask: trio.MemorySendChannel[tuple[Node, trio.Event, trio.Event]]
        self._to_notify: trio.MemorySendChannel[tuple[Node, trio.Event]]
        self._to_ask, self._asked = trio.open_memory_channel[tuple["Node", trio.Event, trio.Event]](10**9)
        self._to_notify, self._notified = trio.open_memory_channel[tuple["Node", trio.Event]](10**9)
        self._attributes_changed = False
        self._queued: dict[int, tuple[trio.Event, trio.Event]] = {}
        self.old_answers: dict[str, tuple[Node, trio.Event]] = {}
        """by folded name: what a look-up of the helper is to be answered with"""
        self._forgotten: trio.MemorySendChannel[tuple[tuple[int, bytes], ...]]
        self._forgotten, self._to_forget = trio.open_memory_channel[tuple[tuple[int, bytes], ...]](8)

    def supersede(self, node: Node) -> tuple[trio.Event, trio.Event]:
        """Mark an inode and queue its notification: at once, from any handler.

        Returns:
            An event set when the kernel was asked to fetch the inode's attributes anew, and one set when all was tried.
        """
        if node.inode not in self._queued:
            self._table.supersede(node)
            self._queued[node.inode] = events = (trio.Event(), trio.Event())
            self._to_ask.send_nowait((node, *events))
        return self._queued[node.inode]

    def forget_entries(self, names: tuple[tuple[int, bytes], ...]) -> None:
        """Have the kernel look these names up again; best effort."""
        try:
            self._forgotten.send_nowait(names)
        except trio.WouldBlock:
            LOG.info("the kernel keeps its names for their time to live: too many refreshes at once")

    def reload(self) -> None:
        """The configuration may be another one: what it no longer names goes, and the rest is looked up anew."""
        for node in tuple(self._table.told.values()):
            if not node.name.recipe.sources:
                self.supersede(node)
        self.forget_entries(self._table.entries() + self._table.folders())
        self._attributes_changed = True

    async def follow(self, changes: trio.MemoryReceiveChannel[tuple[Changed, ...]]) -> None:
        """Supersede what shows something else now: the whole set before the first is told. Runs until cancelled."""
        async for changed in changes:
            for change in changed:
                node = self._table.told.get(change.file.key)
                if node is None or node.version == change.new:
                    continue
                if change.new is not None or change.old in {None, node.version}:
                    self.supersede(node)

    async def run(self) -> None:
        """Send what is queued, one after the other. Runs until cancelled."""
        for node in self._table.unfinished():
            self.supersede(node)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_forgotten)
            nursery.start_soon(self._run_asking)
            async for node, done in self._notified:
                try:
                    await self._notify(node)
                except Exception as exc:  # noqa: BLE001 - the next rotation must not be lost
                    frames = "".join(traceback.format_tb(exc.__traceback__))
                    LOG.error("bug in notification: %s\n%s", type(exc).__name__, frames)
                finally:
                    self._queued.pop(node.inode, None)
                    done.set()

    async def _run_asking(self) -> None:
        """Have attributes fetched anew: in a thread apart, since it takes no lock and an OPEN waits for it."""
        async for node, asked, done in self._asked:
            held = await self._call(_asking(self._kernel, node.inode), self._asking)
            asked.set()
            if held == errno.ENOENT:
                self._metrics.notifications["unknown"] += 1
                self._table.notified(node)
                self._table.lost(node)
                self._queued.pop(node.inode, None)
                done.set()
            else:
                self._to_notify.send_nowait((node, done))

    async def _notify(self, node: Node) -> None:
        with trio.move_on_after(_PUT_OFF_SECONDS):
            while self._pending():  # noqa: ASYNC110 - a second at most, and a count has no event
                await trio.sleep(0.02)
        key = node.name.key
        spellings = self._table.spellings.get(key) or {node.name.raw}
        outcomes = [await self._entry(name, node) for name in spellings]
        if 0 not in outcomes and errno.ENOENT in outcomes and self._table.has(node):
            # The kernel has dropped the entry but holds the inode, as for a watch: make it take the entry once more.
            name = next(iter(spellings))
            seen = trio.Event()
            self.old_answers[key] = (node, seen)
            try:
                self._helper(f"{node.name.folder}/".encode() + name if node.name.folder else name)
                with trio.move_on_after(_HELPER_SECONDS):
                    await seen.wait()
                    await trio.sleep(
                        0.01
                    )  # until the kernel has taken the answer; the notification waits for it anyway
                outcomes = [await self._entry(name, node)]
            finally:
                self.old_answers.pop(key, None)
        self._metrics.notifications["sent" if 0 in outcomes else "failed"] += 1
        self._table.notified(node)

    async def _entry(self, name: bytes, node: Node) -> int:
        parent = self._table.parent(node.name.key)
        return await self._call(lambda: self._kernel.entry(parent, name, node.inode))

    async def _call(self, fn: Callable[[], None], thread: trio.CapacityLimiter | None = None) -> int:
        def blocking(_end: float) -> int:
            try:
                fn()
            except OSError as exc:
                return exc.errno or errno.EIO
            return 0

        with trio.move_on_after(_PATIENCE_SECONDS):
            return await threads.run(blocking, thread or self._thread)
        return errno.ETIMEDOUT

    async def _run_forgotten(self) -> None:
        async for names in self._to_forget:
            for parent, name in names:
                await self._call(_forgetting(self._kernel, parent, name))
            if self._attributes_changed:
                self._attributes_changed = False
                for inode in (*self._table.nodes, *self._table.directories.by_inode, numbers.ROOT):
                    await self._call(_asking(self._kernel, inode), self._asking)


def _asking(kernel: Kernel, inode: int) -> Callable[[], Any]:
    return lambda: kernel.inode(inode)


def _forgetting(kernel: Kernel, parent: int, name: bytes) -> Callable[[], Any]:
    return lambda: kernel.entry(parent, name, 0)
