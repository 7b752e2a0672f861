"""A rotation as a rename(2): how the child that renames is recognized, and what it is answered (DESIGN §2).

The keeper's child renames a made-up name over the secret's. The made-up name is random and used once, so whoever looks
it up is that child, and it is answered as nobody else is: the made-up name is the new inode, the secret's name the old
one, or nothing if it appears. Everybody else gets the old inode until the rename is answered, and then the new one.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyfuse3 import InodeT

    from keyvaultfs.files.tree import File
    from keyvaultfs.filesystem.inodes.nodes import Dirent, Node
    from keyvaultfs.filesystem.inodes.table import InodeTable

_PATIENCE_SECONDS = 60.0
NOBODY = -1


class Do(Enum):
    """What the child does, in the words of `keyvaultfs.keeper.announce`."""

    RENAME = "rename"
    UNLINK = "unlink"
    LOOK = "look"
    REFRESH = "refresh"


@dataclass(slots=True, eq=False)
class Announcement:
    """One that is on its way.

    Attributes:
        old: the inode that loses the name; None where the kernel was given none.
        new: the one that gets it; None where nobody has looked for it yet, or there is none.
        number: of what stands in the place of `new`.
        pid: the child, once it has come.
        answered: the kernel has had the answer to its RENAME or UNLINK.
        code: the errno of the child.
        resumed: a predecessor began it.
    """

    do: Do
    token: bytes
    dirent: Dirent | None = None
    inode: int = 0
    old: Node | None = None
    new: Node | None = None
    number: int = 0
    pid: int = NOBODY
    answered: bool = False
    code: int | None = None
    resumed: bool = False
    ended: trio.Event = field(default_factory=trio.Event)

    @property
    def made_up(self) -> bytes:
        """The name that is renamed."""
        return b"." + self.token.hex().encode()


class Announcements:
    """Has them carried out, and answers the child.

    Args:
        ask: asks the keeper: token, what to do, a name, an inode. False if that cannot be sent now.
        current: the inode that a name stands for, as far as is known without asking anybody.
        switched: is told when a name has passed on, before the kernel is.
    """

    def __init__(
        self,
        table: InodeTable,
        ask: Callable[[str, str, str, int], bool],
        current: Callable[[File], Node | None],
        switched: Callable[[Dirent], None],
    ) -> None:
        self._table = table
        self._ask = ask
        self._current = current
        self._switched = switched
        self._under_way: dict[bytes, Announcement] = {}
        self.pid = NOBODY
        """of the child that is at work"""

    def begin(self, do: Do, dirent: Dirent | None = None, inode: int = 0) -> Announcement:
        """Prepare one. What a predecessor began is gone on with under its token."""
        if dirent is not None and dirent.token:
            for one in self._under_way.values():
                if one.dirent is dirent:
                    return one
        token = os.urandom(8) if dirent is None or not dirent.token else dirent.token
        one = Announcement(do, token, dirent, inode)
        if dirent is not None:
            one.resumed = bool(dirent.token)
            one.answered = dirent.answered and one.resumed
        if dirent is not None and do is not Do.LOOK:
            dirent.token, dirent.answered = token, one.answered
            self._table.dirents.note(dirent)
        self._under_way[one.made_up] = one
        return one

    async def carry_out(self, one: Announcement) -> int:
        """Have it done; returns an errno, 0 for success."""
        name = "" if one.dirent is None else one.dirent.name.path
        try:
            if not self._ask(one.token.hex(), one.do.value, name, one.inode):
                return errno.EAGAIN
            with trio.move_on_after(_PATIENCE_SECONDS):
                await one.ended.wait()
        finally:
            self._under_way.pop(one.made_up, None)
            if not any(other.pid == self.pid for other in self._under_way.values()):
                self.pid = NOBODY  # and not while the child is at the next one
        return errno.ETIMEDOUT if one.code is None else one.code

    def ended(self, token: str, code: int) -> None:
        """The keeper says how one ended."""
        one = self._under_way.get(b"." + token.encode())
        if one is not None:
            one.code = code
            one.ended.set()

    def look_up(self, parent: int, name: bytes, pid: int) -> tuple[bool, Node | InodeT]:
        """What a look-up in a folder is answered with, if it is the child's.

        Returns:
            Whether it is; and the inode, or the number of something that is replaced at once, or 0 for nothing.
        """
        one = self._under_way.get(name)
        if one is not None and one.pid in {NOBODY, pid} and pid > 0:
            one.pid = self.pid = pid
            return True, self._made_up(one)
        if pid == self.pid:
            for one in self._under_way.values():
                if one.pid == pid and one.dirent is not None and self._bears(one.dirent, parent, name):
                    return True, self._old(one)
        return False, 0

    def refreshes(self, inode: int, pid: int) -> bool:
        """Whether a GETATTR is the child's, which brings the kernel what an inode shows from now on."""
        return pid == self.pid and any(
            one.inode == inode and one.pid == pid for one in self._under_way.values()
        )

    def rename(self, parent: int, made_up: bytes, name: bytes) -> bool:
        """A rename in a folder; whether it is the child's, and so is to succeed."""
        one = self._under_way.get(made_up)
        if (
            one is None
            or one.do is not Do.RENAME
            or one.dirent is None
            or not self._bears(one.dirent, parent, name)
        ):
            return False
        self._answer(one, one.dirent)
        return True

    def unlink(self, parent: int, name: bytes, pid: int) -> bool:
        """The same for an unlink."""
        for one in self._under_way.values():
            if (
                one.pid == pid
                and one.do is Do.UNLINK
                and one.dirent is not None
                and self._bears(one.dirent, parent, name)
            ):
                self._answer(one, one.dirent)
                return True
        return False

    def _made_up(self, one: Announcement) -> Node | InodeT:
        dirent = one.dirent
        if dirent is None:
            return self._passing(one)
        if one.answered and one.do is not Do.LOOK:
            # It is done, and a child that did not live to say so did it: done twice, it would be heard twice.
            return 0
        if dirent.announced or one.do is Do.LOOK:
            # A look-up that could not wait was answered with the new one before this is announced.
            key = dirent.name.key
            one.old = self._table.entries.first_superseded(key) or self._table.entries.nodes.get(key)
            if one.old is not None and one.do is not Do.LOOK:
                self._table.supersede(one.old)
        dirent.given, dirent.given_updated = dirent.version, dirent.updated
        self._table.dirents.note(dirent)
        if one.do is Do.RENAME:
            new = self._current(dirent.name)
            if new is not None and new is not one.old and new.version == dirent.version:
                one.new = new
                self._table.looked_up(new)
                return new
        return self._passing(one)

    def _passing(self, one: Announcement) -> InodeT:
        one.number = self._table.dirents.passing(one.token.hex())
        return one.number

    def _old(self, one: Announcement) -> Node | InodeT:
        assert one.dirent is not None
        if one.do is not Do.LOOK and not one.dirent.announced:
            return 0
        if one.old is not None and self._table.has(one.old):
            self._table.looked_up(one.old)
            return one.old
        self._table.dirents.looked_up(one.dirent)
        return one.dirent.inode

    def _answer(self, one: Announcement, dirent: Dirent) -> None:
        one.answered = dirent.answered = True
        key = dirent.name.key
        old = one.old or self._table.entries.first_superseded(key) or self._table.entries.nodes.get(key)
        if old is not None and old is not one.new:
            self._table.notified(old)
        if one.do is Do.UNLINK:
            dirent.announced = False
        else:
            dirent.announced = True
            # If the name has passed on once more since the child was given the new inode, that is announced next.
            dirent.changed = dirent.changed and not dirent.is_as_given()
            dirent.changed = dirent.changed or self._table.entries.first_superseded(key) is not None
            if one.new is not None and self._table.has(one.new):
                self._table.give_name(one.new, dirent.name.raw)
        self._table.dirents.note(dirent)
        self._switched(dirent)

    def _bears(self, dirent: Dirent, parent: int, name: bytes) -> bool:
        return dirent.name.raw == name and self._table.entries.parent(dirent.name.key) == parent
