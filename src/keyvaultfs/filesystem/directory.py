"""Open directories: a listing that is read in pieces while its pages still arrive."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, NamedTuple

import trio

from keyvaultfs.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection

    from pyfuse3 import EntryAttributes

    from keyvaultfs.files.listing import Rows
    from keyvaultfs.files.tree import Directory, File
    from keyvaultfs.filesystem.inodes.nodes import Node

_POSITION_BITS, _HASH_BITS = 19, 12
"""A cookie has 31 bits: a program without large-file support on a 32-bit machine has no room for more."""

MOST_NAMES = (1 << _POSITION_BITS) - 1
"""How many names a directory shows."""

_NEAR = 64
"""How far names may have moved in a successor's listing. Further away another name may have the same few bits."""


SmallDirectory = tuple[tuple[bytes, "Callable[[], tuple[EntryAttributes, Node | None]]"], ...]
"""What is listed at once: names, and what to say of each: attributes, and the inode to count a reference to, if any."""


class Line(NamedTuple):
    """A name, made ready for the kernel.

    Attributes:
        what: what has the name.
        raw: its bytes.
        hash_bits: of a hash of the name, for cookies.
    """

    what: File | Directory
    raw: bytes
    hash_bits: int

    @classmethod
    def of(cls, name: str, what: File | Directory) -> Line:
        """Of a name."""
        return cls(what, name.encode(), _hash_bits(what.key))


class Lines:
    """Pages of the listing -> lines. The last page's are kept: a warm listing is the same page each time."""

    def __init__(self) -> None:
        self._page: Rows = ()
        self._lines: tuple[Line, ...] = ()

    async def of(self, pages: AsyncGenerator[Rows, None]) -> AsyncGenerator[tuple[Line, ...], None]:
        """The lines of each page."""
        async for page in pages:
            if page is not self._page:
                self._lines = tuple(Line.of(name, what) for name, what in page)
                self._page = page
            yield self._lines


class OpenDirectory:
    """The names of one opendir(3), in the order in which they were given out.

    A cookie is a position and a hash of the name there, so that a successor of this process, which has another
    listing, goes on behind the right name.

    Args:
        pages: the listing.
        waiting: whether a look-up of that name waits for the network. Such names come last: the kernel would make
            the whole listing wait for them (DESIGN §3).
    """

    def __init__(self, pages: AsyncGenerator[tuple[Line, ...], None], waiting: Collection[str]) -> None:
        self._pages = pages
        self._waiting = waiting
        self._lines: list[Line] = []
        self._later: list[Line] = []
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
        if position <= len(self._lines) and self.cookie(position - 1) == cookie:
            return position
        while await self._more():  # another listing than the one that the cookie is of
            pass
        wanted = cookie & ((1 << _HASH_BITS) - 1)
        near = range(max(1, position - _NEAR), min(position + _NEAR, len(self._lines)) + 1)
        found = [candidate for candidate in near if self._lines[candidate - 1].hash_bits == wanted]
        return min(
            found, key=lambda candidate: abs(candidate - position), default=min(position, len(self._lines))
        )

    async def at(self, position: int) -> Line | None:
        """The line at a position, None behind the last that is shown."""
        if position >= MOST_NAMES:
            return None
        while position >= len(self._lines):
            if not await self._more():
                return None
        return self._lines[position]

    def ready(self, position: int) -> Line | None:
        """As `at`, if it may go out with those before it: it is known, and the kernel need not wait for it."""
        if position >= min(len(self._lines), MOST_NAMES):
            return None
        line = self._lines[position]
        return None if self._waiting and line.what.key in self._waiting else line

    def cookie(self, position: int) -> int:
        """What the kernel says to go on behind the name at a position."""
        return (position + 1) << _HASH_BITS | self._lines[position].hash_bits

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
                self._later += [line for line in page if line.what.key in self._waiting]
                self._lines += [line for line in page if line.what.key not in self._waiting]
            else:
                self._lines += page
            return True


def _hash_bits(key: str) -> int:
    return zlib.crc32(key.encode()) & ((1 << _HASH_BITS) - 1)
