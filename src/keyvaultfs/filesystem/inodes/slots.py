"""What the table knows, in a memfd for a successor: a head, and a slot for each record."""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from keyvaultfs.errors import KeyVaultFSError
from keyvaultfs.files import tree as trees
from keyvaultfs.files.editions import decoded_id
from keyvaultfs.filesystem.inodes.nodes import Directory, Dirent, Handle, Node, State
from keyvaultfs.model import SecretName

if TYPE_CHECKING:
    from pyfuse3 import InodeT

    from keyvaultfs.files.tree import Tree

LAYOUT = 2
"""Of the head and the records. Another number for any change that an older worker would misread."""

# magic, layout; when the mount began, when the folder last changed, in ns; whether a listing was ever read
_HEAD = struct.Struct("<8sI4xqqB")
_MAGIC = b"kvfstab\0"
_CHANGED_AT, _LISTED_AT = 24, 32
# kind, state, decoding (layout 1), length of name, lookups; inode, size, created, updated, shown; version; name
_NODE = struct.Struct("<BBBBI QQqqQ 16s 127s")
# kind, settled; fh, inode, content
_HANDLE = struct.Struct("<BBxxxxxx QQQ")
# kind, flags, length of name, lookups; inode, updated; version, token; name
_DIRENT = struct.Struct("<BBxBI Qq 16s8s 127s")
# kind, length of name, lookups; inode; name
_DIRECTORY = struct.Struct("<BxxBI Q 127s")
# kind, which part, of how many, length; digest of the whole; the part
_TEXT = struct.Struct("<BBBB 16s 200s")
_IN_PLACE = 127  # bytes of a path in its record
_ELSEWHERE = 255  # the length of one that is not: its digest is there
_SETTLED_AT = 1
_LOOKUPS = struct.Struct("<I")
_LOOKUPS_AT = 4
_MOST_LOOKUPS = 0xFFFFFFFF
_SLOT = 256
_FREE, _IS_NODE, _IS_HANDLE, _IS_DIRENT, _IS_DIRECTORY, _IS_TEXT = range(6)
_SHOWN, _TOLD, _CHANGED, _ANSWERED = 1, 2, 4, 8
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
        tree: what the paths are.

    Raises:
        KeyVaultFSError: as `check`.
    """

    def __init__(self, fd: int, now: int, tree: Tree) -> None:
        self._fd = fd
        self._tree = tree
        self._texts: dict[bytes, bytes] = {}
        """by digest: paths that are too long for the records that they belong to"""
        self._free: list[int] = []
        layout = _layout(os.pread(fd, _HEAD.size, 0))
        if not layout:
            os.ftruncate(fd, _GROW * _SLOT)
        self._map = mmap.mmap(fd, os.fstat(fd).st_size)
        if layout != LAYOUT:
            if layout:
                self._clear_first_slot()
            # The magic goes last: until then this is a table of the first layout, whose first slot is free.
            self._map[8 : _HEAD.size] = _HEAD.pack(_MAGIC, LAYOUT, now, now, 0)[8:]
            self._map[1:8] = _MAGIC[1:]
            self._map[0:1] = _MAGIC[:1]
        self.began: int
        self.changed: int
        _, _, self.began, self.changed, listed = _HEAD.unpack_from(self._map)
        self.listed = bool(listed)

    def load(self) -> Records:
        """What a predecessor left. To be called once, before any slot is taken."""
        found = Records()
        self._load_texts()
        for slot in range(1, len(self._map) // _SLOT):
            record = self._map[slot * _SLOT : (slot + 1) * _SLOT]
            if record[0] == _IS_NODE:
                found.nodes.append(self._node(slot, record))
            elif record[0] == _IS_HANDLE:
                _, settled, fh, inode, content = _HANDLE.unpack_from(record)
                found.handles.append(HandleRecord(slot, bool(settled), fh, inode, content))
            elif record[0] == _IS_DIRENT:
                found.dirents.append(self._dirent(slot, record))
            elif record[0] == _IS_DIRECTORY:
                found.directories.append(self._directory(slot, record))
            elif record[0] != _IS_TEXT:
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

    def write_listed(self) -> None:
        """Write that a listing was read to its end."""
        self.listed = True
        self._map[_LISTED_AT] = 1

    def write_node(self, node: Node) -> None:
        """Write an inode into its slot."""
        length, name = self._text(node.name.stored)
        self._put(
            node.slot,
            _NODE.pack(
                _IS_NODE,
                node.state,
                0,
                length,
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
        """Write a name of a folder into its slot."""
        length, name = self._text(dirent.name.stored)
        flags = _SHOWN * dirent.shown | _TOLD * dirent.told | _CHANGED * dirent.changed
        flags |= _ANSWERED * dirent.answered
        lookups = min(dirent.lookups, _MOST_LOOKUPS)
        version = bytes.fromhex(dirent.version or "") or _NO_VERSION
        token = dirent.token or _NO_TOKEN
        updated = _packed_time(dirent.updated)
        self._put(
            dirent.slot,
            _DIRENT.pack(_IS_DIRENT, flags, length, lookups, dirent.inode, updated, version, token, name),
        )

    def write_directory(self, directory: Directory) -> None:
        """Write a directory into its slot."""
        length, name = self._text(directory.name.spelling)
        lookups = min(directory.lookups, _MOST_LOOKUPS)
        self._put(directory.slot, _DIRECTORY.pack(_IS_DIRECTORY, length, lookups, directory.inode, name))

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

    def _text(self, text: str) -> tuple[int, bytes]:
        """A path as a record has it: its length and itself, or what stands for it."""
        raw = text.encode()
        if len(raw) <= _IN_PLACE:
            return len(raw), raw
        digest = hashlib.blake2b(raw, digest_size=16).digest()
        if digest not in self._texts:
            parts = [raw[start : start + 200] for start in range(0, len(raw), 200)]
            for place, part in enumerate(parts):
                record = _TEXT.pack(_IS_TEXT, place, len(parts), len(part), digest, part)
                self._put(self.take(), record)
            self._texts[digest] = raw
        return _ELSEWHERE, digest

    def _load_texts(self) -> None:
        parts: dict[bytes, dict[int, bytes]] = {}
        counts: dict[bytes, int] = {}
        for slot in range(1, len(self._map) // _SLOT):
            start = slot * _SLOT
            if self._map[start] == _IS_TEXT:
                _, place, count, length, digest, part = _TEXT.unpack_from(self._map, start)
                parts.setdefault(digest, {})[place] = part[:length]
                counts[digest] = count
        for digest, found in parts.items():
            if (
                len(found) == counts[digest]
            ):  # else a predecessor died while it wrote it: nothing means it yet
                self._texts[digest] = b"".join(found[place] for place in sorted(found))

    def _path(self, raw: bytes, length: int) -> str:
        return (self._texts[raw[:16]] if length == _ELSEWHERE else raw[:length]).decode()

    def _node(self, slot: int, record: bytes) -> Node:
        _, state, decoding, length, lookups, inode, size, created, updated, shown, edition, name = (
            _NODE.unpack_from(record)
        )
        path, version = self._path(name, length), edition.hex()
        if state in {State.PINNED, State.LISTED}:
            file = trees.of_version(path if "/" in path else f"{path}/{version}")
        else:
            file = self._tree.file(path)
        return Node(
            inode,
            file,
            decoded_id(file, version, decoding),
            State(state),
            size,
            _time(created),
            _time(updated),
            slot,
            lookups,
            shown,
        )

    def _dirent(self, slot: int, record: bytes) -> Dirent:
        _, flags, length, lookups, inode, updated, version, token, name = _DIRENT.unpack_from(record)
        return Dirent(
            inode,
            self._tree.file(self._path(name, length)),
            slot,
            lookups,
            _time(updated),
            None if version == _NO_VERSION else version.hex(),
            bool(flags & _SHOWN),
            bool(flags & _TOLD),
            bool(flags & _CHANGED),
            b"" if token == _NO_TOKEN else token,
            bool(flags & _ANSWERED),
        )

    def _directory(self, slot: int, record: bytes) -> Directory:
        _, length, lookups, inode, name = _DIRECTORY.unpack_from(record)
        path = self._path(name, length)
        owner = self._tree.directory(path[:-1]) if path.endswith("/") else SecretName(path)
        return Directory(cast("InodeT", inode), owner, slot, lookups)

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
