"""What is no file's inode: the names of the root as watchers know them, and the directories of versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyvaultfs.filesystem.inodes import numbers
from keyvaultfs.filesystem.inodes.nodes import Directory, Dirent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyfuse3 import InodeT

    from keyvaultfs.files.tree import Directory as Folder
    from keyvaultfs.files.tree import File
    from keyvaultfs.filesystem.inodes.slots import Slots
    from keyvaultfs.model import SecretName


class Dirents:
    """The names that a listing or a look-up has shown. Each has a number, which a listing gives for want of another.

    Args:
        origin: the vault's origin: it is part of every number.
    """

    def __init__(self, slots: Slots, origin: str, inherited: Iterable[Dirent]) -> None:
        self._slots = slots
        self._origin = origin
        self.by_key: dict[str, Dirent] = {}
        self.by_inode: dict[int, Dirent] = {}
        self._passing: dict[int, int] = {}
        for dirent in inherited:
            self._enter(dirent)

    def of(self, name: File) -> Dirent:
        """The entry of a name, made if need be; written before it returns."""
        dirent = self.by_key.get(name.key)
        if dirent is None:
            number = numbers.free(numbers.PLACEHOLDERS, self._taken, self._origin, name.key)
            dirent = Dirent(number, name, self._slots.take())
            self._enter(dirent)
            self._slots.write_dirent(dirent)
        return dirent

    def note(self, dirent: Dirent) -> None:
        """What is known of a name has changed: write it, or let it go when neither kernel nor watchers have it."""
        if dirent.present or dirent.announced or dirent.lookups or dirent.token:
            self._slots.write_dirent(dirent)
        elif self.by_key.get(dirent.name.key) is dirent:
            del self.by_key[dirent.name.key], self.by_inode[dirent.inode]
            self._slots.give_back(dirent.slot)

    def looked_up(self, dirent: Dirent) -> None:
        """The kernel gets one more reference.

        A successor need not know of how many: the kernel uses the number for nothing, and a name that is there is kept.
        """
        dirent.lookups += 1
        if dirent.lookups == 1:
            self._slots.write_dirent(dirent)

    def passing(self, what: str) -> InodeT:
        """A number for something that is replaced at once, such as what is renamed over a name: one reference to it."""
        number = numbers.free(numbers.PLACEHOLDERS, self._taken, self._origin, what)
        self._passing[number] = 1
        return number

    def forget_passing(self, inode: int) -> None:
        """The kernel no longer has it."""
        self._passing.pop(inode, None)

    def _taken(self, number: int) -> bool:
        return number in self.by_inode or number in self._passing

    def _enter(self, dirent: Dirent) -> None:
        self.by_key[dirent.name.key] = self.by_inode[dirent.inode] = dirent


class Directories:
    """The directories that the kernel may hold: ``.keyvaultfs/versions/NAME``, and those of the configuration.

    Args:
        free: a number that no file and no directory has, for a directory of this name.
    """

    def __init__(
        self, slots: Slots, free: Callable[[SecretName | Folder], InodeT], inherited: Iterable[Directory]
    ) -> None:
        self._slots = slots
        self._free = free
        self.by_inode: dict[int, Directory] = {}
        self._by_key: dict[str, Directory] = {}
        for directory in inherited:
            self._enter(directory)

    def of(self, name: SecretName | Folder) -> Directory:
        """The directory of a secret's versions, or a folder, made if need be; written before it returns."""
        directory = self._by_key.get(name.key)
        if directory is None:
            directory = Directory(self._free(name), name, self._slots.take())
            self._enter(directory)
            self._slots.write_directory(directory)
        return directory

    def drop(self, directory: Directory) -> None:
        """The kernel no longer has it."""
        del self.by_inode[directory.inode], self._by_key[directory.name.key]
        self._slots.give_back(directory.slot)

    def _enter(self, directory: Directory) -> None:
        self.by_inode[directory.inode] = self._by_key[directory.name.key] = directory
