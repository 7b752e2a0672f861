"""Has the kernel drop its entries of names, so that it looks them up again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from keyvaultfs.filesystem.inodes.numbers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keyvaultfs.filesystem.inodes.table import InodeTable
    from keyvaultfs.filesystem.notifications import Notifications


class Forgetting:
    """A queue of names, each in it once, and worked off one by one: a notification may wait for a directory."""

    def __init__(self, table: InodeTable, notifications: Notifications) -> None:
        self._table = table
        self._notifications = notifications
        self._names: dict[tuple[int, bytes], None] = {}
        self._attributes = False
        self._stirred = trio.Event()

    def entries(self, names: Iterable[tuple[int, bytes]]) -> None:
        """Queue these entries, each a directory and a name in it; best effort."""
        self._names.update(dict.fromkeys(names))
        self._stirred.set()

    def everything(self) -> None:
        """Queue all names, of folders too, and have the attributes of all inodes asked for again."""
        self._attributes = True
        self.entries(self._table.entries.of_files() + self._table.entries.of_folders())

    async def run(self) -> None:
        """Work the queue off. Runs until cancelled."""
        while True:
            self._stirred = trio.Event()
            while self._names:
                parent, name = next(iter(self._names))
                del self._names[parent, name]
                await self._notifications.entry(parent, name)
            if self._attributes:
                self._attributes = False
                for inode in (*self._table.nodes, *self._table.directories.by_inode, ROOT):
                    await self._notifications.attributes(inode)
            if not self._names:
                await self._stirred.wait()
