"""Who opened which version of a file last: after a rotation it tells when the old password may be switched off."""

from __future__ import annotations

import math
import os
import struct
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keyvaultfs.filesystem.reader import Reader, is_behind, key, shown
from keyvaultfs.log import LOG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keyvaultfs.filesystem.askers import Asker, Seen
    from keyvaultfs.filesystem.inodes.nodes import Node
    from keyvaultfs.filesystem.reader import Current

MOST = 4096
"""Readers that are remembered: those that opened something last."""

_HEAD = struct.Struct("<8sII")  # magic, layout, slots
_MAGIC, _LAYOUT = b"KVFSREAD", 1
# used, handles; uid, pid; opens; first and last open; lengths of path, edition, unit and program; handles; their bytes
_SLOT = struct.Struct("<BBxxII4xQdd4H8Q 640s")
_HANDLES = 8
_MOST_HANDLES, _MOST_OF_ONE = 1 << 16, 1 << 8
"""Open files whose readers are remembered; and when there are more, those of one reader."""
_MOST_OPENS = 1 << 62
_LONGEST = (300, 64, 255, 20)


@dataclass(slots=True, eq=False)
class Recent:
    """What was found out of an open a moment ago, for the next one by the same process.

    Attributes:
        record: for the audit, all but its time.
    """

    reader: Reader
    node: Node
    seen: Seen
    record: bytes = b""


class Readers:
    """Told of each open that succeeds, and of each close. What it knows is written for a successor, in a moment.

    Args:
        fd: a memfd, which a predecessor may have filled; None to keep nothing.
        asker: makes an `Asker` of uid, gid, pid, program, unit and manager.
        is_open: whether a handle is still open.
        wall: Unix seconds.
    """

    def __init__(
        self,
        fd: int | None,
        asker: Callable[[int, int, int, str, str, str], Asker],
        is_open: Callable[[int], bool],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._wall = wall
        self._is_open = is_open
        self._asker = asker
        self._known: OrderedDict[tuple[str, ...], Reader] = OrderedDict()
        self.by_handle: dict[int, Reader] = {}
        self.recent: dict[tuple[int, int], Recent] = {}
        """by inode and process id, for the moment until the next `flush`: a warm open is counted here and no more"""
        self._free: Iterator[int] = iter(range(MOST))
        self._owners: Counter[int] = Counter()
        self.forgotten = 0
        # Written and not mapped: nothing of it is read again here, and each page of a mapping is locked in memory.
        self._fd = fd
        if fd is not None:
            self._load(fd)

    def opened(self, path: str, edition: str, asker: Asker, handle: int) -> Reader:
        """An open of a file succeeded."""
        now, new = self._wall(), False
        name = key(path, asker)
        reader = self._known.get(name)
        if reader is None:
            reader = self._known[name] = Reader(path, asker, edition, now, now, self._place())
            self._owners[reader.owner] += 1
            new = True
        else:
            self._known.move_to_end(name)
            new = reader.edition != edition
            reader.asker, reader.edition, reader.last = asker, edition, now
        reader.opens += 1
        reader.counted = reader.opens
        reader.touched = True
        self.by_handle[handle] = reader
        if new and self._fd is not None:  # a worker may be killed at any moment
            self._write(self._fd, reader, [handle])
            reader.touched = True
        return reader

    def closed(self, handle: int) -> None:
        """A handle was closed, be it of a secret's file or not."""
        reader = self.by_handle.pop(handle, None)
        if reader is not None:
            reader.touched = True

    def flush(self) -> None:
        """Write what changed. To be called every moment, and before a successor takes over."""
        now = self._wall()
        self.recent.clear()
        if len(self.by_handle) > _MOST_HANDLES:
            kept = self._newest_handles()[-_MOST_HANDLES:]
            of_kept = {handle: self.by_handle[handle] for handle in kept}
            self.by_handle.clear()
            self.by_handle.update(of_kept)
        touched = [
            reader for reader in self._known.values() if reader.touched or reader.counted != reader.opens
        ]
        handles = self._handles() if touched else {}
        for reader in touched:
            if reader.counted != reader.opens:
                reader.counted, reader.last = reader.opens, now
            if self._fd is not None:
                self._write(self._fd, reader, handles.get(reader, []))
            reader.touched = False

    def _newest_handles(self) -> list[int]:
        """Those that are open; of who has thousands open the newest few, lest others' be forgotten."""
        count: Counter[Reader] = Counter()
        found = []
        for handle in reversed(self.by_handle):
            reader = self.by_handle[handle]
            if count[reader] < _MOST_OF_ONE and self._is_open(handle):
                count[reader] += 1
                found.append(handle)
        return found[::-1]

    def _handles(self) -> dict[Reader, list[int]]:
        found: dict[Reader, list[int]] = {}
        for handle, reader in self.by_handle.items():
            found.setdefault(reader, []).append(handle)
        return found

    def snapshot(
        self, current: Callable[[str], Current | None], edition_of: Callable[[int], str | None]
    ) -> dict[str, Any]:
        """All that is known, for ``readers``: files by path, those with readers that are behind first.

        Args:
            current: what a path shows now, None if that is not known.
            edition_of: what a handle shows, None if it is not open any more.
        """
        self.flush()
        handles = self._handles()
        files: dict[str, list[tuple[Reader, list[str]]]] = {}
        for reader in self._known.values():
            held = [edition for one in handles.get(reader, ()) if (edition := edition_of(one)) is not None]
            files.setdefault(reader.path, []).append((reader, held))
        rows = [shown(path, current(path), readers) for path, readers in sorted(files.items())]
        rows.sort(key=lambda row: not any(reader["behind"] for reader in row["readers"]))
        return {"files": rows, "forgotten": self.forgotten}

    def behind(self, current: Callable[[str], Current | None]) -> int:
        """How many last opened another version than a file shows now."""
        return sum(is_behind(reader.edition, current(reader.path)) for reader in self._known.values())

    def _place(self) -> int:
        slot = next(self._free, None)
        if slot is None:
            oldest = self._forget()
            self.forgotten += 1
            self.recent.clear()  # it leads to one that is not written any more
            return oldest.slot
        return slot

    def _forget(self) -> Reader:
        """Let the oldest go of the user who has most of them: many names of programs displace nobody else's."""
        owner = max(self._owners, key=self._owners.__getitem__)
        oldest = next(reader for reader in self._known.values() if reader.owner == owner)
        self._owners[owner] -= 1
        if not self._owners[owner]:
            del self._owners[owner]
        return self._known.pop(oldest.key)

    def _write(self, fd: int, reader: Reader, handles: list[int]) -> None:
        asker = reader.asker
        unit = f"{asker.manager}/{asker.unit}" if asker.manager else asker.unit
        texts = [
            text.encode("utf-8", "backslashreplace")[:most]
            for text, most in zip((reader.path, reader.edition, unit, asker.program), _LONGEST, strict=True)
        ]
        handles = handles[-_HANDLES:]
        record = _SLOT.pack(
            1,
            len(handles),
            asker.uid,
            asker.pid,
            reader.opens,
            reader.first,
            reader.last,
            *map(len, texts),
            *handles,
            *[0] * (_HANDLES - len(handles)),
            b"".join(texts),
        )
        # The first byte goes last: a record that was half written when the worker died is not read.
        start = _HEAD.size + reader.slot * _SLOT.size
        os.pwrite(fd, b"\0", start)
        os.pwrite(fd, record[1:], start + 1)
        os.pwrite(fd, record[:1], start)

    def _load(self, fd: int) -> None:
        size = _HEAD.size + MOST * _SLOT.size
        there = os.fstat(fd).st_size
        if there != size or _HEAD.unpack(os.pread(fd, _HEAD.size, 0)) != (_MAGIC, _LAYOUT, MOST):
            if there:
                LOG.warning("who reads what is not known from before: it was written by another version")
            os.ftruncate(fd, 0)
            os.ftruncate(fd, size)
        os.pwrite(fd, _HEAD.pack(_MAGIC, _LAYOUT, MOST), 0)
        found = []
        for slot in _written(fd, size):
            record = os.pread(fd, _SLOT.size, _HEAD.size + slot * _SLOT.size)
            if record[0] and (one := self._read(slot, record)) is not None:
                found.append(one)
        taken = {reader.slot for reader, _ in found}
        self._free = (slot for slot in range(MOST) if slot not in taken)
        for reader, handles in sorted(found, key=lambda one: one[0].last):
            self._known[reader.key] = reader
            self.by_handle |= {handle: reader for handle in handles if self._is_open(handle)}
        self._owners = Counter(reader.owner for reader in self._known.values())

    def _read(self, slot: int, record: bytes) -> tuple[Reader, list[int]] | None:
        """A record; None for one that nothing could be added to, which no worker of ours has written."""
        _, count, uid, pid, opens, first, last, *rest = _SLOT.unpack(record)
        if count > _HANDLES or opens > _MOST_OPENS or not (math.isfinite(first) and math.isfinite(last)):
            return None
        lengths, handles, text = rest[:4], rest[4 : 4 + count], rest[-1]
        texts, at = [], 0
        for length in lengths:
            texts.append(text[at : at + length].decode("utf-8", "replace"))
            at += length
        path, edition, unit, program = texts
        manager, _, unit = unit.rpartition("/")  # which no unit's name has
        asker = self._asker(uid, 0, pid, program, unit, manager)
        return Reader(path, asker, edition, first, last, slot, opens, opens, touched=False), handles


def _written(fd: int, size: int) -> list[int]:
    """The slots that may hold a record: to look at the others would give each of them memory."""
    found: set[int] = set()
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: there is no more
            break
        at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        found.update(range(max(0, start - _HEAD.size) // _SLOT.size, -(-(at - _HEAD.size) // _SLOT.size)))
    return sorted(slot for slot in found if slot < MOST)
