"""Open directories: a listing that is read in pieces while its pages still arrive."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import trio

from keyvaultfs.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Iterator

    from pyfuse3 import EntryAttributes

    from keyvaultfs.files.listing import Rows
    from keyvaultfs.files.tree import Directory, File
    from keyvaultfs.filesystem.inodes.nodes import Node

_POSITION_BITS, _HASH_BITS = 19, 12
"""A cookie has 31 bits: a program without large-file support on a 32-bit machine has no room for more."""

_HASH_MASK = (1 << _HASH_BITS) - 1

MOST_NAMES = (1 << _POSITION_BITS) - 1
"""How many names a directory shows."""

_NEAR = 64
"""How far names may have moved in a successor's listing. Further away another name may have the same few bits."""


SmallDirectory = tuple[tuple[bytes, "Callable[[], tuple[EntryAttributes, Node | None]]"], ...]
"""What is listed at once: names, and what to say of each: attributes, and the inode to count a reference to, if any."""


class OpenDirectory:
    """The names of one opendir(3), in the order in which they were given out.

    A cookie is a position and a hash of the name there, so that a successor of this process, which has another
    listing, goes on behind the right name.

    Args:
        pages: the listing.
        waiting: whether a look-up of that name waits for the network. Such names come last: the kernel would make
            the whole listing wait for them (DESIGN §3).
    """

    def __init__(self, pages: AsyncGenerator[Rows, None], waiting: Collection[str]) -> None:
        self._pages = pages
        self._waiting = waiting
        self._lines: list[File | Directory] = []
        self._later: list[File | Directory] = []
        self._complete = False
        self._broken = False
        self._lock = trio.Lock()

    async def position(self, cookie: int) -> int:
        """Where the name behind `cookie` stands; 0 is the beginning."""
        position = cookie >> _HASH_BITS
        if not position:
            return 0
        while len(self._lines) < position and await self._more():
            pass
        wanted = cookie & _HASH_MASK
        if position <= len(self._lines) and _hash_bits(self._lines[position - 1]) == wanted:
            return position
        while await self._more():  # another listing than the one that the cookie is of
            pass
        near = range(max(1, position - _NEAR), min(position + _NEAR, len(self._lines)) + 1)
        found = [candidate for candidate in near if _hash_bits(self._lines[candidate - 1]) == wanted]
        return min(
            found, key=lambda candidate: abs(candidate - position), default=min(position, len(self._lines))
        )

    async def at(self, position: int) -> File | Directory | None:
        """What stands at a position, None behind the last that is shown."""
        if position >= MOST_NAMES:
            return None
        while position >= len(self._lines):
            if not await self._more():
                return None
        return self._lines[position]

    def ready(self, position: int) -> Iterator[tuple[File | Directory, int]]:
        """The line at a position, and those behind it that may go out with it; each with its cookie.

        They are known, and the kernel need not wait for any of them.
        """
        lines, waiting = self._lines, self._waiting
        for place in range(position, min(len(lines), MOST_NAMES)):
            line = lines[place]
            if waiting and place > position and line.key in waiting:
                return
            yield line, (place + 1) << _HASH_BITS | _hash_bits(line)

    async def close(self) -> None:
        """Let the listing go."""
        await self._pages.aclose()

    async def _more(self) -> bool:
        async with self._lock:
            if self._broken:
                raise Unavailable("ListingInterrupted")
            if self._complete:
                return False
            try:
                page = await anext(self._pages)
            except StopAsyncIteration:
                self._complete = True
                self._lines += self._later
                return bool(self._later)
            except BaseException:
                # A generator that was left with an exception says "end" from then on: no end of a listing.
                self._broken = True
                raise
            if self._waiting:
                self._later += [line for line in page if line.key in self._waiting]
                self._lines += [line for line in page if line.key not in self._waiting]
            else:
                self._lines += page
            return True


def _hash_bits(line: File | Directory) -> int:
    return zlib.crc32(line.key.encode()) & _HASH_MASK
