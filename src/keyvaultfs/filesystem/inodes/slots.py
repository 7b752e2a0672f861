"""The memory in which the table is kept for a successor: a memfd of slots, each with one record or free."""

from __future__ import annotations

import hashlib
import mmap
import os
from typing import TYPE_CHECKING

from keyvaultfs.filesystem.inodes import records

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyvaultfs.files.tree import Tree
    from keyvaultfs.filesystem.inodes.nodes import Directory, Dirent, Handle, Node
    from keyvaultfs.filesystem.inodes.records import Records

_SLOT = 256
_GROW = 256
_PIECE = 256 * _SLOT
_HANDLE_BODY, _IS_HANDLE = records.HANDLE_BODY, records.IS_HANDLE


def check(fd: int) -> None:
    """See whether this code can read what a predecessor left. Changes nothing, and may be called while it still writes.

    Raises:
        KeyVaultFSError: it cannot; the text says what is there.
    """
    records.layout(os.pread(fd, records.HEAD.size, 0))


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
        """below `_unused`"""
        self._unused = 1
        """the first slot of those at the end that nothing was ever written to"""
        layout = records.layout(os.pread(fd, records.HEAD.size, 0))
        size = os.fstat(fd).st_size
        # Whatever a predecessor has left: only whole slots can be used.
        whole = max(_GROW, -(-size // _SLOT)) * _SLOT
        if whole != size:
            os.ftruncate(fd, whole)
        self._map = mmap.mmap(fd, whole)
        if layout != records.LAYOUT:
            if layout:
                self._clear_first_slot()
            # The magic goes last: until then this is a table of the first layout, whose first slot is free.
            head = records.HEAD.pack(records.MAGIC, records.LAYOUT, now, now, 0)
            self._map[8 : len(head)] = head[8:]
            self._map[1:8] = head[1:8]
            self._map[0:1] = head[:1]
        self.began: int
        self.changed: int
        _, _, self.began, self.changed, listed = records.HEAD.unpack_from(self._map)
        self.listed = bool(listed)

    def load(self) -> Records:
        """What a predecessor left. To be called once, before any slot is taken."""
        texts = [record for slot, record in self._left() if slot and record[0] == records.IS_TEXT]
        self._texts = records.unpack_texts(texts)
        reader = records.Reader(self._tree, self._path)
        self._free = [slot for slot, record in self._left() if slot and not reader.read(slot, record)]
        self._unused = self._count()
        while self._free and self._free[-1] == self._unused - 1:
            self._unused = self._free.pop()
        self._free.reverse()
        return reader.found

    def take(self) -> int:
        """A free slot; there is always one."""
        if self._free:
            return self._free.pop()
        if self._unused == self._count():
            os.ftruncate(self._fd, (self._unused * 2) * _SLOT)
            self._map.resize(self._unused * 2 * _SLOT)
        self._unused += 1
        return self._unused - 1

    def give_back(self, slot: int) -> None:
        """Its record is gone."""
        self._map[slot * _SLOT] = records.FREE
        self._free.append(slot)

    def write_changed(self, moment: int) -> None:
        """Write when the folder last changed, in nanoseconds of Unix time."""
        self.changed = moment
        self._map[records.CHANGED_AT : records.CHANGED_AT + 8] = moment.to_bytes(8, "little", signed=True)

    def write_listed(self) -> None:
        """Write that a listing was read to its end."""
        self.listed = True
        self._map[records.LISTED_AT] = 1

    def write_node(self, node: Node) -> None:
        """Write an inode into its slot."""
        self._put(node.slot, records.pack_node(node, *self._text(node.name.stored)))

    def write_dirent(self, dirent: Dirent) -> None:
        """Write a name of a folder into its slot.

        Not through the map, whose pages are locked in memory: there may be very many names, and none is a secret.
        """
        record = records.pack_dirent(dirent, *self._text(dirent.name.stored))
        # Within one page, so it is written whole: a signal that kills the worker waits for the end of the call.
        os.pwrite(self._fd, record, dirent.slot * _SLOT)

    def write_directory(self, directory: Directory) -> None:
        """Write a directory into its slot."""
        self._put(directory.slot, records.pack_directory(directory, *self._text(directory.name.spelling)))

    def write_lookups(self, held: Node | Directory) -> None:
        """Write how many references the kernel has to something that was written before."""
        records.LOOKUPS.pack_into(
            self._map, held.slot * _SLOT + records.LOOKUPS_AT, records.lookups(held.lookups)
        )

    def write_handle(self, handle: Handle) -> None:
        """Write an open file into its slot; in place, since each open does."""
        start, table = handle.slot * _SLOT, self._map
        _HANDLE_BODY.pack_into(
            table, start + 1, handle.settled, handle.fh, handle.node.inode, handle.content.inode
        )
        table[start] = _IS_HANDLE  # last, as in `_put`

    def write_settled(self, handle: Handle) -> None:
        """Write that the kernel has had the answer which made a handle that was written before."""
        self._map[handle.slot * _SLOT + records.SETTLED_AT] = 1

    def _count(self) -> int:
        return len(self._map) // _SLOT

    def _left(self) -> Iterator[tuple[int, bytes]]:
        """Each slot and what is in it; read and not mapped, as `write_dirent` has it."""
        for start in range(0, len(self._map), _PIECE):
            piece = os.pread(self._fd, _PIECE, start)
            for at in range(0, len(piece), _SLOT):
                yield (start + at) // _SLOT, piece[at : at + _SLOT]

    def _put(self, slot: int, record: bytes) -> None:
        # The kind goes last: a record that was half written when the worker died is not read.
        start = slot * _SLOT
        self._map[start + 1 : start + len(record)] = record[1:]
        self._map[start] = record[0]

    def _text(self, text: str) -> tuple[int, bytes]:
        """A path as a record has it: its length and itself, or what stands for it."""
        raw = text.encode()
        if len(raw) <= records.IN_PLACE:
            return len(raw), raw
        digest = hashlib.blake2b(raw, digest_size=16).digest()
        if digest not in self._texts:
            for record in records.pack_text(raw, digest):
                self._put(self.take(), record)
            self._texts[digest] = raw
        return records.ELSEWHERE, digest

    def _path(self, raw: bytes, length: int) -> str:
        return (self._texts[raw[:16]] if length == records.ELSEWHERE else raw[:length]).decode()

    def _clear_first_slot(self) -> None:
        """Move the record that stands where the head belongs; one that is there twice is read as one."""
        for slot in range(1, self._count()):
            if self._map[slot * _SLOT] == records.FREE:
                break
        else:
            slot = self._count()
            os.ftruncate(self._fd, slot * 2 * _SLOT)
            self._map.resize(slot * 2 * _SLOT)
        if self._map[0] != records.FREE:
            self._put(slot, self._map[:_SLOT])
        self._map[0] = records.FREE
