"""The keeper's children that nobody waits for: helpers that touch the mount, and dead workers."""

from __future__ import annotations

import os

from keyvaultfs.keeper.allowance import Allowance

_AT_ONCE = 16
"""Helpers that may be there together: each waits for the file system, which may be slow."""

_A_SECOND, _BURST = 100.0, 200.0

_MOST_BURIED = 8
"""Of those that were killed and have not ended."""


class Children:
    """Reaps them. A worker asks for helpers, so their number has a bound: anybody may have taken a worker over."""

    def __init__(self) -> None:
        self._helpers: set[int] = set()
        self._corpses: set[int] = set()
        self._allowance = Allowance(_A_SECOND, _BURST)

    def admit(self, now: float) -> bool:
        """Whether one more helper may be started now."""
        return len(self._helpers) < _AT_ONCE and self._allowance.take(now)

    def add(self, pid: int) -> None:
        """A helper was started."""
        self._helpers.add(pid)

    def bury(self, pid: int) -> None:
        """A worker is dead, and may wait for a thread that is stuck in the kernel."""
        self._corpses.add(pid)

    def crowded(self) -> bool:
        """Whether no more should be started in the place of those that hang.

        A process whose request a worker has read and never answers cannot be killed. It ends with the worker or with
        the connection.
        """
        return len(self._corpses) >= _MOST_BURIED

    def reap(self) -> set[int]:
        """The helpers that have ended since the last call."""
        self._corpses -= {pid for pid in self._corpses if _ended(pid)}
        ended = {pid for pid in self._helpers if _ended(pid)}
        self._helpers -= ended
        return ended


def _ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True
