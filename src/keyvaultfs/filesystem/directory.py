"""Open directories: a listing that is read in pieces while its pages still arrive."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, NamedTuple

import trio

from keyvaultfs.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection

    from pyfuse3 import InodeT

    from keyvaultfs.model import ListItem, SecretName

_HASH_BITS = 31


class Line(NamedTuple):
    """A name, made ready for the kernel.

    Attributes:
        raw: its bytes.
        placeholder: its inode while the kernel has no other.
        mark: its part of a cookie.
    """

    name: SecretName
    raw: bytes
    placeholder: InodeT
    mark: int

    @classmethod
    def of(cls, name: SecretName, placeholder: InodeT) -> Line:
        """Of a name."""
        return cls(name, name.spelling.encode(), placeholder, _mark(name))


class Lines:
    """Pages of the listing -> lines. The last page's are kept: a warm listing is the same page each time.

    Args:
        placeholder: the inode of a name that the kernel has no other for.
    """

    def __init__(self, placeholder: Callable[[SecretName], InodeT]) -> None:
        self._placeholder = placeholder
        self._page: tuple[ListItem, ...] = ()
        self._lines: tuple[Line, ...] = ()

    async def of(
        self, pages: AsyncGenerator[tuple[ListItem, ...], None]
    ) -> AsyncGenerator[tuple[Line, ...], None]:
        """The lines of each page."""
        async for page in pages:
            if page is not self._page:
                self._lines = tuple(Line.of(item.name, self._placeholder(item.name)) for item in page)
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
        found = [place for place, line in enumerate(self._lines, 1) if line.mark == wanted]
        return min(found, key=lambda place: abs(place - position), default=min(position, len(self._lines)))

    async def at(self, position: int) -> Line | None:
        """The line at a position, None behind the last."""
        while position >= len(self._lines):
            if not await self._more():
                return None
        return self._lines[position]

    def ready(self, position: int) -> Line | None:
        """As `at`, if it may go out with those before it: it is known, and the kernel need not wait for it."""
        if position >= len(self._lines):
            return None
        line = self._lines[position]
        return None if self._waiting and line.name.key in self._waiting else line

    def cookie(self, position: int) -> int:
        """What the kernel says to go on behind the name at a position."""
        return (position + 1) << _HASH_BITS | self._lines[position].mark

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
                self._later += [line for line in page if line.name.key in self._waiting]
                self._lines += [line for line in page if line.name.key not in self._waiting]
            else:
                self._lines += page
            return True


def _mark(name: SecretName) -> int:
    return zlib.crc32(name.key.encode()) & ((1 << _HASH_BITS) - 1)
