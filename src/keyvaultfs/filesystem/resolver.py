"""Which inode stands for a name now, and which bytes an inode shows: the rules of DESIGN §2."""

from __future__ import annotations

import errno
import stat
from collections import Counter
from typing import TYPE_CHECKING

import pyfuse3
import trio

from keyvaultfs.content import decode as content
from keyvaultfs.errors import NotFound, NotYetKnown, Refused
from keyvaultfs.filesystem import attributes
from keyvaultfs.filesystem.inodes.nodes import State
from keyvaultfs.filesystem.rotation import BOUNDED_SECONDS
from keyvaultfs.log import LOG
from keyvaultfs.model import UNREADABLE, VERSION_PATTERN, Version

if TYPE_CHECKING:
    from keyvaultfs.cache.cache import Cache, Entry
    from keyvaultfs.cache.records import Record
    from keyvaultfs.filesystem.attributes import Appearance
    from keyvaultfs.filesystem.directory import Line
    from keyvaultfs.filesystem.inodes.nodes import Dirent, Handle, Node
    from keyvaultfs.filesystem.inodes.table import InodeTable
    from keyvaultfs.filesystem.rotation import Rotation
    from keyvaultfs.model import SecretName, SecretValue, VersionItem


_LOOKUP_TO_OPEN_SECONDS = 0.05
"""How long the OPEN that belongs to a look-up may take to come. The kernel repeats an open that fails with ESTALE only
once: when a take-over has had that, a rotation between the two must not fail the reader."""


class Resolver:
    """Joins the cache, which knows versions, with the inode table, which knows what the kernel was told.

    Args:
        decode: whether the tag ``file-encoding`` is obeyed.
    """

    def __init__(
        self, cache: Cache, table: InodeTable, rotation: Rotation, look: Appearance, *, decode: bool
    ) -> None:
        self._cache = cache
        self._table = table
        self._rotation = rotation
        self._look = look
        self._decode = decode
        self.waiting: Counter[str] = Counter()
        """by folded name: look-ups that may wait for the network"""
        self._values: dict[int, SecretValue | None] = {}
        self._placeholder = attributes.base(look, 0, stat.S_IFREG | look.mode)

    async def lookup(
        self, name: SecretName, spelling: bytes, patience: float, uid: int | None = None
    ) -> pyfuse3.EntryAttributes:
        """What the kernel is told for a name; counts as a reference to the inode.

        Args:
            patience: seconds after which what is known is good enough.
            uid: who looks it up.
        """
        helped = self._rotation.old_answers.get(name.key)
        if helped is not None and self._table.has(helped[0]):
            node, seen = helped
            seen.set()
            self._table.looked_up(node)
            return attributes.secret(self._look, node, self._table.content(node))
        self.waiting[name.key] += 1
        try:
            entry = await self._named(name, patience, uid)
            node = await self._node(entry)
        finally:
            self.waiting[name.key] -= 1
            if not self.waiting[name.key]:
                del self.waiting[name.key]
        told = self._table.told.get(name.key)
        if told is not None and told is not node:
            # The notification for the old inode comes first, or a watch on it stays silent (tried). On a look-up
            # that holds the directory's lock it cannot succeed; hence the bound.
            _, done = self._rotation.supersede(told)
            with trio.move_on_after(BOUNDED_SECONDS):
                await done.wait()
            # Meanwhile the name may have moved on: an inode that lost it must not get it back.
            later = self._cache.peek(name)
            newer = None if later is None else self._known_node(later)
            if later is not None and newer is not None:
                entry, node = later, newer
            elif not self._table.has(node):  # the kernel was told of it by another look-up, and has let it go
                node = await self._node(entry)
        now = trio.current_time()
        return self._tell(node, spelling, entry.expires - now, now)

    def lookup_now(self, name: SecretName, spelling: bytes) -> pyfuse3.EntryAttributes | None:
        """As `lookup`, where that need not wait: the kernel was told of this inode, and it is fresh. Else None."""
        node = self._table.told.get(name.key)
        if node is None or node.state is not State.CURRENT or name.key in self._rotation.old_answers:
            return None
        now = trio.current_time()
        record = self._cache.fresh(name, now)
        if record is None or record.properties is None or not self._is_current(node, record):
            return None
        if node.updated != record.properties.updated or node.shown != node.inode:
            return None
        self._cache.hit(record, now)
        return self._tell(node, spelling, self._cache.left(record, now), now)

    async def entry(self, name: SecretName, patience: float, uid: int | None = None) -> Entry:
        """The current version of a name, as the cache has it or gets it.

        Raises:
            NotFound, Refused, Unavailable, trio.TooSlowError: as `Cache.get`; Unavailable when patience ran out.
        """
        with trio.move_on_after(patience):
            return await self._cache.get(name, uid)
        known = self._cache.peek(name)
        if known is None:
            raise NotYetKnown("NotYetKnown")
        return known

    async def _named(self, name: SecretName, patience: float, uid: int | None = None) -> Entry:
        """As `entry`; but what cannot be read is there all the same, or whoever walks a directory would stumble."""
        try:
            return await self.entry(name, patience, uid)
        except Refused:
            return self._cache.refused(name)

    def listed(self, line: Line, now: float) -> tuple[pyfuse3.EntryAttributes, Node | Dirent]:
        """What a listing says of a name: the inode that the kernel may hold, or a placeholder for the moment.

        The attributes are to be used before the next call: there is one object for all placeholders.
        """
        node = self._table.told.get(line.name.key)
        if node is None:
            dirent = self._table.dirents.of(line.name)
            self._placeholder.st_ino = dirent.inode
            return self._placeholder, dirent
        left = 0.0
        if node.state is State.CURRENT:
            record = self._cache.fresh(line.name, now)
            if record is not None and self._is_current(node, record):
                left = self._cache.left(record, now)
        return attributes.secret(self._look, node, self._table.content(node), entry_timeout=left), node

    def listed_version(self, name: SecretName, item: VersionItem) -> tuple[pyfuse3.EntryAttributes, Node]:
        """The same for versions/NAME/VERSION. An inode that the kernel does not take is to be let go."""
        how = content.decoding(item.properties.tags, wanted=self._decode)
        node = self._table.find(name, item.version, how, pinned=True)
        if node is None:
            created, updated = item.properties.created, item.properties.updated
            node = self._table.add(
                name, item.version, how, size=None, created=created, updated=updated, pinned=True
            )
        if node.state is State.LISTED:
            return attributes.base(self._look, node.inode, stat.S_IFREG | self._look.mode), node
        return attributes.secret(self._look, node, node), node

    def getattr(self, node: Node) -> pyfuse3.EntryAttributes:
        """Attributes of an inode; never the network. A superseded one may switch to its name's current version."""
        if node.superseded and not self._table.is_open(node):
            entry = self._cache.peek(node.name)
            current = None if entry is None else self._known_node(entry)
            if current is not None:
                self._table.show(node, current)
        return attributes.secret(self._look, node, self._table.content(node))

    def open_now(self, node: Node) -> tuple[Handle, bool] | None:
        """As `open`, where that need not wait, else None."""
        if node.pinned:
            return self._opened(node), True
        now = trio.current_time()
        record = self._cache.fresh(node.name, now)
        if record is None or node.version == UNREADABLE:
            return None
        current = node.state is State.CURRENT and self._is_current(node, record)
        if not current and (now >= node.promised or node.shown != node.inode):
            return None
        record.touch(now)
        return self._opened(node), True

    async def open(self, node: Node, patience: float, uid: int | None = None) -> tuple[Handle, bool]:
        """Open an inode.

        Returns:
            The handle, and whether the kernel may keep the pages that it has.

        Raises:
            pyfuse3.FUSEError: ESTALE when the name now stands for another inode: the kernel walks the path again.
        """
        self._cache.touch(node.name)
        entry = await self.entry(node.name, patience, uid)
        if node.state is State.CURRENT:
            if self._is_current(node, entry):
                return self._opened(node), True
            _, done = self._rotation.supersede(node)
            with trio.move_on_after(BOUNDED_SECONDS):
                await done.wait()
            raise pyfuse3.FUSEError(errno.ESTALE)
        # Only a bind mount, or a path through /proc/PID/fd, still leads to a superseded inode.
        if node.state is State.SUPERSEDED:
            asked, _ = self._rotation.supersede(node)
            with trio.move_on_after(BOUNDED_SECONDS):
                await asked.wait()
            if not asked.is_set():
                # The kernel goes by the size that it has: with the new bytes a password would be cut short.
                return self._opened(node), False
        current = await self._node(entry)
        if not self._table.is_open(node):
            self._table.show(node, current)
        return self._opened(node), False

    def read_now(self, handle: Handle, offset: int, size: int) -> bytes | None:
        """As `read`, where the value is in memory, else None."""
        value = self._values.get(handle.fh)
        if value is None:
            return None
        return content.render(value, handle.content.decoding)[0][offset : offset + size]

    async def read(self, handle: Handle, offset: int, size: int) -> bytes:
        """Bytes of the version that the file was opened on.

        Raises:
            NotFound, Refused, Unavailable, trio.TooSlowError: as `Cache.value`.
        """
        node = handle.content
        value = self._values.get(handle.fh) or await self._cache.value(node.name, node.version)
        data, _ = content.render(value, node.decoding)
        return data[offset : offset + size]

    def release(self, fh: int) -> None:
        """Close a handle."""
        self._values.pop(fh, None)
        self._table.release(fh)

    async def pinned(self, name: SecretName, version: str) -> pyfuse3.EntryAttributes:
        """The inode of versions/NAME/VERSION.

        Raises:
            NotFound: the secret has no such version.
        """
        if not VERSION_PATTERN.fullmatch(version):
            raise NotFound("NotAVersion")
        # By its id, and not from the list of versions: that needs the permission to list, and a request for each page.
        secret = await self._cache.version(name, Version(version))
        how = content.decoding(secret.properties.tags, wanted=self._decode)
        node = self._table.find(name, secret.version, how, pinned=True)
        if node is None or node.state is State.LISTED:
            size = len(content.render(secret.value, how)[0])
            created, updated = secret.properties.created, secret.properties.updated
            node = self._table.add(
                name, secret.version, how, size=size, created=created, updated=updated, pinned=True
            )
        self._table.looked_up(node)
        return attributes.secret(self._look, node, node, entry_timeout=1.0)

    def extended(self, node: Node, base_url: str) -> dict[bytes, bytes]:
        """``user.keyvault.*`` of an inode; never the network."""
        shown = self._table.content(node)
        entry = self._cache.peek(node.name)
        if entry is None or entry.version != shown.version:
            return attributes.extended(base_url, node.name, shown.version, shown.properties(), None)
        cached = ("stale" if entry.stale else "fresh", max(0.0, trio.current_time() - entry.checked))
        return attributes.extended(base_url, node.name, entry.version, entry.properties, cached)

    def _tell(self, node: Node, spelling: bytes, left: float, now: float) -> pyfuse3.EntryAttributes:
        node.promised = now + min(left, _LOOKUP_TO_OPEN_SECONDS)
        if not self._table.tell(node, spelling):
            left = 0.0  # the kernel asks again each time, and remembers nothing that a rotation would have to undo
        return attributes.secret(self._look, node, node, entry_timeout=left)

    def _opened(self, node: Node) -> Handle:
        handle = self._table.open(node)
        # An open file keeps its bytes even when the cache lets them go or the vault loses the version.
        self._values[handle.fh] = self._cache.peek_value(handle.content.name, handle.content.version)
        return handle

    def _is_current(self, node: Node, known: Entry | Record) -> bool:
        if node.version != known.version or known.properties is None:
            return False
        return node.decoding is content.decoding(known.properties.tags, wanted=self._decode)

    def _known_node(self, entry: Entry) -> Node | None:
        how = content.decoding(entry.properties.tags, wanted=self._decode)
        node = self._table.find(entry.name, entry.version, how)
        if node is not None:
            return node
        value = self._cache.peek_value(entry.name, entry.version)
        return None if value is None else self._add(entry, how, len(content.render(value, how)[0]))

    async def _node(self, entry: Entry) -> Node:
        how = content.decoding(entry.properties.tags, wanted=self._decode)
        node = self._table.find(entry.name, entry.version, how)
        if node is not None and (node.created, node.updated) == (
            entry.properties.created,
            entry.properties.updated,
        ):
            return node
        size = node.size if node is not None else await self._size(entry.name, entry.version, how)
        return self._add(entry, how, size)

    def _add(self, entry: Entry, how: content.Decoding, size: int) -> Node:
        created, updated = entry.properties.created, entry.properties.updated
        return self._table.add(entry.name, entry.version, how, size=size, created=created, updated=updated)

    async def _size(self, name: SecretName, version: Version, how: content.Decoding) -> int:
        if version == UNREADABLE:
            return 0
        data, decoded = content.render(await self._cache.value(name, version), how)
        if not decoded:
            LOG.warning("served raw: the tag file-encoding of %s says %s, and it is not", name, how.value)
        return len(data)
