"""Open files: their handles, which the kernel uses by number, also after a take-over."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

from keyvaultfs.filesystem.inodes.nodes import Handle

if TYPE_CHECKING:
    from keyvaultfs.filesystem.inodes.nodes import Node
    from keyvaultfs.filesystem.inodes.slots import Slots


class Handles:
    """The handles of all open files. Each is written into the table's memory before the kernel gets its number.

    Attributes:
        by_number: every handle, by the number that the kernel has for it.
        unsettled: those of which it is not known whether the kernel has had the number; see `settle`.
    """

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self.by_number: dict[int, Handle] = {}
        self.unsettled: list[Handle] = []
        self._doubtful: set[Handle] = set()
        # The kernel may still use handles that a predecessor numbered. So each worker counts from a random number below
        # 2^61, since two random starts are almost certainly further apart than all the opens of one worker. Handles of
        # directories and control files begin at 2^62, apart from these.
        self._numbers = itertools.count(int.from_bytes(os.urandom(8), "little") >> 3)

    def open(self, node: Node, content: Node) -> Handle:
        """A new handle on `node`, which shows the bytes of `content`."""
        fh = next(self._numbers)
        while fh in self.by_number:
            fh = next(self._numbers)
        self.by_number[fh] = handle = Handle(fh, node, content, self._slots.take())
        node.handles += 1
        content.needed += 1
        self._slots.write_handle(handle)
        self.unsettled.append(handle)
        return handle

    def add(self, handle: Handle) -> None:
        """Keep a handle whose record is written already."""
        self.by_number[handle.fh] = handle
        handle.node.handles += 1
        handle.content.needed += 1
        if handle.doubtful:
            self._doubtful.add(handle)

    def settle(self) -> None:
        """The kernel has had the answers to all earlier OPENs. Called at the start of each later request."""
        if not self.unsettled:
            return
        for handle in self.unsettled:
            if handle.fh in self.by_number:
                handle.settled = True
                self._slots.write_settled(handle)
        self.unsettled.clear()

    def use(self, fh: int) -> Handle | None:
        """The handle that the kernel names in a request: so it has had the answer to the OPEN."""
        found = self.by_number.get(fh)
        if found is not None and found.doubtful:
            found.doubtful = False
            self._doubtful.discard(found)
        return found

    def is_open(self, node: Node) -> bool:
        """Whether a program has `node` open for certain."""
        return node.handles > len(self.doubtful(node))

    def doubtful(self, node: Node) -> list[Handle]:
        """The handles on `node` that perhaps nobody ever got."""
        return [handle for handle in self._doubtful if handle.node is node]

    def on(self, node: Node) -> list[Handle]:
        """All handles on `node`: looked for among those of all files, since it is rarely asked for."""
        return [handle for handle in self.by_number.values() if handle.node is node] if node.handles else []

    def repoint(self, handle: Handle, content: Node) -> None:
        """From now on a handle reads the bytes of another inode."""
        handle.content.needed -= 1
        content.needed += 1
        handle.content = content
        self._slots.write_handle(handle)

    def close(self, fh: int) -> Handle | None:
        """Forget a handle; None for one that is gone already: a RELEASE may run twice (DESIGN §4)."""
        handle = self.by_number.pop(fh, None)
        if handle is not None:
            self._slots.give_back(handle.slot)
            handle.node.handles -= 1
            handle.content.needed -= 1
            if handle.doubtful:
                self._doubtful.discard(handle)
            if self.unsettled and self.unsettled[-1] is handle:  # what is gone need not be settled
                self.unsettled.pop()
        return handle
