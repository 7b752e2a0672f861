"""Inode <-> (name, version): who the kernel was told of, and who has what open. Kept in a memfd, for a successor."""

from __future__ import annotations

import enum
import hashlib
import mmap
import os
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keyvaultfs.content import Decoding
from keyvaultfs.model import Properties, SecretName, Version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyfuse3 import InodeT

FIRST_HASHED = 1 << 16
"""Numbers below are the root's and those of the control directory."""

# kind, state, decoding, length of name, lookups; inode, size, created, updated, shown; version; name
_NODE = struct.Struct("<BBBBI QQqqQ 16s 127s")
_HANDLE = struct.Struct("<BBxxxxxx QQQ")  # kind, settled; fh, inode, content
_SLOT = 256
_FREE, _IS_NODE, _IS_HANDLE = 0, 1, 2
_DECODINGS = tuple(Decoding)
_GROW = 256
_UNKNOWN_TIME = -(1 << 63)


class State(enum.IntEnum):
    """What an inode is to its name."""

    CURRENT = 1
    SUPERSEDED = 2  # and the kernel is yet to be notified
    NOTIFIED = 3
    PINNED = 4  # of versions/NAME/VERSION: never superseded


@dataclass(slots=True, eq=False)
class Node:
    """An inode: one version of one secret, decoded in one way. Times in whole Unix seconds.

    Attributes:
        lookups: a hint: a worker that was killed may have swallowed FORGETs.
        shown: the inode whose bytes this one shows; another than itself only for a superseded one that is still
            held by a bind mount (DESIGN §2).
    """

    inode: InodeT
    name: SecretName
    version: Version
    decoding: Decoding
    state: State
    size: int
    created: int | None
    updated: int | None
    slot: int
    lookups: int = 0
    shown: InodeT = 0
    handles: set[int] = field(default_factory=set)
    needed: int = 0  # by inodes that show this one, and by handles on its bytes

    def properties(self) -> Properties:
        """What the table alone knows of the version."""
        return Properties(created=self.created, updated=self.updated)


@dataclass(slots=True, eq=False)
class Handle:
    """An open file: it means the version that it was opened on.

    Attributes:
        doubtful: a dead worker may have made it without the kernel having got the answer.
    """

    fh: int
    node: Node
    content: Node
    slot: int
    settled: bool = False
    doubtful: bool = False


class InodeTable:
    """All inodes that the kernel may hold.

    Args:
        fd: a memfd, which a predecessor may have filled; it is mapped.
        origin: the vault's origin: it is part of every number.
    """

    def __init__(self, fd: int, origin: str) -> None:
        self._fd = fd
        self._origin = origin
        self.nodes: dict[int, Node] = {}
        self.handles: dict[int, Handle] = {}
        self.told: dict[str, Node] = {}
        """by folded name: the inode that the kernel was last given for it"""
        self.spellings: dict[str, set[bytes]] = {}
        """by folded name: every way in which the kernel has looked it up"""
        self._free: list[int] = []
        self._unsettled: list[Handle] = []
        size = os.fstat(fd).st_size
        if size == 0:
            size = _GROW * _SLOT
            os.ftruncate(fd, size)
        self._map = mmap.mmap(fd, size)
        self._load()

    def number(self, name: SecretName, version: str, decoding: Decoding, *, pinned: bool = False) -> InodeT:
        """63 bits of a hash: the same after a restart or a remount, and never another's (checked for collision)."""
        for salt in range(1 << 16):
            text = "\0".join((self._origin, name.key, version, decoding.value, str(pinned), str(salt)))
            digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
            inode = int.from_bytes(digest, "little") >> 1
            other = self.nodes.get(inode)
            same = other is not None and (
                other.name == name
                and other.version == version
                and other.decoding is decoding
                and (other.state is State.PINNED) == pinned
            )
            if inode >= FIRST_HASHED and (other is None or same):
                return inode
        raise OverflowError("no inode number is free")

    def find(
        self, name: SecretName, version: str, decoding: Decoding, *, pinned: bool = False
    ) -> Node | None:
        """The inode of a version, if the table has it."""
        return self.nodes.get(self.number(name, version, decoding, pinned=pinned))

    def add(
        self,
        name: SecretName,
        version: Version,
        decoding: Decoding,
        *,
        size: int,
        created: int | None,
        updated: int | None,
        pinned: bool = False,
    ) -> Node:
        """The inode of a version, made if need be and with these times; written before it returns."""
        inode = self.number(name, version, decoding, pinned=pinned)
        node = self.nodes.get(inode)
        if node is None:
            state = State.PINNED if pinned else State.CURRENT
            node = Node(
                inode, name, version, decoding, state, size, created, updated, self._take(), shown=inode
            )
            self.nodes[inode] = node
        node.created, node.updated = created, updated
        self._write(node)
        return node

    def tell(self, node: Node, spelling: bytes) -> None:
        """The kernel is about to be given `node` for its name."""
        if node.state is not State.PINNED:
            node.state = State.CURRENT
            self.told[node.name.key] = node
            self.spellings.setdefault(node.name.key, set()).add(spelling)
            self.show(node, node)
        self.looked_up(node)

    def looked_up(self, node: Node) -> None:
        """The kernel gets one more reference."""
        node.lookups += 1
        self._write(node)

    def forget(self, inode: int, count: int) -> None:
        """The kernel drops references; an inode without any goes away when nothing shows it or has it open."""
        node = self.nodes.get(inode)
        if node is None:
            return
        node.lookups = max(0, node.lookups - count)
        if not node.lookups:
            # The kernel forgets no inode that is open: it never got the answers that these were made for. Not earlier:
            # another reader's OPEN says nothing of them.
            for fh in [fh for fh in node.handles if self.handles[fh].doubtful]:
                self.release(fh)
        if not self._drop(node):
            self._write(node)

    def lost(self, node: Node) -> None:
        """The kernel said that it no longer has the inode: its handles are gone too."""
        node.lookups = 0
        for fh in tuple(node.handles):
            self.release(fh)
        self._drop(node)

    def supersede(self, node: Node) -> None:
        """Another version, or none, has taken the name."""
        if node.state is State.CURRENT:
            node.state = State.SUPERSEDED
            self._write(node)

    def notified(self, node: Node) -> None:
        """The kernel was told that the inode no longer bears its name."""
        if node.state is State.SUPERSEDED:
            node.state = State.NOTIFIED
            self._write(node)
        if self.told.get(node.name.key) is node:
            del self.told[node.name.key]

    def show(self, node: Node, other: Node) -> None:
        """From now on `node` shows the bytes of `other`, to those as well that may have it open without having read."""
        before = self.content(node)
        if before is other and node.shown == other.inode:
            return
        node.shown = other.inode
        if other is not node:
            other.needed += 1
        self._write(node)
        # One inode has one page cache: bytes of two versions would mix in it.
        for handle in [self.handles[fh] for fh in node.handles]:
            if handle.doubtful and handle.content is not other:
                handle.content.needed -= 1
                other.needed += 1
                handle.content = other
                self._write_handle(handle)
        if before is not node:
            before.needed -= 1
            self._drop(before)

    def content(self, node: Node) -> Node:
        """The inode whose bytes `node` shows."""
        return self.nodes.get(node.shown, node)

    def open(self, node: Node) -> Handle:
        """A new handle on what `node` shows now."""
        fh = int.from_bytes(os.urandom(8), "little") >> 1
        handle = Handle(fh, node, self.content(node), self._take())
        self._adopt(handle)
        self._write_handle(handle)
        self._unsettled.append(handle)
        return handle

    def settle(self) -> None:
        """The kernel has had the answers to all earlier OPENs. Called at the begin of each later request."""
        for handle in self._unsettled:
            if handle.fh in self.handles:
                handle.settled = True
                self._write_handle(handle)
        self._unsettled.clear()

    def is_open(self, node: Node) -> bool:
        """Whether somebody has it open for certain."""
        return any(not self.handles[fh].doubtful for fh in node.handles)

    def handle(self, fh: int) -> Handle | None:
        """An open file."""
        found = self.handles.get(fh)
        if found is not None:
            found.doubtful = False
        return found

    def release(self, fh: int) -> None:
        """Close a handle; one that is gone already is no error (a request may run twice, DESIGN §4)."""
        handle = self.handles.pop(fh, None)
        if handle is None:
            return
        self._give_back(handle.slot)
        handle.node.handles.discard(fh)
        handle.content.needed -= 1
        self._drop(handle.node)
        self._drop(handle.content)

    def held(self) -> set[tuple[SecretName, Version]]:
        """What the kernel may hold on to, or has open."""
        return {
            (node.name, node.version)
            for node in self.nodes.values()
            if (node.lookups or node.handles or node.needed) and node.state is not State.PINNED
        }

    def unfinished(self) -> list[Node]:
        """Superseded inodes of which the kernel was not notified, as after a take-over."""
        return [node for node in self.nodes.values() if node.state is State.SUPERSEDED]

    def _adopt(self, handle: Handle) -> None:
        self.handles[handle.fh] = handle
        handle.node.handles.add(handle.fh)
        handle.content.needed += 1

    def _drop(self, node: Node) -> bool:
        if node.lookups or node.handles or node.needed or self.nodes.get(node.inode) is not node:
            return False
        del self.nodes[node.inode]
        self._give_back(node.slot)
        if self.told.get(node.name.key) is node:
            del self.told[node.name.key]
            self.spellings.pop(node.name.key, None)
        shown = self.nodes.get(node.shown)
        if shown is not None:
            shown.needed -= 1
            self._drop(shown)
        return True

    def _take(self) -> int:
        if not self._free:
            before = len(self._map) // _SLOT
            os.ftruncate(self._fd, (before * 2) * _SLOT)
            self._map.resize(before * 2 * _SLOT)
            self._free = list(range(before * 2 - 1, before - 1, -1))
        return self._free.pop()

    def _give_back(self, slot: int) -> None:
        self._map[slot * _SLOT] = _FREE
        self._free.append(slot)

    def _write(self, node: Node) -> None:
        name = node.name.spelling.encode()
        created = _UNKNOWN_TIME if node.created is None else node.created
        updated = _UNKNOWN_TIME if node.updated is None else node.updated
        # The kind goes last: a record that was half written when the worker died is not read.
        record = _NODE.pack(
            _IS_NODE,
            node.state,
            _DECODINGS.index(node.decoding),
            len(name),
            min(node.lookups, 0xFFFFFFFF),
            node.inode,
            node.size,
            created,
            updated,
            node.shown,
            bytes.fromhex(node.version),
            name,
        )
        self._put(node.slot, record)

    def _write_handle(self, handle: Handle) -> None:
        record = _HANDLE.pack(_IS_HANDLE, handle.settled, handle.fh, handle.node.inode, handle.content.inode)
        self._put(handle.slot, record)

    def _put(self, slot: int, record: bytes) -> None:
        start = slot * _SLOT
        self._map[start + 1 : start + len(record)] = record[1:]
        self._map[start] = record[0]

    def _load(self) -> None:
        handles: list[tuple[int, int, int, int, int]] = []
        for slot, record in self._records():
            if record[0] == _IS_NODE:
                self._load_node(slot, record)
            elif record[0] == _IS_HANDLE:
                _, settled, fh, inode, content = _HANDLE.unpack_from(record)
                handles.append((slot, settled, fh, inode, content))
            else:
                self._free.append(slot)
        self._free.reverse()
        for node in self.nodes.values():
            shown = self.nodes.get(node.shown)
            if shown is None:
                node.shown = node.inode
            elif shown is not node:
                shown.needed += 1
        for slot, settled, fh, inode, content in handles:
            owner, opened = self.nodes.get(inode), self.nodes.get(content)
            if owner is None or opened is None:
                self._give_back(slot)
                continue
            self._adopt(Handle(fh, owner, opened, slot, settled=bool(settled), doubtful=not settled))

    def _load_node(self, slot: int, record: bytes) -> None:
        _, state, decoding, length, lookups, inode, size, created, updated, shown, version, name = (
            _NODE.unpack_from(record)
        )
        node = Node(
            inode,
            SecretName(name[:length].decode()),
            Version(version.hex()),
            _DECODINGS[decoding],
            State(state),
            size,
            None if created == _UNKNOWN_TIME else created,
            None if updated == _UNKNOWN_TIME else updated,
            slot,
            lookups,
            shown,
        )
        self.nodes[inode] = node
        if node.state is State.CURRENT or (node.state is State.SUPERSEDED and node.name.key not in self.told):
            self.told[node.name.key] = node
            self.spellings.setdefault(node.name.key, set()).add(name[:length])

    def _records(self) -> Iterator[tuple[int, bytes]]:
        for slot in range(len(self._map) // _SLOT):
            yield slot, self._map[slot * _SLOT : (slot + 1) * _SLOT]
