"""Which inode stands for a name now, and which bytes an inode shows: the rules of DESIGN §2."""

from __future__ import annotations

import errno
import math
import stat
from collections import Counter
from typing import TYPE_CHECKING, NoReturn, TypeVar

import pyfuse3
import trio

from keyvaultfs.errors import NotFound, NotYetKnown, Refused
from keyvaultfs.files.tree import of_version
from keyvaultfs.filesystem import attributes
from keyvaultfs.filesystem.inodes.nodes import State
from keyvaultfs.filesystem.rotation import BOUNDED_SECONDS
from keyvaultfs.model import UNREADABLE, VERSION_PATTERN

if TYPE_CHECKING:
    from pyfuse3 import InodeT

    from keyvaultfs.files.editions import Edition, Editions
    from keyvaultfs.files.tree import File
    from keyvaultfs.filesystem.attributes import Appearance
    from keyvaultfs.filesystem.inodes.nodes import Dirent, Handle, Node
    from keyvaultfs.filesystem.inodes.table import InodeTable
    from keyvaultfs.filesystem.rotation import Rotation
    from keyvaultfs.model import SecretName, VersionItem


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_LOOKUP_TO_OPEN_SECONDS = 0.05
"""How long after a look-up its OPEN is served with the inode that the look-up gave, whatever rotated in between. The
kernel repeats an open that fails with ESTALE only once, and a take-over may have used that up."""


_AGAIN_SECONDS = 1.0
"""A process that was sent back with ESTALE, and comes to the same inode within this time, came by a bind mount."""

_MOST_SENT_BACK = 1024


class Resolver:
    """Joins the files, which know editions, with the inode table, which knows what the kernel was told."""

    def __init__(self, editions: Editions, table: InodeTable, rotation: Rotation, look: Appearance) -> None:
        self._editions = editions
        self._table = table
        self._rotation = rotation
        self._look = look
        self.waiting: Counter[str] = Counter()
        """by the file's key: look-ups that may wait for the network"""
        self._values = editions.kept(
            {
                handle.fh: (handle.content.name, handle.content.version)
                for handle in table.handles.values()
                if not handle.doubtful  # what those show is still to be seen
            }
        )
        self._switching: dict[int, trio.Event] = {}
        self._sent_back: dict[tuple[int, int], float] = {}
        self._repeated: dict[tuple[str, int], tuple[int, float]] = {}
        self._lenient_until = -math.inf
        self._placeholder = attributes.base(look, 0, stat.S_IFREG | look.mode)

    async def lookup(
        self, file: File, spelling: bytes, patience: float, uid: int | None = None
    ) -> pyfuse3.EntryAttributes:
        """What the kernel is told for a file; counts as a reference to the inode.

        Args:
            spelling: its name, as the kernel has it.
            patience: seconds after which what is known is good enough.
            uid: who looks it up.
        """
        self.waiting[file.key] += 1
        try:
            edition = await self._named(file, patience, uid)
            node = await self._node(edition)
        except NotFound:
            await self._pass_on(file, None)
            raise
        finally:
            self.waiting[file.key] -= 1
            if not self.waiting[file.key]:
                del self.waiting[file.key]
        if await self._pass_on(file, node):
            # Meanwhile the name may have moved on: an inode that lost it must not get it back.
            later = self._editions.peek(file)
            newer = None if later is None else self._known_node(later)
            if later is not None and newer is not None:
                edition, node = later, newer
            elif not self._table.has(node):  # the kernel was told of it by another look-up, and has let it go
                node = await self._node(edition)
        elif node.superseded and self._table.told.get(file.key) is node:
            self._rotation.confirm(node)
        now = trio.current_time()
        return self._tell(node, spelling, edition.expires - now, now)

    async def _pass_on(self, file: File, node: Node | None) -> bool:
        """The name stands for `node`. If the kernel was told of another inode, watchers hear of it first.

        Or the event that waits for the last close of the old one comes too early (tried). A look-up that holds the
        directory's lock waits in vain, hence the bound; and it does not wait while others hold that lock.
        """
        told = self._table.told.get(file.key)
        if told is None or told is node:
            return False
        if node is None or node.version == UNREADABLE:
            done = self._rotation.supersede(told)
        else:
            done = self._rotation.supersede(told, node.version, node.updated)
        if self._rotation.can_wait():
            with trio.move_on_after(BOUNDED_SECONDS):
                await done.wait()
        return True

    def be_lenient(self, seconds: float) -> None:
        """Serve for a while each open that can be served, and send none back: the take-over may have done that once."""
        self._lenient_until = trio.current_time() + seconds

    def lookup_now(self, file: File, spelling: bytes) -> pyfuse3.EntryAttributes | None:
        """As `lookup`, where that need not wait: the kernel was told of this inode, and it is fresh. Else None."""
        node = self._table.told.get(file.key)
        if node is None or node.state is not State.CURRENT or file.key in self._rotation.unannounced:
            return None
        now = trio.current_time()
        edition = self._editions.ready(file, now)
        if edition is None or node.version != edition.id:
            return None
        if node.updated != edition.updated or node.shown != node.inode:
            return None
        self._editions.hit(file, now)
        return self._tell(node, spelling, self._editions.left(edition, now), now)

    async def edition(self, file: File, patience: float, uid: int | None = None) -> Edition:
        """The edition of now, as it is known or found out.

        Raises:
            NotFound, Refused, Unavailable, trio.TooSlowError, CannotMake: as `Editions.get`.
            NotYetKnown: patience ran out.
        """
        with trio.move_on_after(patience):
            return await self._editions.get(file, None if file.named else uid)
        known = self._editions.peek(file)
        if known is None:
            raise NotYetKnown("NotYetKnown")
        return known

    async def _named(self, file: File, patience: float, uid: int | None) -> Edition:
        """As `edition`; but what cannot be read is there all the same, or whoever walks a directory would stumble."""
        try:
            return await self.edition(file, patience, uid)
        except Refused:
            return self._editions.refused(file)

    def listed(self, file: File, now: float) -> tuple[pyfuse3.EntryAttributes, Node | Dirent]:
        """What a listing says of a file: the inode that the kernel may hold, or a placeholder for the moment.

        The attributes are to be used before the next call: there is one object for all placeholders.
        """
        node = self._table.told.get(file.key)
        if node is None:
            dirent = self._table.dirents.of(file)
            self._placeholder.st_ino = dirent.inode
            return self._placeholder, dirent
        left = 0.0
        if node.state is State.CURRENT and file.key not in self._rotation.unannounced:
            edition = self._editions.fresh(file, now)
            if edition is not None and node.version == edition.id:
                left = self._editions.left(edition, now)
        return attributes.secret(self._look, node, self._table.content(node), entry_timeout=left), node

    def listed_version(self, name: SecretName, item: VersionItem) -> tuple[pyfuse3.EntryAttributes, Node]:
        """The same for versions/NAME/VERSION. An inode that the kernel does not take is to be let go."""
        file = of_version(f"{name}/{item.version}")
        edition = self._editions.listed(file, item.properties)
        node = self._table.find(file, edition, pinned=True)
        if node is None:
            created, updated = item.properties.created, item.properties.updated
            node = self._table.add(file, edition, size=None, created=created, updated=updated, pinned=True)
        if node.state is State.LISTED:
            return attributes.base(self._look, node.inode, stat.S_IFREG | self._look.mode), node
        return attributes.secret(self._look, node, node), node

    def getattr(self, node: Node, pid: int) -> pyfuse3.EntryAttributes:
        """Attributes of an inode; never the network.

        One that lost its name is bound elsewhere, and switches to the name's current edition when the kernel fetches
        its attributes through the keeper's child: only then is the size that an OPEN goes with sure to have arrived.
        """
        if node.superseded and self._rotation.is_behind(node):
            current = self.current(node.name)
            if current is not None and self._rotation.announcements.refreshes(node.inode, pid):
                self._table.show(node, current)
            else:
                self._rotation.want_refresh(node)
        return attributes.secret(self._look, node, self._table.content(node))

    def current(self, file: File) -> Node | None:
        """The inode that a name stands for, as far as is known without asking anybody."""
        edition = self._editions.peek(file)
        return None if edition is None else self._known_node(edition)

    def hanging(self) -> int:
        """How many names are looked up that may wait for the network."""
        return len(self.waiting)

    def child_attributes(self, found: Node | InodeT) -> pyfuse3.EntryAttributes:
        """What the keeper's child is told of an inode, for the moment; 0 is none."""
        if not isinstance(found, int):
            return attributes.secret(self._look, found, self._table.content(found))
        if not found:
            raise pyfuse3.FUSEError(errno.ENOENT)
        passing = attributes.base(self._look, found, stat.S_IFREG | self._look.mode)
        passing.attr_timeout = 1.0  # stat(2) does not ask for them again
        return passing

    def open_now(self, node: Node) -> tuple[Handle, bool] | None:
        """As `open`, where that need not wait, else None."""
        if node.pinned and node.version != UNREADABLE:
            return self._opened(node), True
        now = trio.current_time()
        edition = self._editions.ready(node.name, now)
        if edition is None or node.version == UNREADABLE:
            return None
        current = node.state is State.CURRENT and node.version == edition.id
        if not current and (now >= node.promised or node.shown != node.inode):
            return None
        self._editions.opened(node.name, now)
        return self._opened(node), True

    async def open(
        self, node: Node, patience: float, uid: int | None = None, pid: int = 0
    ) -> tuple[Handle, bool]:
        """Open an inode.

        Returns:
            The handle, and whether the kernel may keep the pages that it has.

        Raises:
            pyfuse3.FUSEError: ESTALE when the name now stands for another inode: the kernel walks the path again.
        """
        self._editions.touch(node.name)
        edition = await self.edition(node.name, patience, uid)
        if node.state is State.CURRENT:
            if node.version == edition.id:
                return self._opened(node), True
            done = self._rotation.supersede(node, edition.id, edition.updated)
            if self._rotation.can_wait():
                with trio.move_on_after(BOUNDED_SECONDS):
                    await done.wait()
            if not self._is_repeated(node, pid):
                self._send_back(node, pid)
            return self._opened(node), True
        if node.pinned:  # it could not be read, and can be: another inode shows it
            raise pyfuse3.FUSEError(errno.ESTALE)
        # A bind mount, or a path through /proc/PID/fd, leads to an inode without a name; or the name was lost just now.
        if not node.bound and self._is_repeated(node, pid):
            return self._opened(node), False
        if not node.bound:
            await self._see_whether_bound(node, pid)
        current = await self._node(edition)
        if self._table.content(node) is not current and not self._table.is_open(node):
            await self._switch(node, current)
        if self._table.content(node).version == UNREADABLE:  # it would read as an empty file
            raise pyfuse3.FUSEError(errno.ESTALE)
        return self._opened(node), False

    async def _see_whether_bound(self, node: Node, pid: int) -> None:
        """The kernel repeats an open once that fails with ESTALE; only a bind mount leads it to the same inode again.

        Whoever came by the name just before it passed on gets the new inode. Had he the old one open instead, showing
        new bytes, a watch on it would not hear of its end.
        """
        if node.state is State.SUPERSEDED and self._rotation.can_wait():
            with trio.move_on_after(BOUNDED_SECONDS):
                await self._rotation.announced(node).wait()
        now = trio.current_time()
        if (
            now < self._lenient_until
            or self._sent_back.get((node.inode, pid), -math.inf) > now - _AGAIN_SECONDS
        ):
            node.bound = now >= self._lenient_until
            return
        self._send_back(node, pid)

    def _is_repeated(self, node: Node, pid: int) -> bool:
        """Whether an open was sent back already, and came by the name to another inode, which has lost it as well.

        It would fail if it were sent back again. The inode had the name a moment ago, after the open began: it will do.
        """
        inode, when = self._repeated.pop((node.name.key, pid), (node.inode, -math.inf))
        return inode != node.inode and when > trio.current_time() - _AGAIN_SECONDS

    def _send_back(self, node: Node, pid: int) -> NoReturn:
        now = trio.current_time()
        _remember(self._sent_back, (node.inode, pid), now)
        _remember(self._repeated, (node.name.key, pid), (node.inode, now))
        raise pyfuse3.FUSEError(errno.ESTALE)

    async def _switch(self, node: Node, current: Node) -> None:
        """Have an inode without a name show the current bytes. Never before the kernel has their size.

        The kernel goes by the size that it has, for splice(2) even without asking again: with the new bytes a password
        would be cut short.
        """
        waiting = self._switching.get(node.inode)
        if waiting is not None:
            await waiting.wait()
            return
        self._switching[node.inode] = done = trio.Event()
        try:
            if not await self._rotation.ask_again(node) or await self._rotation.refresh(node):
                return
            if self._table.has(node) and not self._table.is_open(node):
                self._table.show(node, current)  # no child can do it here, as in a mount of a user's
        finally:
            del self._switching[node.inode]
            done.set()

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
        handle = self._table.handles.get(fh)
        self._table.release(fh)
        if handle is not None and handle.node.superseded:
            self._rotation.want_refresh(handle.node)

    async def pinned(self, name: SecretName, version: str) -> pyfuse3.EntryAttributes:
        """The inode of versions/NAME/VERSION.

        Raises:
            NotFound: the secret has no such version.
        """
        if not VERSION_PATTERN.fullmatch(version):
            raise NotFound("NotAVersion")
        edition = await self._named(of_version(f"{name}/{version}"), math.inf, None)
        node = self._table.find(edition.file, edition.id, pinned=True)
        if node is None or node.state is State.LISTED:
            size = await self._size(edition)
            created, updated = edition.created, edition.updated
            node = self._table.add(
                edition.file, edition.id, size=size, created=created, updated=updated, pinned=True
            )
        self._table.looked_up(node)
        return attributes.secret(self._look, node, node, entry_timeout=1.0)

    def extended(self, node: Node, base_url: str) -> dict[bytes, bytes]:
        """``user.keyvault.*`` of an inode; never the network."""
        return attributes.extended(base_url, self._table.content(node), self._editions.peek(node.name))

    def _tell(self, node: Node, spelling: bytes, left: float, now: float) -> pyfuse3.EntryAttributes:
        node.promised = now + min(left, _LOOKUP_TO_OPEN_SECONDS)
        if not self._table.tell(node, spelling):
            left = 0.0  # the kernel asks again each time, and remembers nothing that a rotation would have to undo
        if node.name.key in self._rotation.unannounced:
            left = 0.0  # or the child would find the new inode where it is to find the old one, or none
        return attributes.secret(self._look, node, node, entry_timeout=left)

    def _opened(self, node: Node) -> Handle:
        handle = self._table.open(node)
        # An open file keeps its bytes even when the cache lets them go or the vault loses the version.
        self._values[handle.fh] = self._editions.peek_value(handle.content.name, handle.content.version)
        return handle

    def _known_node(self, edition: Edition) -> Node | None:
        node = self._table.find(edition.file, edition.id)
        if node is not None:
            return node
        value = self._editions.peek_value(edition.file, edition.id)
        return None if value is None else self._add(edition, len(value))

    async def _node(self, edition: Edition) -> Node:
        node = self._table.find(edition.file, edition.id)
        if node is not None and (node.created, node.updated) == (edition.created, edition.updated):
            return node
        return self._add(edition, node.size if node is not None else await self._size(edition))

    def _add(self, edition: Edition, size: int) -> Node:
        created, updated = edition.created, edition.updated
        return self._table.add(edition.file, edition.id, size=size, created=created, updated=updated)

    async def _size(self, edition: Edition) -> int:
        return 0 if edition.id == UNREADABLE else len(await self._editions.value(edition.file, edition.id))


def _remember(where: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    """Keep the newest: the oldest belong to opens that have ended."""
    where.pop(key, None)
    while len(where) >= _MOST_SENT_BACK:
        del where[next(iter(where))]
    where[key] = value
