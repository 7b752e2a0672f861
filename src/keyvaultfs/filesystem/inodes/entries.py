"""Which inode each name of a file stands for, as the kernel was last given it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyvaultfs.filesystem.inodes import numbers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keyvaultfs.files.tree import Tree
    from keyvaultfs.filesystem.inodes.dirents import Directories
    from keyvaultfs.filesystem.inodes.nodes import Node

_MOST_SPELLINGS = 4


class Entries:
    """The kernel's entries. All keys are those of files.

    Args:
        tree: what the paths are.
        directories: their inodes.

    Attributes:
        nodes: the inode that the kernel was last given for a name.
        spellings: the first few ways in which the kernel has looked a name up. The kernel caches each of them apart,
            and a name of n letters has 2^n.
    """

    def __init__(self, tree: Tree, directories: Directories) -> None:
        self._tree = tree
        self._directories = directories
        self.nodes: dict[str, Node] = {}
        self.spellings: dict[str, tuple[bytes, ...]] = {}
        self._superseded: dict[str, list[Node]] = {}

    def give(self, node: Node, spelling: bytes) -> bool:
        """From now on the kernel has `node` for its name.

        Returns:
            Whether this spelling is remembered: only those are invalidated after a rotation.
        """
        self.nodes[node.name.key] = node
        spellings = self.spellings.get(node.name.key, ())
        if spelling in spellings:
            return True
        remembered = len(spellings) < _MOST_SPELLINGS or spelling == node.name.raw
        if remembered:
            self.spellings[node.name.key] = (*spellings, spelling)
        return remembered

    def load(self, node: Node, *, current: bool) -> None:
        """Add an inode of a predecessor's: the current one of its name, or a superseded one."""
        key = node.name.key
        if current or key not in self.nodes:
            self.nodes[key] = node
            self.spellings[key] = (node.name.raw,)
        if not current:
            self.supersede(node)

    def supersede(self, node: Node) -> None:
        """`node` has lost its name, and the kernel is yet to be notified."""
        self._superseded.setdefault(node.name.key, []).append(node)

    def first_superseded(self, key: str) -> Node | None:
        """Of the inodes that lost this name without the kernel's having been notified, the one that lost it first."""
        return next(iter(self._superseded.get(key, ())), None)

    def settle(self, node: Node) -> None:
        """`node` waits for no notification any more: the kernel had it, or the inode is current again."""
        waiting = self._superseded.get(node.name.key)
        if waiting is not None and node in waiting:
            waiting.remove(node)
            if not waiting:
                del self._superseded[node.name.key]

    def notified(self, node: Node) -> None:
        """The kernel no longer has `node` for its name."""
        self.settle(node)
        if self.nodes.get(node.name.key) is node:
            del self.nodes[node.name.key]

    def drop(self, node: Node) -> None:
        """The kernel no longer has `node` at all, nor the spellings that led to it."""
        if self.nodes.get(node.name.key) is node:
            self.spellings.pop(node.name.key, None)
        self.notified(node)

    def parent(self, key: str) -> int:
        """The inode of the directory that a file is in."""
        folder = key.rpartition("/")[0]
        return self._directories.of(self._tree.directory(folder)).inode if folder else numbers.ROOT

    def of_files(self, keys: Iterable[str] | None = None) -> tuple[tuple[int, bytes], ...]:
        """What the kernel may have cached for all files, or for some: a directory's inode and a name in it."""
        wanted = self.spellings if keys is None else keys
        return tuple((self.parent(key), raw) for key in wanted for raw in self.spellings.get(key, ()))

    def of_folders(self) -> tuple[tuple[int, bytes], ...]:
        """What the kernel may have cached for the configuration's folders: a directory's inode and a name in it."""
        found = [one.name for one in self._directories.by_inode.values() if one.name.key.endswith("/")]
        return tuple((self.parent(one.key[:-1]), one.key[:-1].rpartition("/")[2].encode()) for one in found)
