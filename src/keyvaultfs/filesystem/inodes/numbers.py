"""Inode numbers: hashes that fit in 32 bits, so that a program without large-file support can stat(2) them.

Three ranges keep kinds apart that can never be taken for one another, however many there are of each.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyfuse3 import InodeT

ROOT = 1
"""As FUSE has it (FUSE_ROOT_ID)."""

FIRST_HASHED = 1 << 16
"""Numbers below are the root's and those of the control directory."""

NODES = range(FIRST_HASHED, 1 << 31)
"""Of files and directories."""

PLACEHOLDERS = range(1 << 31, 1 << 32)
"""Of names in a listing of which the kernel was told nothing else."""

_ATTEMPTS = 1 << 16


def free(within: range, taken: Callable[[int], object], *what: str) -> InodeT:
    """The number of `what`: the same after a restart or a remount, unless something else has it.

    Args:
        taken: whether something has a number.

    Raises:
        OverflowError: all are taken.
    """
    for number in _candidates(within, what):
        if not taken(number):
            return number
    raise OverflowError("no inode number is free")


def _candidates(within: range, what: tuple[str, ...]) -> Iterator[InodeT]:
    text = "\0".join(what)
    for salt in range(_ATTEMPTS):
        digest = hashlib.blake2b(f"{text}\0{salt}".encode(), digest_size=8).digest()
        yield within[int.from_bytes(digest, "little") % len(within)]
