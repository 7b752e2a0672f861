"""What an inode and an open file are."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keyvaultfs.model import Properties

if TYPE_CHECKING:
    from pyfuse3 import EntryAttributes, InodeT

    from keyvaultfs.files.tree import Directory as Folder
    from keyvaultfs.files.tree import File
    from keyvaultfs.model import SecretName


class State(enum.IntEnum):
    """What an inode is to its name."""

    CURRENT = 1
    SUPERSEDED = 2  # and the kernel is yet to be notified
    NOTIFIED = 3
    PINNED = 4  # of versions/NAME/VERSION: never superseded
    LISTED = 5  # as PINNED, but nobody has looked it up yet: its size is not known


@dataclass(slots=True, eq=False)
class Node:
    """An inode: one edition of one file. Times in whole Unix seconds.

    Attributes:
        version: the edition's id, 32 hex digits; of a plain secret its version.
        lookups: a hint: a worker that was killed may have swallowed FORGETs.
        content_inode: the inode whose bytes this one shows: itself, unless it is superseded and a bind mount holds it
            (DESIGN §2).
        handles: how many are open on it.
        attributes: for the kernel, made once while it shows its own bytes; None: not made yet.
        bound: a bind mount of this one file leads to it, though it lost its name.
        given: when a look-up was last answered with this inode, in trio's time.
        promised: until when an OPEN is the second half of that look-up.
    """

    inode: InodeT
    name: File
    version: str
    state: State
    size: int
    created: int | None
    updated: int | None
    slot: int
    lookups: int = 0
    content_inode: InodeT = 0
    handles: int = 0
    attributes: EntryAttributes | None = None
    given: float = -math.inf
    promised: float = -math.inf
    bound: bool = False
    unsure: bool = False  # whether the kernel may go by the size of other bytes than it shows
    needed: int = 0  # by inodes that show this one, and by handles on its bytes

    @property
    def pinned(self) -> bool:
        """Whether it is versions/NAME/VERSION, which stands for that version for good."""
        return self.state is State.PINNED or self.state is State.LISTED

    @property
    def superseded(self) -> bool:
        """Whether another version, or none, has its name."""
        return self.state is State.SUPERSEDED or self.state is State.NOTIFIED

    def properties(self) -> Properties:
        """What the table alone knows of the version."""
        return Properties(created=self.created, updated=self.updated)


@dataclass(slots=True, eq=False)
class Directory:
    """The inode of versions/NAME, or of a folder that the configuration names. `lookups` is as of `Node`."""

    inode: InodeT
    name: SecretName | Folder
    slot: int
    lookups: int = 0


@dataclass(slots=True, eq=False)
class Dirent:
    """A name of a folder: what it is, and what watchers of the folder have last heard of it.

    Attributes:
        inode: what a listing calls it while the kernel has no other inode for it.
        lookups: as of `Node`, for that inode.
        updated: of the version that a look-up or a listing has last shown, in whole Unix seconds.
        version: that version, None where a listing has shown the name and nobody has looked it up.
        present: whether the name is there.
        announced: whether watchers believe that it is there.
        changed: whether it stands for something else than watchers have heard of.
        token: of the announcement that is on its way, which a successor goes on with; b"" if there is none.
        answered: whether the kernel has had the answer to its RENAME or UNLINK.
        before: the version that a listing has shown to be no longer current, in case that it is after all.
        given: what `version` was when the child that announces was given the new inode.
        given_updated: the same of `updated`.
    """

    inode: InodeT
    name: File
    slot: int
    lookups: int = 0
    updated: int | None = None
    version: str | None = None
    present: bool = False
    announced: bool = False
    changed: bool = False
    token: bytes = b""
    answered: bool = False
    before: str | None = None
    given: str | None = None
    given_updated: int | None = None

    @property
    def pending(self) -> bool:
        """Whether watchers are yet to be told something."""
        return self.present != self.announced or (self.present and self.changed)

    def is_as_given(self) -> bool:
        """Whether the name stands for what the child was given: a version that was found meanwhile is no news."""
        if self.given is None:
            return self.updated == self.given_updated
        return self.version == self.given


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
