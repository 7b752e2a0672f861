"""Opens that were answered with ESTALE. The kernel repeats each once, by way of the name; that must not fail again.

Before the second try the kernel always looks the name up, so a look-up and then an OPEN by the same thread are the
second try. An OPEN without a look-up came by a bind mount or by /proc/PID/fd, and no name led to it. No I/O, no clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keyvaultfs.filesystem.inodes.nodes import Node

_MOST = 1024
"""Threads remembered. The oldest belong to opens that have ended."""

_SENT_BACK_SECONDS = 15.0
"""How long a second try is waited for: no longer than a look-up may take."""

_LOOKED_UP_SECONDS = 0.5
"""How long after a take-over's look-up its OPEN may come."""


class Came(Enum):
    """By what way an OPEN has come."""

    ANEW = "as any other"
    AGAIN = "the second time, after the look-up that gave this inode"
    BOUND = "the second time, and no name led to it"


@dataclass(slots=True, eq=False)
class _Retry:
    """One thread's open. `first` is the inode that it was sent back from; None if a take-over sent it back."""

    first: Node | None
    given: Node | None
    until: float


class Retries:
    """The threads that were sent back, by id, and the look-ups by which they came again. Times are trio's."""

    def __init__(self) -> None:
        self.waiting: dict[tuple[str, int], _Retry] = {}
        """by the file's key and the thread"""
        self.lenient_until = -math.inf
        """A take-over may have sent back any open that is on its way, and have answered its look-up."""

    def sent_back(self, node: Node, thread: int, now: float) -> None:
        """An OPEN is about to be answered with ESTALE."""
        self._note(node.name.key, thread, _Retry(node, None, now + _SENT_BACK_SECONDS))

    def first(self, key: str, thread: int) -> Node | None:
        """The inode that a thread was sent back from."""
        found = self.waiting.get((key, thread))
        return None if found is None else found.first

    def looked_up(self, node: Node, thread: int, now: float) -> None:
        """A thread's look-up is about to be answered with this inode."""
        found = self.waiting.get((node.name.key, thread))
        if found is not None and now < found.until:
            found.given = node
        elif now < self.lenient_until:
            self._note(node.name.key, thread, _Retry(None, node, now + _LOOKED_UP_SECONDS))

    def failed(self, key: str, thread: int) -> None:
        """A thread's look-up is about to be answered with an errno: its open ends."""
        self.waiting.pop((key, thread), None)

    def came(self, node: Node, thread: int, now: float) -> Came:
        """An OPEN has come."""
        found = self.waiting.pop((node.name.key, thread), None)
        if found is None or now >= found.until:
            return Came.ANEW
        if found.given is node:
            return Came.AGAIN
        return Came.BOUND if found.given is None and found.first is node else Came.ANEW

    def _note(self, key: str, thread: int, retry: _Retry) -> None:
        self.waiting.pop((key, thread), None)
        while len(self.waiting) >= _MOST:
            del self.waiting[next(iter(self.waiting))]
        self.waiting[key, thread] = retry
