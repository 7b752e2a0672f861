"""Values and what is known of them, in a memfd that outlives this process: a log with compaction."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import zlib
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary, ref

from keyvaultfs.cache.stored import FileKey, Stored, packed, unpacked
from keyvaultfs.errors import KeyVaultFSError
from keyvaultfs.model import Properties, SecretName, SecretValue, Version

if TYPE_CHECKING:
    from collections.abc import Iterator

# The log's own head: magic, where the records in force begin. A record's: state, crc, meta, value, checked.
_HEAD = struct.Struct("<8sQ")
_RECORD = struct.Struct("<IIIId")
_CHECKED = 16
LAYOUT = 1
"""Of the head and the records. Another number for any change that an older worker would misread."""

_MAGIC = b"kvfsval%d" % LAYOUT
_LIVE, _DEAD = 0x4C495645, 0x44454144
_PAGE = mmap.PAGESIZE
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # fallocate(2)
_libc = ctypes.CDLL(None, use_errno=True)
_SMALLEST = 64 * _PAGE
_WORTH_COMPACTING = 1 << 20


def check(fd: int) -> None:
    """See whether this code can read what a predecessor left. Changes nothing, and may be called while it still writes.

    Raises:
        KeyVaultFSError: it cannot; the text says what is there.
    """
    magic = os.pread(fd, len(_MAGIC), 0)
    if magic.strip(b"\0") and magic != _MAGIC:
        raise KeyVaultFSError(
            "UnknownLayout", f"the kept values have another layout than {LAYOUT}, which I know"
        )


class ValueStore:
    """Values by (folded name, version). A record is whole or it is not there, whenever the process is killed.

    Args:
        fd: a memfd that a predecessor may have filled, or None for one of our own.
        limit: bytes of values that are kept; beyond it the longest unused go.
    """

    def __init__(self, fd: int | None = None, limit: int = 64 << 20) -> None:
        self._fd = os.memfd_create("keyvaultfs-values", os.MFD_CLOEXEC) if fd is None else fd
        self._limit = limit
        self._records: dict[tuple[str, str], Stored] = {}
        """the longest unused first"""
        # Copies of what was let go while somebody has it open: however many have a version open, there is one of it.
        self._given: WeakValueDictionary[tuple[str, str], SecretValue] = WeakValueDictionary()
        # The copy that was given last: for who opens one file again and again no copy is made each time.
        self._last: SecretValue | None = None
        self.live = 0
        self._dead = 0
        self.evicted = 0
        size = os.fstat(self._fd).st_size
        fresh = size < _SMALLEST
        if fresh:
            size = _SMALLEST
            os.ftruncate(self._fd, size)
        self._map = mmap.mmap(self._fd, size)
        if fresh or self._map[:8] != _MAGIC:
            self._map[: _HEAD.size] = _HEAD.pack(_MAGIC, _PAGE)
        self._base = self._end = _HEAD.unpack_from(self._map)[1]
        self._load()

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Stored]:
        return iter(tuple(self._records.values()))

    def secrets(self) -> Iterator[tuple[SecretName, Stored]]:
        """The values of secrets."""
        for stored in tuple(self._records.values()):
            if isinstance(stored.name, SecretName):
                yield stored.name, stored

    def made(self) -> Iterator[tuple[FileKey, Stored]]:
        """The bytes that files were made of."""
        for stored in tuple(self._records.values()):
            if isinstance(stored.name, FileKey):
                yield stored.name, stored

    def fileno(self) -> int:
        """The memfd."""
        return self._fd

    def get(self, name: SecretName | FileKey, version: Version) -> SecretValue | None:
        """A value; it counts as used. The same object for all who use it at the same time."""
        key = (name.key, version)
        stored = self._records.get(key)
        if stored is None:
            return None
        self._records[key] = self._records.pop(key)
        value = None if stored.given is None else stored.given()
        if value is None:
            value = SecretValue(self._map[stored.value_start : stored.value_start + stored.value_length])
            stored.given = ref(value)
            self._last = value
        return value

    def has(self, name: SecretName | FileKey, version: Version) -> bool:
        """Whether `get` would find it."""
        return (name.key, version) in self._records

    def put(
        self,
        name: SecretName | FileKey,
        version: Version,
        value: SecretValue,
        properties: Properties,
        *,
        racy: bool,
        checked: float,
    ) -> None:
        """Keep a value, in the place of an earlier record of the same version."""
        meta = packed(name, version, properties, racy=racy)
        raw = value.reveal()
        length = -(-(_RECORD.size + len(meta) + len(raw)) // 8) * 8
        self.drop(name, version)
        self._make_room(length, len(raw))
        start, body = self._end, self._end + _RECORD.size
        self._map[body : body + len(meta) + len(raw)] = meta + raw
        crc = zlib.crc32(meta + raw)
        self._map[start + 4 : body] = _RECORD.pack(0, crc, len(meta), len(raw), checked)[4:]
        self._map[start : start + 4] = struct.pack("<I", _LIVE)  # last: a record is whole from here on
        self._end += length
        self.live += len(raw)
        key = (name.key, version)
        given = self._given.pop(key, value)  # who had it open before it was let go shares it
        shared = ref(given if given.reveal() == raw else value)
        self._records[key] = Stored(
            name, version, properties, racy, checked, start, length, body + len(meta), len(raw), shared
        )

    def check(self, name: SecretName | FileKey, version: Version, checked: float) -> None:
        """A value was found to be still the current one."""
        stored = self._records.get((name.key, version))
        if stored is not None:
            stored.checked = checked
            self._map[stored.start + _CHECKED : stored.start + _RECORD.size] = struct.pack("<d", checked)

    def drop(self, name: SecretName | FileKey, version: Version) -> None:
        """Forget a value; its bytes become zeros."""
        key = (name.key, version)
        stored = self._records.pop(key, None)
        if stored is None:
            return
        given = None if stored.given is None else stored.given()
        if given is self._last:
            self._last = None
        if given is not None:
            self._given[key] = given
        self._map[stored.start : stored.start + 4] = struct.pack("<I", _DEAD)
        end = stored.start + stored.length
        self._map[stored.start + _RECORD.size : end] = bytes(stored.length - _RECORD.size)
        self.live -= stored.value_length
        self._dead += stored.length

    def clear(self) -> int:
        """Forget all values of secrets; returns how many there were.

        What files were made of stays: an edition never changes its bytes, and not all can be made again to the letter.
        """
        found = tuple(self.secrets())
        for name, stored in found:
            self.drop(name, stored.version)
        self._compact(0)
        return len(found)

    def _make_room(self, length: int, value_length: int) -> None:
        while self._records and self.live + value_length > self._limit:
            oldest = next(iter(self._records.values()))
            self.drop(oldest.name, oldest.version)
            self.evicted += 1
        if self._dead > _WORTH_COMPACTING and self._dead > self._end - self._base - self._dead:
            self._compact(length)
        self._grow(self._end + length + _RECORD.size)

    def _compact(self, more: int) -> None:
        """Copy the live records to a free region, and then say that it is the one in force."""
        needed = sum(stored.length for stored in self._records.values())
        room = needed + more + _RECORD.size
        below = self._base - _PAGE
        new_base = _PAGE if below >= room else -(-self._end // _PAGE) * _PAGE + _PAGE
        self._grow(new_base + room)
        position = new_base
        moves = []
        for stored in self._records.values():
            self._map[position : position + stored.length] = self._map[
                stored.start : stored.start + stored.length
            ]
            moves.append((stored, position - stored.start))
            position += stored.length
        self._map[position : position + _RECORD.size] = bytes(_RECORD.size)
        self._map[8:16] = struct.pack("<Q", new_base)  # from here on it is in force
        for stored, shift in moves:
            stored.start += shift
            stored.value_start += shift
        old, old_end = self._base, -(-self._end // _PAGE) * _PAGE
        self._free(old, old_end - old)
        self._base, self._end, self._dead = new_base, position, 0

    def _free(self, start: int, length: int) -> None:
        """Give pages back; they read as zeros. madvise(2) cannot do it to memory that is locked."""
        if not length:
            return
        hole = _libc.fallocate(
            self._fd, _PUNCH_HOLE | _KEEP_SIZE, ctypes.c_long(start), ctypes.c_long(length)
        )
        if hole != 0:
            self._map[start : start + length] = bytes(length)

    def _grow(self, size: int) -> None:
        if size > len(self._map):
            size = max(-(-size // _PAGE) * _PAGE, len(self._map) * 2)
            os.ftruncate(self._fd, size)
            self._map.resize(size)

    def _load(self) -> None:
        position = self._base
        while position + _RECORD.size <= len(self._map):
            state, crc, meta_length, value_length, checked = _RECORD.unpack_from(self._map, position)
            if state not in {_LIVE, _DEAD}:
                break
            length = -(-(_RECORD.size + meta_length + value_length) // 8) * 8
            body = position + _RECORD.size
            end = body + meta_length + value_length
            if end > len(self._map):
                break
            if state == _LIVE and zlib.crc32(self._map[body:end]) == crc:
                name, version, properties, racy = unpacked(self._map[body : body + meta_length])
                self._records[name.key, version] = Stored(
                    name,
                    version,
                    properties,
                    racy,
                    checked,
                    position,
                    length,
                    body + meta_length,
                    value_length,
                )
                self.live += value_length
            else:  # perhaps killed before its bytes were zeros
                self._map[position : position + 4] = struct.pack("<I", _DEAD)
                self._map[body:end] = bytes(end - body)
                self._dead += length
            position += length
        self._end = position
        # What a predecessor wrote and did not bring into force, or copied elsewhere and did not free.
        self._free(position, len(self._map) - position)
        self._free(_PAGE, self._base - _PAGE)
