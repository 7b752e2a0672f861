"""Inodes that a bind mount holds though they lost their names: each comes to show what its name shows."""

from __future__ import annotations

import errno
from collections import OrderedDict
from typing import TYPE_CHECKING

import trio

from keyvaultfs.filesystem.announcements import Announcements, Do

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyvaultfs.files.tree import File
    from keyvaultfs.filesystem.inodes.nodes import Node
    from keyvaultfs.filesystem.inodes.table import InodeTable
    from keyvaultfs.filesystem.notifications import Notifications

BOUNDED_SECONDS = 0.3
"""How long a request of the kernel waits for an announcement."""

_LET_GO_SECONDS = 0.1
_AGAIN_SECONDS = 0.05


class Bound:
    """Has the kernel fetch the attributes of such inodes anew, so that it has the new size before anybody opens one.

    Args:
        current: the inode that a name stands for, as far as is known without asking anybody.
        refreshes: whether the keeper can have an inode's attributes fetched by its handle.
    """

    def __init__(
        self,
        table: InodeTable,
        notifications: Notifications,
        announcements: Announcements,
        *,
        current: Callable[[File], Node | None],
        refreshes: bool,
    ) -> None:
        self._table = table
        self._notifications = notifications
        self._announcements = announcements
        self._current = current
        self._refreshes = refreshes
        self._stale: OrderedDict[int, None] = OrderedDict()
        self._switching: dict[int, trio.Event] = {}
        self._told: dict[int, set[int]] = {}
        self._stirred = trio.Event()

    def is_behind(self, node: Node) -> bool:
        """Whether an inode that lost its name shows other bytes than the name, and nobody has it open."""
        current = self._current(node.name)
        return (
            current is not None
            and self._table.content(node) is not current
            and not self._table.handles.is_open(node)
        )

    def want(self, node: Node) -> None:
        """An inode that lost its name may be bound elsewhere: it is to show the new bytes when nobody has it open."""
        if self._refreshes and node.superseded and not node.handles:
            self._stale[node.inode] = None
            self._stirred.set()

    def told(self, node: Node) -> None:
        """Somebody else than the keeper's child is given an inode's attributes.

        The kernel drops the child's answer, as one that may be older, if it takes this one in while the child waits.
        """
        sizes = self._told.get(node.inode)
        if sizes is not None:
            sizes.add(self._table.content(node).size)

    async def ask_again(self, node: Node) -> bool:
        """Have the kernel ask for an inode's attributes the next time that somebody wants them; whether it will."""
        with trio.move_on_after(BOUNDED_SECONDS):
            return await self._notifications.attributes(node.inode) == 0
        return False

    async def switch(self, node: Node) -> None:
        """Have an inode without a name show the current bytes, if nobody has it open.

        Never before the kernel has their size, as far as that can be: for splice(2) it goes by the size that it has
        without asking again, and with the new bytes a password would be cut short. Whoever comes while it is under
        way waits for its end.
        """
        waiting = self._switching.get(node.inode)
        if waiting is not None:
            await waiting.wait()
            return
        self._switching[node.inode] = ended = trio.Event()
        try:
            while self._refreshes:
                # Answers to requests from before the notification are dropped; those from here on may be taken in.
                self._told[node.inode] = set()
                if not (await self.ask_again(node) and await self._refresh(node)):
                    break
            if not self._refreshes and await self.ask_again(node):
                self._switch_unsure(node)
        finally:
            self._told.pop(node.inode, None)
            del self._switching[node.inode]
            ended.set()

    async def make_sure(self, node: Node) -> None:
        """As `switch`, until the kernel has the size of what an inode shows. Ends at once if no child may fetch it."""
        while node.unsure and self._refreshes:
            await self.switch(node)
            if node.unsure:
                await trio.sleep(_AGAIN_SECONDS)

    def _switch_unsure(self, node: Node) -> None:
        """Without a child, which no mount of a user's has for this."""
        current = self._current(node.name)
        if current is not None and self.is_behind(node) and self._table.has(node):
            node.unsure = True
            self._table.show(node, current)

    async def _refresh(self, node: Node) -> bool:
        """Have another process fetch them now, so that the kernel has the size before any OPEN.

        The kernel has it when that process has run, which on a busy machine is long after our answer to it.

        Returns:
            Whether to try again: the kernel may have dropped that answer.
        """
        disturbed = self._notifications.disturbed
        disturbed[node.inode] = False
        try:
            one = self._announcements.begin(Do.REFRESH, inode=node.inode)
            code = await self._announcements.carry_out(one)
        finally:
            old_sizes = self._told[node.inode] - {self._table.content(node).size}
            again = disturbed.pop(node.inode) or bool(old_sizes)
        if code in {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP}:
            self._refreshes = False
        if code == 0 and not again:
            node.unsure = False
        return code == 0 and again

    async def run(self) -> None:
        """Refresh those that are wanted. Runs until cancelled."""
        while True:
            self._stirred = trio.Event()
            await self._stirred.wait()
            await trio.sleep(_LET_GO_SECONDS)  # most are not bound, and are forgotten at once
            while self._stale:
                node = self._table.nodes.get(self._stale.popitem(last=False)[0])
                behind = node is not None and node.superseded and self.is_behind(node)
                if node is not None and behind and await self.ask_again(node):
                    # Nobody has it open and the kernel holds it still: no watch does that when it has heard its event.
                    node.bound = True
                    await self.switch(node)
