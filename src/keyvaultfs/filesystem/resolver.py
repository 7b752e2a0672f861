"""Which inode stands for a name now: the rules of DESIGN §2."""

from __future__ import annotations

import errno
import math
import stat
from collections import Counter
from typing import TYPE_CHECKING

import pyfuse3
import trio

from keyvaultfs.errors import NotFound, NotYetKnown, Refused
from keyvaultfs.files.tree import of_version
from keyvaultfs.filesystem import attributes
from keyvaultfs.filesystem.bound import BOUNDED_SECONDS
from keyvaultfs.filesystem.inodes.nodes import State
from keyvaultfs.filesystem.retries import Retries
from keyvaultfs.model import UNREADABLE, VERSION_PATTERN

if TYPE_CHECKING:
    from pyfuse3 import InodeT

    from keyvaultfs.files.edition import Edition
    from keyvaultfs.files.editions import Editions
    from keyvaultfs.files.tree import File
    from keyvaultfs.filesystem.attributes import Appearance
    from keyvaultfs.filesystem.inodes.nodes import Dirent, Node
    from keyvaultfs.filesystem.inodes.table import InodeTable
    from keyvaultfs.filesystem.rotation import Rotation
    from keyvaultfs.model import SecretName, VersionItem


_LOOKUP_TO_OPEN_SECONDS = 0.05
"""How long after a look-up its OPEN is served with the inode that the look-up gave, whatever rotated in between."""


class Resolver:
    """Joins the files, which know editions, with the inode table, which knows what the kernel has."""

    def __init__(
        self, editions: Editions, table: InodeTable, rotation: Rotation, appearance: Appearance
    ) -> None:
        self._editions = editions
        self._table = table
        self._rotation = rotation
        self._appearance = appearance
        self.waiting: Counter[str] = Counter()
        """by the file's key: look-ups that may wait for the network"""
        self.retries = Retries()
        self._placeholder = attributes.base(appearance, 0, stat.S_IFREG | appearance.mode)

    async def lookup(
        self, file: File, spelling: bytes, patience: float, uid: int | None = None, thread: int = 0
    ) -> pyfuse3.EntryAttributes:
        """What the kernel is told for a file; counts as a reference to the inode.

        Args:
            spelling: its name, as the kernel has it.
            patience: seconds after which what is known is good enough.
            uid: who looks it up.
            thread: the id of the thread that looks it up.
        """
        self.waiting[file.key] += 1
        try:
            edition = await self._named(file, patience, uid)
            node = await self.node(edition)
        except NotFound:
            self.retries.failed(file.key, thread)
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
                node = await self.node(edition)
        elif node.superseded and self._table.entries.nodes.get(file.key) is node:
            self._rotation.confirm(node)
        now = trio.current_time()
        return self._tell(node, spelling, edition.expires - now, now, thread)

    async def _pass_on(self, file: File, node: Node | None) -> bool:
        """Give the name to `node`. If the kernel has another inode for it, watchers hear of the change first.

        Else the event that waits for the last close of the old one comes too early (tried). A look-up that holds the
        directory's lock waits in vain, hence the bound; and it does not wait while others hold that lock.
        """
        held = self._table.entries.nodes.get(file.key)
        if held is None or held is node:
            return False
        if node is None:
            done = self._rotation.supersede(held)
        else:
            done = self._rotation.supersede(held, node.version, node.updated)
        if self._rotation.can_wait():
            with trio.move_on_after(BOUNDED_SECONDS):
                await done.wait()
        return True

    def be_lenient(self, seconds: float) -> None:
        """Serve for a while each open that can be served, and send none back: the take-over may have done that once."""
        self.retries.lenient_until = trio.current_time() + seconds

    def lookup_now(self, file: File, spelling: bytes, thread: int = 0) -> pyfuse3.EntryAttributes | None:
        """As `lookup`, where that need not wait: the kernel was told of this inode, and it is fresh. Else None.

        After an open that was sent back it need not be fresh: the name passed on to it after that open began.
        """
        node = self._table.entries.nodes.get(file.key)
        now = trio.current_time()
        if self.retries.waiting:
            again = self._again(file, node, thread)
            if again is not None:
                return self._tell(again, spelling, 0.0, now, thread)
        if node is None or node.state is not State.CURRENT or file.key in self._rotation.unannounced:
            return None
        edition = self._editions.ready(file, now)
        if edition is None or node.version != edition.id:
            return None
        if node.updated != edition.updated or node.content_inode != node.inode:
            return None
        self._editions.hit(file, now)
        return self._tell(node, spelling, self._editions.left(edition, now), now, thread)

    def _again(self, file: File, held: Node | None, thread: int) -> Node | None:
        """The inode that the name has passed on to, for a thread whose open was sent back, without another wait."""
        first = self.retries.first(file.key, thread)
        if first is None:
            return None
        node = held if held is not None and held.state is State.CURRENT else self.current(file)
        return node if node is not None and node is not first and node.state is State.CURRENT else None

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
        """As `edition`, but a file that may not be read is no error: whoever walks a directory would fail at it."""
        try:
            return await self.edition(file, patience, uid)
        except Refused:
            return self._editions.refused(file)

    def listed(self, file: File, now: float) -> tuple[pyfuse3.EntryAttributes, Node | Dirent]:
        """What a listing says of a file: the inode that the kernel may hold, or a placeholder for the moment.

        The attributes are to be used before the next call: there is one object for all placeholders.
        """
        node = self._table.entries.nodes.get(file.key)
        if node is None:
            dirent = self._table.dirents.of(file)
            self._placeholder.st_ino = dirent.inode
            return self._placeholder, dirent
        left = 0.0
        if node.state is State.CURRENT and file.key not in self._rotation.unannounced:
            edition = self._editions.fresh(file, now)
            if edition is not None and node.version == edition.id:
                left = self._editions.left(edition, now)
        elif node.superseded:
            self._rotation.bound.told(node)
        return attributes.secret(self._appearance, node, self._table.content(node), entry_timeout=left), node

    def listed_version(self, name: SecretName, item: VersionItem) -> tuple[pyfuse3.EntryAttributes, Node]:
        """The same for versions/NAME/VERSION. The caller lets an inode go that the kernel does not take."""
        file = of_version(f"{name}/{item.version}")
        edition = self._editions.listed(file, item.properties)
        node = self._table.find(file, edition, pinned=True)
        if node is None:
            created, updated = item.properties.created, item.properties.updated
            node = self._table.add(file, edition, size=None, created=created, updated=updated, pinned=True)
        if node.state is State.LISTED:
            return attributes.base(self._appearance, node.inode, stat.S_IFREG | self._appearance.mode), node
        return attributes.secret(self._appearance, node, node), node

    def getattr(self, node: Node, pid: int) -> pyfuse3.EntryAttributes:
        """Attributes of an inode; never the network.

        One that lost its name is bound elsewhere, and switches to the name's current edition when the kernel fetches
        its attributes through the keeper's child: only then is the size that an OPEN goes with sure to have arrived.
        """
        if node.superseded:
            fetched = self._rotation.announcements.refreshes(node.inode, pid)
            current = self.current(node.name) if self._rotation.bound.is_behind(node) else None
            if current is not None and fetched:
                node.unsure = True  # until the child says that it has them
                self._table.show(node, current)
            elif current is not None:
                self._rotation.bound.want(node)
            if not fetched:
                self._rotation.bound.told(node)
        return attributes.secret(self._appearance, node, self._table.content(node))

    def current(self, file: File) -> Node | None:
        """The inode that a name stands for, as far as is known without asking anybody."""
        edition = self._editions.peek(file)
        return None if edition is None else self._known_node(edition)

    def is_hidden(self, name: File) -> bool:
        """Whether a name that cannot be read is not listed either, as one that is disabled."""
        return not name.named and self._editions.is_disabled(name)

    def hanging(self) -> int:
        """How many names are looked up that may wait for the network."""
        return len(self.waiting)

    def child_attributes(self, found: Node | InodeT) -> pyfuse3.EntryAttributes:
        """The attributes of an inode as the keeper's child gets them, good for a moment; inode 0 is none."""
        if not isinstance(found, int):
            return attributes.secret(self._appearance, found, self._table.content(found))
        if not found:
            raise pyfuse3.FUSEError(errno.ENOENT)
        passing = attributes.base(self._appearance, found, stat.S_IFREG | self._appearance.mode)
        passing.attr_timeout = 1.0  # stat(2) does not ask for them again
        return passing

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
        return attributes.secret(self._appearance, node, node, entry_timeout=1.0)

    def extended(self, node: Node, base_url: str) -> dict[bytes, bytes]:
        """``user.keyvault.*`` of an inode; never the network."""
        return attributes.extended(base_url, self._table.content(node), self._editions.peek(node.name))

    def _tell(
        self, node: Node, spelling: bytes, left: float, now: float, thread: int
    ) -> pyfuse3.EntryAttributes:
        if self.retries.waiting or now < self.retries.lenient_until:
            self.retries.looked_up(node, thread, now)
        node.given = now
        node.promised = now + min(left, _LOOKUP_TO_OPEN_SECONDS)
        if not self._table.tell(node, spelling):
            left = 0.0  # the kernel asks again each time, and remembers nothing that a rotation would have to undo
        if node.name.key in self._rotation.unannounced:
            left = 0.0  # or the child would find the new inode where it is to find the old one, or none
        return attributes.secret(self._appearance, node, node, entry_timeout=left)

    def _known_node(self, edition: Edition) -> Node | None:
        node = self._table.find(edition.file, edition.id)
        if node is not None:
            return node
        value = self._editions.peek_value(edition.file, edition.id)
        return None if value is None else self._add(edition, len(value))

    async def node(self, edition: Edition) -> Node:
        """The inode of an edition, made if need be."""
        node = self._table.find(edition.file, edition.id)
        if node is not None and (node.created, node.updated) == (edition.created, edition.updated):
            return node
        return self._add(edition, node.size if node is not None else await self._size(edition))

    def _add(self, edition: Edition, size: int) -> Node:
        created, updated = edition.created, edition.updated
        return self._table.add(edition.file, edition.id, size=size, created=created, updated=updated)

    async def _size(self, edition: Edition) -> int:
        return 0 if edition.id == UNREADABLE else len(await self._editions.value(edition.file, edition.id))
