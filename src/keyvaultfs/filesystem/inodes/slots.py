"""What the table knows, in a memfd for a successor: a head, and a slot for each record."""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from keyvaultfs.content.decode import Decoding
from keyvaultfs.errors import KeyVaultFSError
from keyvaultfs.filesystem.inodes.nodes import Directory, Dirent, Handle, Node, State
from keyvaultfs.model import SecretName, Version

if TYPE_CHECKING:
    from pyfuse3 import InodeT

LAYOUT = 2
"""Of the head and the records. Another number for any change that an older worker would misread."""

_HEAD = struct.Struct("<8sI4xqq")  # magic, layout; when the mount began, when the folder last changed: in ns
_MAGIC = b"kvfstab\0"
_CHANGED_AT = 24
# kind, state, decoding, length of name, lookups; inode, size, created, updated, shown; version; name
_NODE = struct.Struct("<BBBBI QQqqQ 16s 127s")
# kind, settled; fh, inode, content
_HANDLE = struct.Struct("<BBxxxxxx QQQ")
# kind, flags, length of name, lookups; inode, updated; version, token; name
_DIRENT = struct.Struct("<BBxBI Qq 16s8s 127s")
# kind, length of name, lookups; inode; name
_DIRECTORY = struct.Struct("<BxxBI Q 127s")
_SETTLED_AT = 1
_LOOKUPS = struct.Struct("<I")
_LOOKUPS_AT = 4
_MOST_LOOKUPS = 0xFFFFFFFF
_SLOT = 256
_FREE, _IS_NODE, _IS_HANDLE, _IS_DIRENT, _IS_DIRECTORY = range(5)
_SHOWN, _TOLD, _CHANGED = 1, 2, 4
_DECODINGS = tuple(Decoding)
_GROW = 256
_UNKNOWN_TIME = -(1 << 63)
_NO_VERSION, _NO_TOKEN = bytes(16), bytes(8)


@dataclass(frozen=True, slots=True)
class HandleRecord:
    """What a predecessor wrote of an open file: numbers of inodes, which may be gone."""

    slot: int
    settled: bool
    fh: int
    inode: int
    content: int


@dataclass(slots=True)
class Records:
    """All that a predecessor left."""

    nodes: list[Node] = field(default_factory=list)
    handles: list[HandleRecord] = field(default_factory=list)
    dirents: list[Dirent] = field(default_factory=list)
    directories: list[Directory] = field(default_factory=list)


def check(fd: int) -> None:
    """See whether this code can read what a predecessor left. Changes nothing, and may be called while it still writes.

    Raises:
        KeyVaultFSError: it cannot; the text says what is there.
    """
    _layout(os.pread(fd, _HEAD.size, 0))


def _layout(head: bytes) -> int:
    """0 for an empty table; 1 for the first layout, which had no head: its first slot is in its place."""
    if not head:
        return 0
    if head[:8] == _MAGIC and len(head) == _HEAD.size:
        layout = int(_HEAD.unpack(head)[1])
        if layout == LAYOUT:
            return layout
        raise KeyVaultFSError(
            "UnknownLayout", f"the table of inodes has layout {layout}, and I know {LAYOUT}"
        )
    if head[0] in {_FREE, _IS_NODE, _IS_HANDLE}:
        return 1
    raise KeyVaultFSError("UnknownLayout", "the table of inodes is none")


class Slots:
    """The memory, and which of its slots are free. A record is whole or it is not there.

    Args:
        fd: a memfd, which a predecessor may have filled; it is mapped.
        now: nanoseconds of Unix time, for an empty one.

    Raises:
        KeyVaultFSError: as `check`.
    """

    def __init__(self, fd: int, now: int) -> None:
        self._fd = fd
        self._free: list[int] = []
        layout = _layout(os.pread(fd, _HEAD.size, 0))
        if not layout:
            os.ftruncate(fd, _GROW * _SLOT)
        self._map = mmap.mmap(fd, os.fstat(fd).st_size)
        if layout != LAYOUT:
            if layout:
                self._clear_first_slot()
            # The magic goes last: until then this is a table of the first layout, whose first slot is free.
            self._map[8 : _HEAD.size] = _HEAD.pack(_MAGIC, LAYOUT, now, now)[8:]
            self._map[1:8] = _MAGIC[1:]
            self._map[0:1] = _MAGIC[:1]
        self.began: int
        self.changed: int
        _, _, self.began, self.changed = _HEAD.unpack_from(self._map)

    def load(self) -> Records:
        """What a predecessor left. To be called once, before any slot is taken."""
        found = Records()
        for slot in range(1, len(self._map) // _SLOT):
            record = self._map[slot * _SLOT : (slot + 1) * _SLOT]
            if record[0] == _IS_NODE:
                found.nodes.append(_node(slot, record))
            elif record[0] == _IS_HANDLE:
                _, settled, fh, inode, content = _HANDLE.unpack_from(record)
                found.handles.append(HandleRecord(slot, bool(settled), fh, inode, content))
            elif record[0] == _IS_DIRENT:
                found.dirents.append(_dirent(slot, record))
            elif record[0] == _IS_DIRECTORY:
                found.directories.append(_directory(slot, record))
            else:
                self._free.append(slot)
        self._free.reverse()
        return found

    def take(self) -> int:
        """A free slot; there is always one."""
        if not self._free:
            before = len(self._map) // _SLOT
            os.ftruncate(self._fd, (before * 2) * _SLOT)
            self._map.resize(before * 2 * _SLOT)
            self._free = list(range(before * 2 - 1, before - 1, -1))
        return self._free.pop()

    def give_back(self, slot: int) -> None:
        """Its record is gone."""
        self._map[slot * _SLOT] = _FREE
        self._free.append(slot)

    def write_changed(self, moment: int) -> None:
        """Write when the folder last changed, in nanoseconds of Unix time."""
        self.changed = moment
        self._map[_CHANGED_AT : _CHANGED_AT + 8] = moment.to_bytes(8, "little", signed=True)

    def write_node(self, node: Node) -> None:
        """Write an inode into its slot."""
        name = node.name.spelling.encode()
        self._put(
            node.slot,
            _NODE.pack(
                _IS_NODE,
                node.state,
                _DECODINGS.index(node.decoding),
                len(name),
                min(node.lookups, _MOST_LOOKUPS),
                node.inode,
                node.size,
                _packed_time(node.created),
                _packed_time(node.updated),
                node.shown,
                bytes.fromhex(node.version),
                name,
            ),
        )

    def write_dirent(self, dirent: Dirent) -> None:
        """Write a name of the root into its slot."""
        name = dirent.name.spelling.encode()
        flags = _SHOWN * dirent.shown | _TOLD * dirent.told | _CHANGED * dirent.changed
        lookups = min(dirent.lookups, _MOST_LOOKUPS)
        version = bytes.fromhex(dirent.version or "") or _NO_VERSION
        token = dirent.token or _NO_TOKEN
        updated = _packed_time(dirent.updated)
        self._put(
            dirent.slot,
            _DIRENT.pack(_IS_DIRENT, flags, len(name), lookups, dirent.inode, updated, version, token, name),
        )

    def write_directory(self, directory: Directory) -> None:
        """Write a directory into its slot."""
        name = directory.name.spelling.encode()
        lookups = min(directory.lookups, _MOST_LOOKUPS)
        self._put(directory.slot, _DIRECTORY.pack(_IS_DIRECTORY, len(name), lookups, directory.inode, name))

    def write_lookups(self, held: Node | Dirent | Directory) -> None:
        """Write how many references the kernel has to something that was written before."""
        _LOOKUPS.pack_into(self._map, held.slot * _SLOT + _LOOKUPS_AT, min(held.lookups, _MOST_LOOKUPS))

    def write_handle(self, handle: Handle) -> None:
        """Write an open file into its slot."""
        self._put(
            handle.slot,
            _HANDLE.pack(_IS_HANDLE, handle.settled, handle.fh, handle.node.inode, handle.content.inode),
        )

    def write_settled(self, handle: Handle) -> None:
        """Write that the kernel has had the answer which made a handle that was written before."""
        self._map[handle.slot * _SLOT + _SETTLED_AT] = 1

    def _put(self, slot: int, record: bytes) -> None:
        # The kind goes last: a record that was half written when the worker died is not read.
        start = slot * _SLOT
        self._map[start + 1 : start + len(record)] = record[1:]
        self._map[start] = record[0]

    def _clear_first_slot(self) -> None:
        """Move the record that stands where the head belongs; one that is there twice is read as one."""
        for slot in range(1, len(self._map) // _SLOT):
            if self._map[slot * _SLOT] == _FREE:
                break
        else:
            slot = len(self._map) // _SLOT
            os.ftruncate(self._fd, slot * 2 * _SLOT)
            self._map.resize(slot * 2 * _SLOT)
        if self._map[0] != _FREE:
            self._put(slot, self._map[:_SLOT])
        self._map[0] = _FREE


def _packed_time(seconds: int | None) -> int:
    return _UNKNOWN_TIME if seconds is None else seconds


def _time(packed: int) -> int | None:
    return None if packed == _UNKNOWN_TIME else packed


def _name(raw: bytes, length: int) -> SecretName:
    return SecretName(raw[:length].decode())


def _node(slot: int, record: bytes) -> Node:
    _, state, decoding, length, lookups, inode, size, created, updated, shown, version, name = (
        _NODE.unpack_from(record)
    )
    return Node(
        inode,
        _name(name, length),
        Version(version.hex()),
        _DECODINGS[decoding],
        State(state),
        size,
        _time(created),
        _time(updated),
        slot,
        lookups,
        shown,
    )


def _dirent(slot: int, record: bytes) -> Dirent:
    _, flags, length, lookups, inode, updated, version, token, name = _DIRENT.unpack_from(record)
    return Dirent(
        inode,
        _name(name, length),
        slot,
        lookups,
        _time(updated),
        None if version == _NO_VERSION else Version(version.hex()),
        bool(flags & _SHOWN),
        bool(flags & _TOLD),
        bool(flags & _CHANGED),
        b"" if token == _NO_TOKEN else token,
    )


def _directory(slot: int, record: bytes) -> Directory:
    _, length, lookups, inode, name = _DIRECTORY.unpack_from(record)
    return Directory(cast("InodeT", inode), _name(name, length), slot, lookups)
