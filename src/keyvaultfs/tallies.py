"""How many records of opens were written and lost, in memory that who writes them shares with who counts them."""

from __future__ import annotations

import mmap
import struct
from typing import NamedTuple

BYTES = 4096
_PLACES = 64
_LARGEST = (1 << 64) - 1
_HEAD = struct.Struct("<I4x")
_ROW = struct.Struct("<QQI4xd")


class Tally(NamedTuple):
    """What one has done, or all together.

    Attributes:
        written: records.
        lost: records that could not be written.
        code: errno of the last attempt; 0 if it succeeded.
        since: since when an attempt is under way, in seconds of the monotonic clock; 0 while none is.
    """

    written: int = 0
    lost: int = 0
    code: int = 0
    since: float = 0.0


class Tallies:
    """A row for each who writes, so that one that is replaced, and may still be writing, changes no other's.

    Args:
        fd: a memfd of `BYTES`.
    """

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, BYTES)

    def begin(self) -> int:
        """The number of a row for somebody new, who is the one that counts from now on."""
        row = (self._newest() + 1) % _PLACES
        _HEAD.pack_into(self._map, 0, row)
        return row

    def total(self) -> Tally:
        """Records of all; how the last attempt went, and whether one is under way, of the newest."""
        rows = [self.of(row) for row in range(_PLACES)]
        newest = rows[self._newest()]
        return Tally(
            sum(row.written for row in rows), sum(row.lost for row in rows), newest.code, newest.since
        )

    def of(self, row: int) -> Tally:
        """One row."""
        return Tally(*_ROW.unpack_from(self._map, _HEAD.size + row * _ROW.size))

    def put(self, row: int, tally: Tally) -> None:
        """Change one's own row."""
        written, lost = (
            tally.written & _LARGEST,
            tally.lost & _LARGEST,
        )  # anybody may have put any numbers there
        _ROW.pack_into(self._map, _HEAD.size + row * _ROW.size, written, lost, tally.code, tally.since)

    def _newest(self) -> int:
        return int(_HEAD.unpack_from(self._map)[0]) % _PLACES
