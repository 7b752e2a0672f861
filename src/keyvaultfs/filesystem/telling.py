"""How one change is announced to watchers.

By rename and unlink where the keeper can have them done (`announcements`), else by notifications, of which a watcher of
the folder hears nothing.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import trio

from keyvaultfs.filesystem.announcements import NOBODY, Announcement, Announcements, Do
from keyvaultfs.log import LOG

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyvaultfs.filesystem.bound import Bound
    from keyvaultfs.filesystem.inodes.nodes import Dirent, Node
    from keyvaultfs.filesystem.inodes.table import InodeTable
    from keyvaultfs.filesystem.notifications import Notifications
    from keyvaultfs.metrics import FilesystemMetrics

_RETRY_SECONDS = 0.25
_ATTEMPTS = 20
_HELPER_SECONDS = 1.0
_HELPED = 3
"""How often the child is asked to look a name up: it may be killed meanwhile."""

_TAKEN_SECONDS = 5.0
"""How long after a look-up was answered its caller may take to run, and the kernel with it to have the inode."""

_IS_DONE = frozenset({0, errno.ECHILD, errno.ENOENT})
"""What the child says of a rename that was answered: it has ended, it was killed, or another did it before."""

_IS_TRIED_AGAIN = frozenset({errno.EAGAIN, errno.ECHILD, errno.ETIMEDOUT, errno.ESTALE})


class Telling:
    """Announces one change after the other.

    Args:
        renames: whether by rename.
        switched: called when a name has passed on to its new inode.
    """

    def __init__(
        self,
        table: InodeTable,
        metrics: FilesystemMetrics,
        notifications: Notifications,
        announcements: Announcements,
        bound: Bound,
        *,
        renames: bool,
        switched: Callable[[Dirent], None],
    ) -> None:
        self._table = table
        self._metrics = metrics
        self._notifications = notifications
        self._announcements = announcements
        self._bound = bound
        self._switched = switched
        self.renames = renames

    def resume(self, dirent: Dirent) -> None:
        """Recognize the child that a predecessor has asked for."""
        self._announcements.begin(_do(dirent), dirent)

    async def tell(self, dirent: Dirent) -> None:
        """Announce what is pending for a name. Meanwhile it may change again, and so be pending again."""
        if self.renames:
            await self._by_rename(dirent)
        if dirent.pending and not self.renames:
            await self._by_notification(dirent)

    async def look_up_anew(self, names: tuple[tuple[int, bytes], ...]) -> None:
        """Have the kernel look these names up the next time."""
        for parent, spelling in names:
            await self._notifications.entry(parent, spelling)

    async def _by_rename(self, dirent: Dirent) -> None:
        for _ in range(_ATTEMPTS):
            if not (dirent.pending or dirent.token):
                return
            one = self._announcements.begin(_do(dirent), dirent)
            code = await self._announcements.carry_out(one)
            if self._is_done(one, dirent, code):
                await self._was_renamed(one, dirent)
                return
            if code == errno.ESHUTDOWN:
                return
            if _is_impossible(one, code):
                LOG.info("names cannot be renamed here (%s): changes are told by notifications", _words(code))
                self.renames = False
                return
            if code == 0:
                # The kernel saw one inode on both sides and did nothing: it has an entry that is no longer right.
                await self._notifications.entry(self._table.entries.parent(dirent.name.key), dirent.name.raw)
            elif code == errno.EAGAIN:
                await trio.sleep(_RETRY_SECONDS)
        LOG.warning("a change of %r could not be announced by rename", dirent.name.path)
        await self._by_notification(dirent)

    def _is_done(self, one: Announcement, dirent: Dirent, code: int) -> bool:
        """Whether an announcement is over; one that must go on keeps its token."""
        done = one.answered and code in _IS_DONE
        if done or code not in _IS_TRIED_AGAIN:
            dirent.token, dirent.answered = b"", False
        elif code == errno.ESTALE:  # a take-over undid the answer, and the kernel does not try again
            dirent.answered = False
        self._table.dirents.note(dirent)
        return done

    async def _was_renamed(self, one: Announcement, dirent: Dirent) -> None:
        self._metrics.notifications["renamed" if one.do is Do.RENAME else "unlinked"] += 1
        parent = self._table.entries.parent(dirent.name.key)
        for spelling in self._table.entries.spellings.get(dirent.name.key, ()):
            if spelling != dirent.name.raw:
                await self._notifications.entry(parent, spelling)
        await self._after(one.old)

    async def _after(self, old: Node | None) -> None:
        """The inode that lost its name: does the kernel still hold it?"""
        if old is None or not self._table.has(old):
            return
        if await self._is_let_go(old):
            self._table.lost(old)
        else:
            self._bound.want(old)

    async def _is_let_go(self, node: Node) -> bool:
        """Whether the kernel no longer has an inode. One that it was given a moment ago it may not have taken yet."""
        code = await self._notifications.attributes(node.inode)
        return code == errno.ENOENT and trio.current_time() - node.given > _TAKEN_SECONDS

    async def _by_notification(self, dirent: Dirent) -> None:
        key = dirent.name.key
        old = self._table.entries.first_superseded(key) or self._table.entries.nodes.get(key)
        if old is not None:
            self._table.supersede(old)
            if await self._is_let_go(old):
                self._metrics.notifications["unknown"] += 1
                self._table.notified(old)
                self._table.lost(old)
            else:
                await self._drop_entries(dirent, old)
        another = dirent.present and self._table.entries.first_superseded(key) is not None
        dirent.announced, dirent.changed, dirent.token = dirent.present, another, b""
        self._table.dirents.note(dirent)
        self._switched(dirent)

    async def _drop_entries(self, dirent: Dirent, old: Node) -> None:
        parent = self._table.entries.parent(dirent.name.key)
        spellings = self._table.entries.spellings.get(dirent.name.key) or (dirent.name.raw,)
        outcomes = [await self._notifications.entry(parent, name, old.inode) for name in spellings]
        for _ in range(_HELPED):
            if 0 in outcomes or errno.ENOENT not in outcomes or not self._table.has(old):
                break
            # The kernel has dropped the entry but holds the inode, as for a watch: make it take the entry once more.
            with trio.move_on_after(_HELPER_SECONDS):
                await self._announcements.carry_out(self._announcements.begin(Do.LOOK, dirent))
            outcomes = [await self._notifications.entry(parent, dirent.name.raw, old.inode)]
        self._metrics.notifications["sent" if 0 in outcomes else "failed"] += 1
        self._table.notified(old)


def _do(dirent: Dirent) -> Do:
    return Do.RENAME if dirent.present else Do.UNLINK


def _is_impossible(one: Announcement, code: int) -> bool:
    """Whether the kernel lets nobody rename here. The worker itself says EROFS to one whom it does not know."""
    if code in {errno.EACCES, errno.EPERM, errno.ENOSYS}:
        return True
    return code == errno.EROFS and one.pid == NOBODY and not one.resumed


def _words(code: int) -> str:
    return errno.errorcode.get(code, str(code))
