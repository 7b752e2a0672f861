"""Which changes in the vault are announced to watchers, when, and in an order that loses no event (DESIGN §2)."""

from __future__ import annotations

import traceback
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

import trio

from keyvaultfs.filesystem.announcements import Announcements
from keyvaultfs.filesystem.bound import Bound
from keyvaultfs.filesystem.folder import Folder
from keyvaultfs.filesystem.forgetting import Forgetting
from keyvaultfs.filesystem.inodes.numbers import ROOT
from keyvaultfs.filesystem.notifications import Notifications
from keyvaultfs.filesystem.telling import Telling
from keyvaultfs.log import LOG
from keyvaultfs.model import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyvaultfs.files.changes import Changed
    from keyvaultfs.files.tree import File
    from keyvaultfs.filesystem.inodes.nodes import Dirent, Node
    from keyvaultfs.filesystem.inodes.table import InodeTable
    from keyvaultfs.filesystem.notifications import Kernel
    from keyvaultfs.metrics import FilesystemMetrics

A_SECOND = 50.0
"""How many names are announced in a second, but for those that somebody waits for."""

_LOOK_AGAIN_SECONDS = 0.02


class Names(Protocol):
    """What rotation asks about names."""

    def current(self, name: File) -> Node | None:
        """The inode that a name stands for, as far as is known without asking anybody."""

    def is_hidden(self, name: File) -> bool:
        """Whether a name that cannot be read is not listed either, as one that is disabled."""

    def hanging(self) -> int:
        """How many look-ups wait for the network: a rename would wait for them, and others for the rename."""


class Rotation:
    """Announces changes one name after the other, beginning with those that a look-up waits for.

    Args:
        ask: asks the keeper to have something done (`Announcements`).
        names: answers questions about names.
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
        self._names = names
        self._put_off = put_off
        self._notifications = Notifications(kernel)
        self.announcements = Announcements(table, ask, lambda name: names().current(name), self._switched)
        self.folder = Folder(table, self._queue)
        self.bound = Bound(
            table,
            self._notifications,
            self.announcements,
            current=lambda name: names().current(name),
            refreshes=refreshes,
        )
        self.forgetting = Forgetting(table, self._notifications)
        self._telling = Telling(
            table,
            metrics,
            self._notifications,
            self.announcements,
            self.bound,
            renames=renames,
            switched=self._switched,
        )
        self.unannounced: OrderedDict[str, trio.Event] = OrderedDict()
        """by folded name: what is to be announced, and an event set when a look-up need not wait for it any more"""
        self._urgent: set[str] = set()
        self._together: set[str] = set()
        self._stirred = trio.Event()
        self._last = -1.0
        self._seen_changed = table.changed
        for dirent in tuple(table.dirents.by_key.values()):
            if dirent.token:
                self._telling.resume(dirent)
            if dirent.token or dirent.pending:
                self._queue(dirent)
        for node in table.unfinished():
            if node.name.key not in self.unannounced:
                self.folder.changed(node.name, None)

    def supersede(self, node: Node, version: str | None = None, updated: int | None = None) -> trio.Event:
        """Take the name from an inode. Any handler may call this; the change is announced later.

        Args:
            version: what the name stands for now; None if for nothing.
            updated: of that version.

        Returns:
            An event that is set when the change was announced, or could not be.
        """
        self._table.supersede(node)
        if version is None or (version == UNREADABLE and self._names().is_hidden(node.name)):
            self.folder.gone(node.name)
        elif version == UNREADABLE:
            self.folder.refused(node.name, replaces=self._is_news(node, version))
        else:
            replaces = node.version == version or self._is_news(node, version)
            self.folder.found(node.name, version, updated, replaces=replaces)
        key = node.name.key
        if key not in self.unannounced:
            done = trio.Event()
            done.set()
            return done
        self._urgent.add(key)
        self._stirred.set()
        return self.unannounced[key]

    def announced(self, node: Node) -> trio.Event:
        """As `supersede` returns, of an inode that lost its name already."""
        waiting = self.unannounced.get(node.name.key)
        if waiting is None:
            waiting = trio.Event()
            waiting.set()
        return waiting

    def confirm(self, node: Node) -> None:
        """A name stands for the same inode after all: only its metadata have changed."""
        self.folder.found(node.name, node.version, node.updated)

    def can_wait(self) -> bool:
        """Whether an announcement may come within the time that a look-up waits for it."""
        return not self._names().hanging()

    def stir(self) -> None:
        """Look for something to announce: the folder may have changed."""
        self._stirred.set()

    def reload(self) -> None:
        """The configuration may be another one: what it no longer names goes, and the rest is looked up anew."""
        for node in tuple(self._table.entries.nodes.values()):
            if not node.name.recipe.sources:
                self.supersede(node)
        self.forgetting.everything()

    async def follow(self, changes: trio.MemoryReceiveChannel[tuple[Changed, ...]]) -> None:
        """Take in sets of changed files: all of a set pass on before the first is announced. Runs until cancelled."""
        async for changed in changes:
            for change in changed:
                self._take_in(change)
            if len(changed) > 1:
                self._together |= {change.file.key for change in changed} & self.unannounced.keys()

    def _take_in(self, change: Changed) -> None:
        node = self._table.entries.nodes.get(change.file.key)
        other = node is not None and node.version != change.new
        if change.gone:
            if node is None or other:
                self.folder.gone(change.file)
        elif change.new == UNREADABLE:
            self.folder.refused(change.file, replaces=node is not None and self._is_news(node, UNREADABLE))
        elif change.new is None:
            self.folder.changed(change.file, change.updated)
        else:
            replaces = other and node is not None and self._is_news(node, change.new)
            self.folder.found(
                change.file, change.new, change.updated, appeared=change.appeared, replaces=replaces
            )
        if node is not None and other and change.file.key in self.unannounced:
            self._table.supersede(node)
            self._urgent.add(change.file.key)

    async def run(self) -> None:
        """Announce what is to be announced. Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.forgetting.run)
            nursery.start_soon(self.bound.run)
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
        """Whether watchers have not heard yet that the name passes from `node` to `version`."""
        dirent = self._table.dirents.by_key.get(node.name.key)
        return dirent is None or not dirent.present or dirent.version not in {None, version}

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
        """Have the kernel ask for the folder's new times, which it does by itself only after a rename."""
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
                await self._telling.look_up_anew(self._table.entries.of_files((other,)))
        self._urgent.discard(key)
        dirent = self._table.dirents.by_key.get(key)
        if dirent is not None and (dirent.pending or dirent.token):
            await self._telling.tell(dirent)
        if dirent is not None and dirent.pending:
            self.unannounced[key] = trio.Event()  # it has moved on meanwhile
            self.unannounced.move_to_end(key)
        else:
            self.unannounced.pop(key, None)
