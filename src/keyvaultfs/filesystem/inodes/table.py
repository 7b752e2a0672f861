"""The one owner of inode numbers, of the kernel's references to them, and of open files. Kept for a successor."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from keyvaultfs.filesystem.inodes import numbers
from keyvaultfs.filesystem.inodes.dirents import Directories, Dirents
from keyvaultfs.filesystem.inodes.entries import Entries
from keyvaultfs.filesystem.inodes.handles import Handles
from keyvaultfs.filesystem.inodes.nodes import Dirent, Handle, Node, State
from keyvaultfs.filesystem.inodes.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyfuse3 import InodeT

    from keyvaultfs.files.tree import File, Tree
    from keyvaultfs.filesystem.inodes.nodes import Directory
    from keyvaultfs.filesystem.inodes.records import HandleRecord, Records


class InodeTable:
    """All inodes that the kernel may hold, and the names that a listing has shown.

    Args:
        fd: a memfd, which a predecessor may have filled; it is mapped.
        origin: the vault's origin: it is part of every number.
        tree: what the paths are that a predecessor wrote.
        wall: nanoseconds of Unix time.

    Raises:
        KeyVaultFSError: a predecessor's table has a layout that this code does not know.
    """

    def __init__(self, fd: int, origin: str, tree: Tree, wall: Callable[[], int] = time.time_ns) -> None:
        self._origin = origin
        self._wall = wall
        self.nodes: dict[int, Node] = {}
        self._by_identity: dict[tuple[str, str, bool], Node] = {}
        self._slots = Slots(fd, wall(), tree)
        inherited = self._slots.load()
        self.handles = Handles(self._slots)
        self.dirents = Dirents(self._slots, origin, inherited.dirents)
        self.directories = Directories(
            self._slots, lambda name: self._free(name.key, "versions"), inherited.directories
        )
        self.entries = Entries(tree, self.directories)
        self._load(inherited)

    @property
    def began(self) -> int:
        """When the mount began, in nanoseconds of Unix time."""
        return self._slots.began

    @property
    def changed(self) -> int:
        """When the folder last changed, in nanoseconds of Unix time."""
        return self._slots.changed

    @property
    def listed(self) -> bool:
        """Whether a listing was ever read to its end."""
        return self._slots.listed

    def note_listed(self) -> None:
        """A listing was read to its end."""
        self._slots.write_listed()

    def touch(self) -> None:
        """The folder changes now; never back in time, nor twice at the same moment."""
        self._slots.write_changed(max(self._wall(), self.changed + 1))

    def number(self, name: File, version: str, *, pinned: bool = False) -> InodeT:
        """31 bits of a hash: the same after a restart or a remount, unless the kernel holds another one of it."""
        node = self._by_identity.get((name.key, version, pinned))
        if node is not None:
            return node.inode
        return self._free(name.key, version, str(pinned))

    def find(self, name: File, version: str, *, pinned: bool = False) -> Node | None:
        """The inode of a version, if the table has it."""
        return self._by_identity.get((name.key, version, pinned))

    def add(
        self,
        name: File,
        version: str,
        *,
        size: int | None,
        created: int | None,
        updated: int | None,
        pinned: bool = False,
    ) -> Node:
        """The inode of a version, made if need be and with these times; written before it returns.

        Args:
            size: in bytes; None for a pinned one that only a listing has shown.
        """
        node = self.find(name, version, pinned=pinned)
        if node is None:
            inode = self.number(name, version, pinned=pinned)
            state = State.LISTED if pinned else State.CURRENT
            slot = self._slots.take()
            node = Node(inode, name, version, state, 0, created, updated, slot, content_inode=inode)
            self._enter(node)
        if size is not None:
            node.size = size
            if node.state is State.LISTED:
                node.state = State.PINNED
        node.created, node.updated = created, updated
        self._write(node)
        return node

    def has(self, node: Node) -> bool:
        """Whether the kernel may hold it. One that it let go is no longer written: its slot may be another's."""
        return self.nodes.get(node.inode) is node

    def tell(self, node: Node, spelling: bytes) -> bool:
        """The kernel is about to be given `node`, which the table has, for its name.

        Returns:
            Whether the kernel may remember this spelling: after a rotation only noted ones are invalidated.
        """
        noted = node.pinned or self.give_name(node, spelling)
        self.looked_up(node)
        return noted

    def give_name(self, node: Node, spelling: bytes) -> bool:
        """The name stands for `node` from now on. Returns as `tell`."""
        if node.state is not State.CURRENT:
            self.entries.settle(node)
            node.state = State.CURRENT
            self._write(node)
        noted = self.entries.give(node, spelling)
        if node.content_inode != node.inode:
            self.show(node, node)
        return noted

    def looked_up(self, held: Node | Dirent | Directory) -> None:
        """The kernel gets one more reference."""
        if isinstance(held, Dirent):
            self.dirents.looked_up(held)
            return
        held.lookups += 1
        self._slots.write_lookups(held)

    def forget(self, inode: int, count: int) -> None:
        """The kernel drops references; what it has none of goes away when nothing else needs it."""
        held = self._held(inode)
        if held is None:
            self.dirents.forget_passing(inode)
            return
        held.lookups = max(0, held.lookups - count)
        if isinstance(held, Node):
            self._forget_node(held)
        elif isinstance(held, Dirent):
            self.dirents.note(held)
        elif held.lookups:
            self._slots.write_lookups(held)
        else:
            self.directories.drop(held)

    def unless_held(self, node: Node) -> None:
        """The kernel did not take an inode that was made for it: let it go, unless it has it from elsewhere."""
        self._drop(node)

    def lost(self, node: Node) -> None:
        """The kernel said that it no longer has the inode: its handles are gone too."""
        node.lookups = 0
        for handle in self.handles.on(node):
            self.release(handle.fh)
        self._drop(node)

    def supersede(self, node: Node) -> None:
        """Another version, or none, has taken the name."""
        if node.state is State.CURRENT and self.has(node):
            node.state = State.SUPERSEDED
            self.entries.supersede(node)
            self._write(node)

    def notified(self, node: Node) -> None:
        """The kernel was told that the inode no longer bears its name."""
        self.entries.notified(node)
        if node.state is State.SUPERSEDED and self.has(node):
            node.state = State.NOTIFIED
            self._write(node)

    def show(self, node: Node, other: Node) -> None:
        """From now on `node` shows the bytes of `other`, to those as well that may have it open without having read."""
        before = self.content(node)
        if before is other and node.content_inode == other.inode:
            return
        node.content_inode = other.inode
        if other is not node:
            other.needed += 1
        self._write(node)
        # One inode has one page cache: bytes of two versions would mix in it.
        for handle in self.handles.doubtful(node):
            if handle.content is not other:
                self.handles.repoint(handle, other)
        if before is not node:
            before.needed -= 1
            self._drop(before)

    def content(self, node: Node) -> Node:
        """The inode whose bytes `node` shows."""
        return self.nodes.get(node.content_inode, node)

    def open(self, node: Node) -> Handle:
        """A new handle on what `node` shows now."""
        return self.handles.open(node, node if node.content_inode == node.inode else self.content(node))

    def release(self, fh: int) -> Handle | None:
        """Close a handle; one that is gone already is no error (a request may run twice, DESIGN §4)."""
        handle = self.handles.close(fh)
        if handle is None:
            return None
        node, content = handle.node, handle.content
        if not node.lookups:
            self._drop(node)
        if content is not node:
            self._drop(content)
        return handle

    def held(self) -> list[tuple[File, str]]:
        """What the kernel may hold on to, or has open."""
        return [
            (node.name, node.version)
            for node in self.nodes.values()
            if (node.lookups or node.handles or node.needed) and not node.pinned
        ]

    def unfinished(self) -> list[Node]:
        """Superseded inodes of which the kernel was not notified, as after a take-over."""
        return [node for node in self.nodes.values() if node.state is State.SUPERSEDED]

    def _held(self, inode: int) -> Node | Dirent | Directory | None:
        return (
            self.nodes.get(inode) or self.dirents.by_inode.get(inode) or self.directories.by_inode.get(inode)
        )

    def _free(self, *what: str) -> InodeT:
        return numbers.free(numbers.NODES, self._held, self._origin, *what)

    def _enter(self, node: Node) -> None:
        self.nodes[node.inode] = node
        self._by_identity[node.name.key, node.version, node.pinned] = node

    def _forget_node(self, node: Node) -> None:
        if not node.lookups:
            # The kernel forgets no inode that is open: it never got the answers that these were made for. Not earlier:
            # another reader's OPEN says nothing of them.
            for handle in self.handles.doubtful(node):
                self.release(handle.fh)
        if not self._drop(node):
            self._slots.write_lookups(node)

    def _write(self, node: Node) -> None:
        node.attributes = None
        self._slots.write_node(node)

    def _drop(self, node: Node) -> bool:
        if node.lookups or node.handles or node.needed or not self.has(node):
            return False
        del self.nodes[node.inode]
        del self._by_identity[node.name.key, node.version, node.pinned]
        self._slots.give_back(node.slot)
        self.entries.drop(node)
        content = self.nodes.get(node.content_inode)
        if content is not None:
            content.needed -= 1
            self._drop(content)
        return True

    def _load(self, inherited: Records) -> None:
        for node in inherited.nodes:
            if node.inode in self.nodes:  # a predecessor died while it moved the record
                self._slots.give_back(node.slot)
            else:
                self._enter(node)
        for node in self.nodes.values():
            if node.state is State.CURRENT or node.state is State.SUPERSEDED:
                self.entries.load(node, current=node.state is State.CURRENT)
            content = self.nodes.get(node.content_inode)
            if content is None:
                node.content_inode = node.inode
            elif content is not node:
                content.needed += 1
                node.unsure = True  # the predecessor may have died before its answer was there
        for record in inherited.handles:
            self._load_handle(record)

    def _load_handle(self, record: HandleRecord) -> None:
        owner, opened = self.nodes.get(record.inode), self.nodes.get(record.content)
        if owner is None or opened is None or record.fh in self.handles.by_number:
            self._slots.give_back(record.slot)
            return
        settled = record.settled
        self.handles.add(Handle(record.fh, owner, opened, record.slot, settled=settled, doubtful=not settled))
