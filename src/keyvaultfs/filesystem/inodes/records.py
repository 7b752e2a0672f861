"""The form of what the table keeps for a successor: a head, and a record for each inode, name, directory and open file.

Everything here turns bytes into objects or objects into bytes; `slots` has the memory that the records are in.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, cast

from keyvaultfs.errors import KeyVaultFSError
from keyvaultfs.files import tree as trees
from keyvaultfs.files.edition import decoded_id
from keyvaultfs.filesystem.inodes.nodes import Directory, Dirent, Node, State
from keyvaultfs.model import SecretName

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyfuse3 import InodeT

    from keyvaultfs.files.tree import Tree

LAYOUT = 2
"""Of the head and the records. Another number for any change that an older worker would misread."""

# magic, layout; when the mount began, when the folder last changed, in ns; whether a listing was ever read
HEAD = struct.Struct("<8sI4xqqB")
MAGIC = b"kvfstab\0"
CHANGED_AT, LISTED_AT = 24, 32

# kind, state, decoding (layout 1), length of name, lookups; inode, size, created, updated, shown; version; name
_NODE = struct.Struct("<BBBBI QQqqQ 16s 127s")
# kind, settled; fh, inode, content
_HANDLE = struct.Struct("<BBxxxxxx QQQ")
HANDLE_BODY = struct.Struct("<Bxxxxxx QQQ")  # the same without the kind
# kind, flags, length of name, lookups; inode, updated; version, token; name; version and updated as given to the child
_DIRENT = struct.Struct("<BBxBI Qq 16s8s 127s 16sq")
# kind, length of name, lookups; inode; name
_DIRECTORY = struct.Struct("<BxxBI Q 127s")
# kind, which part, of how many, length; digest of the whole; the part
_TEXT = struct.Struct("<BBBB 16s 200s")
_TEXT_PART = 200
IN_PLACE = 127
"""Bytes of a path that fit into its record."""
ELSEWHERE = 255
"""In place of a length: the path does not fit. The record has its digest, and records of its own have the path."""
SETTLED_AT = 1
LOOKUPS = struct.Struct("<I")
LOOKUPS_AT = 4
_MOST_LOOKUPS = 0xFFFFFFFF
FREE, IS_NODE, IS_HANDLE, IS_DIRENT, IS_DIRECTORY, IS_TEXT = range(6)
_PRESENT, _ANNOUNCED, _CHANGED, _ANSWERED = 1, 2, 4, 8
_UNKNOWN_TIME = -(1 << 63)
_NO_VERSION, _NO_TOKEN = bytes(16), bytes(8)


class HandleRecord(NamedTuple):
    """What a predecessor wrote of an open file: numbers of inodes, which may be gone."""

    slot: int
    settled: bool
    fh: int
    inode: int
    content: int


@dataclass(slots=True, eq=False)
class Records:
    """All that a predecessor left."""

    nodes: list[Node] = field(default_factory=list)
    handles: list[HandleRecord] = field(default_factory=list)
    dirents: list[Dirent] = field(default_factory=list)
    directories: list[Directory] = field(default_factory=list)


def layout(head: bytes) -> int:
    """The layout of a table, from its first `HEAD.size` bytes.

    Returns:
        0 for an empty table; 1 for the first layout, which had no head: a record is in its place.

    Raises:
        KeyVaultFSError: this code does not know the layout; the text says what is there.
    """
    if not head:
        return 0
    if head[:8] == MAGIC and len(head) == HEAD.size:
        found = int(HEAD.unpack(head)[1])
        if found == LAYOUT:
            return found
        raise KeyVaultFSError("UnknownLayout", f"the table of inodes has layout {found}, and I know {LAYOUT}")
    if head[0] in {FREE, IS_NODE, IS_HANDLE}:
        return 1
    raise KeyVaultFSError("UnknownLayout", "the table of inodes is none")


def lookups(count: int) -> int:
    """How a record has a count of the kernel's references: in 32 bits."""
    return min(count, _MOST_LOOKUPS)


def pack_node(node: Node, length: int, name: bytes) -> bytes:
    """The record of an inode. `length` and `name` stand for its path, as a record has it."""
    return _NODE.pack(
        IS_NODE,
        node.state,
        0,
        length,
        lookups(node.lookups),
        node.inode,
        node.size,
        _packed_time(node.created),
        _packed_time(node.updated),
        node.content_inode,
        bytes.fromhex(node.version),
        name,
    )


def pack_dirent(dirent: Dirent, length: int, name: bytes) -> bytes:
    """The record of a name of a folder, as `pack_node`."""
    flags = _PRESENT * dirent.present | _ANNOUNCED * dirent.announced | _CHANGED * dirent.changed
    flags |= _ANSWERED * dirent.answered
    return _DIRENT.pack(
        IS_DIRENT,
        flags,
        length,
        lookups(dirent.lookups),
        dirent.inode,
        _packed_time(dirent.updated),
        bytes.fromhex(dirent.version or "") or _NO_VERSION,
        dirent.token or _NO_TOKEN,
        name,
        bytes.fromhex(dirent.given or "") or _NO_VERSION,
        _packed_time(dirent.given_updated),
    )


def pack_directory(directory: Directory, length: int, name: bytes) -> bytes:
    """The record of a directory, as `pack_node`."""
    return _DIRECTORY.pack(IS_DIRECTORY, length, lookups(directory.lookups), directory.inode, name)


def pack_text(raw: bytes, digest: bytes) -> list[bytes]:
    """The records of a path that does not fit into another's record, each with a part of it."""
    parts = [raw[start : start + _TEXT_PART] for start in range(0, len(raw), _TEXT_PART)]
    return [
        _TEXT.pack(IS_TEXT, index, len(parts), len(part), digest, part) for index, part in enumerate(parts)
    ]


def unpack_texts(records: list[bytes]) -> dict[bytes, bytes]:
    """The paths that records of `pack_text` hold, by digest.

    One of which a part is missing is left out: a predecessor died while it wrote it, so no other record means it yet.
    """
    parts: dict[bytes, dict[int, bytes]] = {}
    counts: dict[bytes, int] = {}
    for record in records:
        _, index, count, length, digest, part = _TEXT.unpack_from(record)
        parts.setdefault(digest, {})[index] = part[:length]
        counts[digest] = count
    return {
        digest: b"".join(found[index] for index in sorted(found))
        for digest, found in parts.items()
        if len(found) == counts[digest]
    }


class Reader:
    """Sorts a predecessor's records, and makes what they describe.

    Args:
        tree: what the paths are now.
        path: a record's name and length -> the path.
    """

    def __init__(self, tree: Tree, path: Callable[[bytes, int], str]) -> None:
        self._tree = tree
        self._path = path
        self.found = Records()

    def read(self, slot: int, record: bytes) -> bool:
        """Take one record; False where the slot has none."""
        kind = record[0]
        if kind == IS_NODE:
            self.found.nodes.append(self._node(slot, record))
        elif kind == IS_HANDLE:
            _, settled, fh, inode, content = _HANDLE.unpack_from(record)
            self.found.handles.append(HandleRecord(slot, bool(settled), fh, inode, content))
        elif kind == IS_DIRENT:
            self.found.dirents.append(self._dirent(slot, record))
        elif kind == IS_DIRECTORY:
            self.found.directories.append(self._directory(slot, record))
        return kind in {IS_NODE, IS_HANDLE, IS_DIRENT, IS_DIRECTORY, IS_TEXT}

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
        _, flags, length, lookups, inode, updated, version, token, name, given, given_updated = (
            _DIRENT.unpack_from(record)
        )
        return Dirent(
            inode,
            self._tree.file(self._path(name, length)),
            slot,
            lookups,
            _time(updated),
            _version(version),
            bool(flags & _PRESENT),
            bool(flags & _ANNOUNCED),
            bool(flags & _CHANGED),
            b"" if token == _NO_TOKEN else token,
            bool(flags & _ANSWERED),
            given=_version(given),
            given_updated=_time(given_updated),
        )

    def _directory(self, slot: int, record: bytes) -> Directory:
        _, length, lookups, inode, name = _DIRECTORY.unpack_from(record)
        path = self._path(name, length)
        owner = self._tree.directory(path[:-1]) if path.endswith("/") else SecretName(path)
        return Directory(cast("InodeT", inode), owner, slot, lookups)


def _version(packed: bytes) -> str | None:
    return None if packed == _NO_VERSION else packed.hex()


def _packed_time(seconds: int | None) -> int:
    return _UNKNOWN_TIME if seconds is None else seconds


def _time(packed: int) -> int | None:
    return None if packed == _UNKNOWN_TIME else packed
