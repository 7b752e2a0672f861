"""A change in the vault -> what watchers hear of it, in an order that loses no event (DESIGN §2).

By rename and unlink where the keeper can have them done (`announcements`), else by notifications, of which a watcher of
the folder hears nothing.
"""

from __future__ import annotations

import errno
import traceback
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

import trio

from keyvaultfs.filesystem.announcements import NOBODY, Announcement, Announcements, Do
from keyvaultfs.filesystem.folder import Folder
from keyvaultfs.filesystem.inodes.numbers import ROOT
from keyvaultfs.filesystem.notifications import Notifications
from keyvaultfs.log import LOG
from keyvaultfs.model import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from keyvaultfs.files.changes import Changed
    from keyvaultfs.files.tree import File
    from keyvaultfs.filesystem.inodes.nodes import Dirent, Node
    from keyvaultfs.filesystem.inodes.table import InodeTable
    from keyvaultfs.filesystem.notifications import Kernel
    from keyvaultfs.metrics import FilesystemMetrics

BOUNDED_SECONDS = 0.3
"""How long a LOOKUP that finds a rotation waits for its announcement (DESIGN §2)."""

A_SECOND = 50.0
"""How many names are announced in a second, but for those that somebody waits for."""

_LOOK_AGAIN_SECONDS = 0.02
_RETRY_SECONDS = 0.25
_ATTEMPTS = 20
_HELPER_SECONDS = 1.0
_FORGOTTEN_SECONDS = 0.1

_TAKEN_SECONDS = 5.0
"""How long after a look-up was answered its caller may take to run, and the kernel with it to have the inode."""


class Names(Protocol):
    """What is known of names."""

    def current(self, name: File) -> Node | None:
        """The inode that a name stands for, as far as is known without asking anybody."""

    def hanging(self) -> int:
        """How many look-ups wait for the network: a rename would wait for them, and others for the rename."""


class Rotation:
    """Announces, one name after the other: those first that somebody waits for.

    Args:
        ask: asks the keeper to have something done (`Announcements`).
        names: what is known of names.
        renames: whether to announce by rename.
        refreshes: whether the keeper can have an inode's attributes fetched by its handle.
        put_off: seconds for which an announcement is put off, at most, while a look-up waits for the network.
    """

    def __init__(
        self,
        table: InodeTable,
        metrics: FilesystemMetrics,
        *,
        ask: Callable[[str, str, str, int], bool],
        names: Callable[[], Names],
        renames: bool = True,
        refreshes: bool = True,
        put_off: float = 11.0,
        kernel: Kernel | None = None,
    ) -> None:
        self._table = table
        self._metrics = metrics
        self._names = names
        self._put_off = put_off
        self._notifications = Notifications(kernel)
        self.announcements = Announcements(table, ask, lambda name: names().current(name), self._switched)
        self.folder = Folder(table, self._queue)
        self.renames = renames
        self.unannounced: OrderedDict[str, trio.Event] = OrderedDict()
        """by folded name: what is to be announced, and an event set when a look-up need not wait for it any more"""
        self._urgent: set[str] = set()
        self._together: set[str] = set()
        self._stirred = trio.Event()
        self._last = -1.0
        self._refreshes = refreshes
        self._stale: OrderedDict[int, None] = OrderedDict()
        self._stale_stirred = trio.Event()
        self._seen_changed = table.changed
        self._attributes_changed = False
        self._forgotten: trio.MemorySendChannel[tuple[tuple[int, bytes], ...]]
        self._forgotten, self._to_forget = trio.open_memory_channel[tuple[tuple[int, bytes], ...]](8)
        for dirent in tuple(table.dirents.by_key.values()):
            if dirent.token:
                self.announcements.begin(_do(dirent), dirent)
            if dirent.token or dirent.pending:
                self._queue(dirent)
        for node in table.unfinished():
            if node.name.key not in self.unannounced:
                self.folder.changed(node.name, None)

    def supersede(self, node: Node, version: str | None = None, updated: int | None = None) -> trio.Event:
        """An inode loses its name: at once, from any handler.

        Args:
            version: what the name stands for now; None if for nothing that can be read.
            updated: of that version.

        Returns:
            An event set when the kernel has been told, or could not be.
        """
        self._table.supersede(node)
        if version is None:
            self.folder.gone(node.name)
        else:
            replaces = node.version == version or self._is_news(node, version)
            self.folder.seen(node.name, version, updated, replaces=replaces)
        key = node.name.key
        if key not in self.unannounced:
            done = trio.Event()
            done.set()
            return done
        self._urgent.add(key)
        self._stirred.set()
        return self.unannounced[key]

    def supersede_all(self, changes: Iterable[tuple[Node, str | None, int | None]]) -> None:
        """Names that change together: each has passed on before the first is announced."""
        for node, version, updated in changes:
            self.supersede(node, version, updated)
            if node.name.key in self.unannounced:
                self._together.add(node.name.key)

    def announced(self, node: Node) -> trio.Event:
        """As `supersede` returns, of an inode that lost its name already."""
        waiting = self.unannounced.get(node.name.key)
        if waiting is None:
            waiting = trio.Event()
            waiting.set()
        return waiting

    def confirm(self, node: Node) -> None:
        """A name stands for the same inode after all: only its metadata have changed."""
        self.folder.seen(node.name, node.version, node.updated)

    def can_wait(self) -> bool:
        """Whether an announcement may come within the time that a look-up waits for it."""
        return not self._names().hanging()

    def forget_entries(self, names: tuple[tuple[int, bytes], ...]) -> None:
        """Have the kernel look these names up again; best effort."""
        try:
            self._forgotten.send_nowait(names)
        except trio.WouldBlock:
            LOG.info("the kernel keeps its names for their time to live: too many refreshes at once")

    def stir(self) -> None:
        """The folder may have changed."""
        self._stirred.set()

    def reload(self) -> None:
        """The configuration may be another one: what it no longer names goes, and the rest is looked up anew."""
        for node in tuple(self._table.told.values()):
            if not node.name.recipe.sources:
                self.supersede(node)
        self.forget_entries(self._table.entries() + self._table.folders())
        self._attributes_changed = True

    async def follow(self, changes: trio.MemoryReceiveChannel[tuple[Changed, ...]]) -> None:
        """Take in what shows something else now: the whole set before the first is told. Runs until cancelled."""
        async for changed in changes:
            for change in changed:
                self._take_in(change)
            if len(changed) > 1:
                self._together |= {change.file.key for change in changed} & self.unannounced.keys()

    def _take_in(self, change: Changed) -> None:
        node = self._table.told.get(change.file.key)
        other = node is not None and node.version != change.new
        if change.gone or change.new == UNREADABLE:
            if node is None or other:
                self.folder.gone(change.file)
        elif change.new is None:
            self.folder.changed(change.file, change.updated)
        else:
            replaces = other and node is not None and self._is_news(node, change.new)
            self.folder.seen(
                change.file, change.new, change.updated, appeared=change.appeared, replaces=replaces
            )
        if node is not None and other and change.file.key in self.unannounced:
            self._table.supersede(node)
            self._urgent.add(change.file.key)

    async def run(self) -> None:
        """Announce what is to be announced. Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_forgotten)
            nursery.start_soon(self._run_refreshing)
            while True:
                await self._tell_the_folder()
                key = await self._next()
                done = self.unannounced[key]
                try:
                    await self._announce(key)
                except Exception as exc:  # noqa: BLE001 - the next rotation must not be lost
                    frames = "".join(traceback.format_tb(exc.__traceback__))
                    LOG.error("bug in announcement: %s\n%s", type(exc).__name__, frames)
                    self.unannounced.pop(key, None)
                finally:
                    done.set()

    def _is_news(self, node: Node, version: str) -> bool:
        """Whether watchers have not heard that the name passes from `node` on to `version`."""
        dirent = self._table.dirents.by_key.get(node.name.key)
        return dirent is None or not dirent.shown or dirent.version not in {None, version}

    def _queue(self, dirent: Dirent) -> None:
        if dirent.name.key not in self.unannounced:
            self.unannounced[dirent.name.key] = trio.Event()
            self._stirred.set()

    def _switched(self, dirent: Dirent) -> None:
        """The name has passed on: look-ups of it wait no more."""
        waiting = self.unannounced.get(dirent.name.key)
        if waiting is not None:
            waiting.set()

    async def _tell_the_folder(self) -> None:
        """Its times have moved; a rename makes the kernel ask for them, anything else does not."""
        if self._table.changed != self._seen_changed:
            self._seen_changed = self._table.changed
            await self._notifications.attributes(ROOT)

    async def _next(self) -> str:
        """The name to announce now, when it is time."""
        began = trio.current_time()
        while True:
            if not self.unannounced:
                self._stirred = trio.Event()
                await self._stirred.wait()
                await self._tell_the_folder()
                began = trio.current_time()
                continue
            now = trio.current_time()
            key = next((key for key in self._urgent if key in self.unannounced), None)
            paced = key is not None or now >= self._last + 1 / A_SECOND
            if paced and (not self._names().hanging() or now - began > self._put_off):
                self._last = now
                return key or next(iter(self.unannounced))
            await trio.sleep(_LOOK_AGAIN_SECONDS)

    async def _announce(self, key: str) -> None:
        for other in tuple(self._together):
            self._together.discard(other)
            if other != key:
                for parent, spelling in self._table.entries((other,)):
                    await self._notifications.entry(parent, spelling)
        self._urgent.discard(key)
        dirent = self._table.dirents.by_key.get(key)
        if dirent is not None and (dirent.pending or dirent.token):
            if self.renames:
                await self._by_rename(dirent)
            if dirent.pending and not self.renames:
                await self._by_notification(dirent)
        if dirent is not None and dirent.pending:
            self.unannounced[key] = trio.Event()  # it has moved on meanwhile
            self.unannounced.move_to_end(key)
        else:
            self.unannounced.pop(key, None)

    async def _by_rename(self, dirent: Dirent) -> None:
        parent = self._table.parent(dirent.name.key)
        others = self._table.spellings.get(dirent.name.key, set()) - {dirent.name.raw}
        for _ in range(_ATTEMPTS):
            if not (dirent.pending or dirent.token):
                return
            one = self.announcements.begin(_do(dirent), dirent)
            code = await self.announcements.carry_out(one)
            done = one.answered and code in {0, errno.ECHILD}
            if done or code not in {errno.EAGAIN, errno.ECHILD, errno.ETIMEDOUT}:
                dirent.token, dirent.answered = b"", False
                self._table.dirents.note(dirent)
            if done:
                self._metrics.notifications["renamed" if one.do is Do.RENAME else "unlinked"] += 1
                for spelling in others:
                    await self._notifications.entry(parent, spelling)
                await self._after(one.old)
                return
            if code == errno.ESHUTDOWN:
                return
            if _is_impossible(one, code):
                LOG.info("names cannot be renamed here (%s): changes are told by notifications", _words(code))
                self.renames = False
                return
            if code == 0:
                # The kernel saw one inode on both sides and did nothing: it has an entry that is no longer right.
                await self._notifications.entry(parent, dirent.name.raw)
            elif code == errno.EAGAIN:
                await trio.sleep(_RETRY_SECONDS)
        LOG.warning("a change of %r could not be announced by rename", dirent.name.path)
        await self._by_notification(dirent)

    async def _after(self, old: Node | None) -> None:
        """The inode that lost its name: does the kernel still hold it?"""
        if old is None or not self._table.has(old):
            return
        if await self._is_let_go(old):
            self._table.lost(old)
        else:
            self.want_refresh(old)

    async def _is_let_go(self, node: Node) -> bool:
        """Whether the kernel no longer has an inode. One that it was given a moment ago it may not have taken yet."""
        code = await self._notifications.attributes(node.inode)
        return code == errno.ENOENT and trio.current_time() - node.given > _TAKEN_SECONDS

    def want_refresh(self, node: Node) -> None:
        """An inode that lost its name may be bound elsewhere: it is to show the new bytes when nobody has it open."""
        if self._refreshes and node.superseded and not node.handles:
            self._stale[node.inode] = None
            self._stale_stirred.set()

    async def ask_again(self, node: Node) -> bool:
        """Have the kernel ask for an inode's attributes the next time that somebody wants them; whether it will."""
        with trio.move_on_after(BOUNDED_SECONDS):
            return await self._notifications.attributes(node.inode) == 0
        return False

    async def refresh(self, node: Node) -> bool:
        """Have another process want them now, so that the kernel has the size before any OPEN; whether it has."""
        if not self._refreshes:
            return False
        code = await self.announcements.carry_out(self.announcements.begin(Do.REFRESH, inode=node.inode))
        if code in {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP}:
            self._refreshes = False
        return code == 0

    async def _run_refreshing(self) -> None:
        while True:
            self._stale_stirred = trio.Event()
            await self._stale_stirred.wait()
            await trio.sleep(_FORGOTTEN_SECONDS)  # most are not bound, and are forgotten at once
            while self._stale:
                node = self._table.nodes.get(self._stale.popitem(last=False)[0])
                behind = node is not None and node.superseded and self.is_behind(node)
                if node is not None and behind and await self.ask_again(node):
                    # Nobody has it open and the kernel holds it still: no watch does that when it has heard its event.
                    node.bound = True
                    await self.refresh(node)

    def is_behind(self, node: Node) -> bool:
        """Whether an inode that lost its name shows other bytes than the name, and nobody has it open."""
        current = self._names().current(node.name)
        return (
            current is not None and self._table.content(node) is not current and not self._table.is_open(node)
        )

    async def _by_notification(self, dirent: Dirent) -> None:
        key = dirent.name.key
        old = self._table.loser(key) or self._table.told.get(key)
        if old is not None:
            self._table.supersede(old)
            if await self._is_let_go(old):
                self._metrics.notifications["unknown"] += 1
                self._table.notified(old)
                self._table.lost(old)
            else:
                await self._drop_entries(dirent, old)
        another = dirent.shown and self._table.loser(key) is not None
        dirent.told, dirent.changed, dirent.token = dirent.shown, another, b""
        self._table.dirents.note(dirent)
        self._switched(dirent)

    async def _drop_entries(self, dirent: Dirent, old: Node) -> None:
        parent = self._table.parent(dirent.name.key)
        spellings = self._table.spellings.get(dirent.name.key) or {dirent.name.raw}
        outcomes = [await self._notifications.entry(parent, name, old.inode) for name in spellings]
        if 0 not in outcomes and errno.ENOENT in outcomes and self._table.has(old):
            # The kernel has dropped the entry but holds the inode, as for a watch: make it take the entry once more.
            with trio.move_on_after(_HELPER_SECONDS):
                await self.announcements.carry_out(self.announcements.begin(Do.LOOK, dirent))
            outcomes = [await self._notifications.entry(parent, dirent.name.raw, old.inode)]
        self._metrics.notifications["sent" if 0 in outcomes else "failed"] += 1
        self._table.notified(old)

    async def _run_forgotten(self) -> None:
        async for names in self._to_forget:
            for parent, name in names:
                await self._notifications.entry(parent, name)
            if self._attributes_changed:
                self._attributes_changed = False
                for inode in (*self._table.nodes, *self._table.directories.by_inode, ROOT):
                    await self._notifications.attributes(inode)


def _do(dirent: Dirent) -> Do:
    return Do.RENAME if dirent.shown else Do.UNLINK


def _is_impossible(one: Announcement, code: int) -> bool:
    """Whether the kernel lets nobody rename here. The worker itself says EROFS to one whom it does not know."""
    if code in {errno.EACCES, errno.EPERM, errno.ENOSYS}:
        return True
    return code == errno.EROFS and one.pid == NOBODY and not one.resumed


def _words(code: int) -> str:
    return errno.errorcode.get(code, str(code))
