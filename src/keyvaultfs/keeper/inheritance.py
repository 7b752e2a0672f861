"""What a worker leaves to the next one: memory that the keeper holds and never looks into. Standard library only.

Anybody may have taken a worker over, so its size has a bound, and what the next ones cannot serve with goes: not cut to
nothing, which whoever still has it could undo, but with new memory in its place.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

from keyvaultfs import ipc
from keyvaultfs.keeper.spawn import high

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAMES = {ipc.TABLE_FD: "table", ipc.VALUES_FD: "values", ipc.READERS_FD: "readers"}
_MIB = 1 << 20
_MOST = {ipc.TABLE_FD: 1024 * _MIB, ipc.READERS_FD: 64 * _MIB}
"""Bytes that a worker of ours never comes near: of millions of inodes, and of all readers that are remembered."""

_MOST_VALUES = 1024 * _MIB
_VALUES_EACH = 8
"""For a byte of `max_cache`: the log of values doubles, and is copied when it is half dead."""

_MOST_IN_NEED = 64 * _MIB
"""Of the table, where the kernel kills for lack of memory."""


def memory(name: str, size: int | None = None) -> int:
    """A memfd that nobody can seal, which a worker could otherwise do to what it leaves.

    Args:
        name: for people who look at descriptors.
        size: bytes, which nobody can change: one who could would end each process that has it mapped, by SIGBUS.
    """
    fd = high(os.memfd_create(f"keyvaultfs-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    seals = fcntl.F_SEAL_SEAL
    if size is not None:
        os.ftruncate(fd, size)
        seals |= fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


class Inheritance:
    """The memory, by the number at which a worker finds it.

    Args:
        max_cache: bytes that cached values may take.

    Raises:
        OSError: there is no memory or no descriptor.
    """

    def __init__(self, max_cache: int) -> None:
        self._fds = {number: memory(name) for number, name in _NAMES.items()}
        self._most = _MOST | {ipc.VALUES_FD: _MOST_VALUES + _VALUES_EACH * max_cache}

    def descriptors(self) -> Mapping[int, int]:
        """What a worker is handed."""
        return self._fds

    def drop(self, *numbers: int, handed: bool = False) -> None:
        """The next worker begins without these.

        Args:
            handed: whether it has been handed them already, and is only to begin: then they are emptied, and no more.
        """
        for number in numbers:
            with contextlib.suppress(OSError):
                # A dead worker may have it for a while, with all its memory.
                os.ftruncate(self._fds[number], 0)
                fresh = self._fds[number] if handed else memory(_NAMES[number])
                old, self._fds[number] = self._fds[number], fresh
                if fresh != old:
                    os.close(old)

    def drop_what_is_too_large(self, *, in_need: bool, handed: bool) -> list[str]:
        """Drop what no worker of ours would leave; to be called when one has ended.

        Args:
            in_need: whether there is no memory to spare.
            handed: as of `drop`.

        Returns:
            What it was.
        """
        most = self._most | ({ipc.TABLE_FD: _MOST_IN_NEED} if in_need else {})
        found = [number for number, fd in self._fds.items() if os.fstat(fd).st_size > most[number]]
        self.drop(*found, handed=handed)
        return [_NAMES[number] for number in found]
