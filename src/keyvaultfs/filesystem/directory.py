"""Open directories: a listing that is read in pieces while its pages still arrive."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import trio

from keyvaultfs.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from keyvaultfs.model import SecretName

_HASH_BITS = 31


class OpenDirectory:
    """The names of one opendir(3), in the order in which they were given out.

    A cookie is a position and a hash of the name there, so that a successor of this process, which has another
    listing, goes on behind the right name.

    Args:
        pages: the listing.
        waiting: whether a look-up of that name waits for the network. Such names come last: the kernel would make
            the whole listing wait for them (DESIGN §3).
    """

    def __init__(
        self, pages: AsyncGenerator[tuple[SecretName, ...], None], waiting: Callable[[SecretName], bool]
    ) -> None:
        self._pages = pages
        self._waiting = waiting
        self._names: list[SecretName] = []
        self._later: list[SecretName] = []
        self._complete = False
        self._broken = False
        self._lock = trio.Lock()

    async def position(self, cookie: int) -> int:
        """Where the name behind `cookie` stands; 0 is the beginning."""
        position = cookie >> _HASH_BITS
        if not position:
            return 0
        while len(self._names) < position and await self._more():
            pass
        if position <= len(self._names) and self.cookie(position - 1) == cookie:
            return position
        while await self._more():  # another listing than the one that the cookie is of
            pass
        wanted = cookie & ((1 << _HASH_BITS) - 1)
        found = [place for place, name in enumerate(self._names, 1) if _hash(name) == wanted]
        return min(found, key=lambda place: abs(place - position), default=min(position, len(self._names)))

    async def at(self, position: int) -> SecretName | None:
        """The name at a position, None behind the last."""
        while position >= len(self._names):
            if not await self._more():
                return None
        return self._names[position]

    def ready(self, position: int) -> bool:
        """Whether the name there may go out with those before it: it is known, and the kernel need not wait for it."""
        if position < len(self._names):
            return not self._waiting(self._names[position])
        return self._complete

    def cookie(self, position: int) -> int:
        """What the kernel says to go on behind the name at a position."""
        return (position + 1) << _HASH_BITS | _hash(self._names[position])

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
                self._names += self._later
                return bool(self._later)
            except BaseException:
                # A generator that was left with an exception says "end" from then on: no end of a listing.
                self._broken = True
                raise
            for name in page:
                (self._later if self._waiting(name) else self._names).append(name)
            return True


def _hash(name: SecretName) -> int:
    return zlib.crc32(name.key.encode()) & ((1 << _HASH_BITS) - 1)
