"""What an inode and an open file are."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keyvaultfs.model import Properties

if TYPE_CHECKING:
    from pyfuse3 import EntryAttributes, InodeT

    from keyvaultfs.content.decode import Decoding
    from keyvaultfs.model import SecretName, Version

FIRST_HASHED = 1 << 16
"""Numbers below are the root's and those of the control directory."""


class State(enum.IntEnum):
    """What an inode is to its name."""

    CURRENT = 1
    SUPERSEDED = 2  # and the kernel is yet to be notified
    NOTIFIED = 3
    PINNED = 4  # of versions/NAME/VERSION: never superseded


@dataclass(slots=True, eq=False)
class Node:
    """An inode: one version of one secret, decoded in one way. Times in whole Unix seconds.

    Attributes:
        lookups: a hint: a worker that was killed may have swallowed FORGETs.
        shown: the inode whose bytes this one shows; another than itself only for a superseded one that is still
            held by a bind mount (DESIGN §2).
        seen: its attributes while it shows its own bytes, ready for the kernel; None when they are to be made.
        promised: until when an OPEN is the second half of a look-up that gave this inode, in trio's time.
    """

    inode: InodeT
    name: SecretName
    version: Version
    decoding: Decoding
    state: State
    size: int
    created: int | None
    updated: int | None
    slot: int
    lookups: int = 0
    shown: InodeT = 0
    handles: set[int] = field(default_factory=set)
    seen: EntryAttributes | None = None
    promised: float = -math.inf
    needed: int = 0  # by inodes that show this one, and by handles on its bytes

    @property
    def superseded(self) -> bool:
        """Whether another version, or none, has its name."""
        return self.state is State.SUPERSEDED or self.state is State.NOTIFIED

    def properties(self) -> Properties:
        """What the table alone knows of the version."""
        return Properties(created=self.created, updated=self.updated)


@dataclass(slots=True, eq=False)
class Handle:
    """An open file: it means the version that it was opened on.

    Attributes:
        doubtful: a dead worker may have made it without the kernel having got the answer.
    """

    fh: int
    node: Node
    content: Node
    slot: int
    settled: bool = False
    doubtful: bool = False
