"""Which names the folder shows, and which changes of them are still to be announced to watchers. No I/O, no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyvaultfs.model import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from keyvaultfs.files.tree import File
    from keyvaultfs.filesystem.inodes.nodes import Dirent
    from keyvaultfs.filesystem.inodes.table import InodeTable

_MOST_CHECKED = 50
"""So many names that a listing lacks are asked for singly, since a name may move between pages. Of more than that, no
mishap of the paging is the cause."""


class Folder:
    """Takes in what listings, look-ups and refreshes say of names.

    Args:
        pending: called with each name that has a change to be announced.
    """

    def __init__(self, table: InodeTable, pending: Callable[[Dirent], None]) -> None:
        self._table = table
        self._pending = pending

    def found(
        self,
        name: File,
        version: str,
        updated: int | None,
        *,
        appeared: bool = False,
        replaces: bool = False,
    ) -> None:
        """A name stands for this version now.

        Args:
            appeared: there was no such name a moment ago.
            replaces: the kernel was told of another inode for it.
        """
        dirent = self._table.dirents.of(name)
        was = dirent.pending
        if not dirent.present:
            dirent.present = True
            # What nobody has ever heard of does not appear by being looked at for the first time.
            dirent.announced = dirent.announced or replaces or not (appeared or self._table.listed)
            dirent.changed = dirent.announced and (replaces or was)
        elif dirent.version is None:
            if dirent.changed and dirent.before == version and not dirent.token and not replaces:
                dirent.changed = False  # its metadata alone have changed
            elif dirent.updated != updated or replaces:
                dirent.changed = True
        elif dirent.version != version or replaces:
            dirent.changed = True
        dirent.version, dirent.updated = version, updated
        self._noted(dirent, was)

    def changed(self, name: File, updated: int | None) -> None:
        """A name stands for another version, and nobody has asked yet for which."""
        dirent = self._table.dirents.of(name)
        was = dirent.pending
        if not dirent.present:
            dirent.present, dirent.announced = True, True
        if dirent.version is not None:
            dirent.before = dirent.version
        dirent.changed, dirent.version, dirent.updated = True, None, updated
        self._noted(dirent, was)

    def refused(self, name: File, *, replaces: bool) -> None:
        """A name is there, and what it stands for is not given to us. Nobody hears of one that he has not heard of.

        Args:
            replaces: as of `seen`.
        """
        dirent = self._table.dirents.by_key.get(name.key)
        if name.key in self._table.entries.nodes or (dirent is not None and dirent.present):
            updated = None if dirent is None else dirent.updated
            self.found(name, UNREADABLE, updated, replaces=replaces)

    def gone(self, name: File) -> None:
        """There is no such name, or it is shown no more."""
        dirent = self._table.dirents.by_key.get(name.key)
        if dirent is None:
            if name.key not in self._table.entries.nodes:
                return
            dirent = self._table.dirents.of(name)
            dirent.announced = True
        was = dirent.pending and not dirent.present
        dirent.present, dirent.changed, dirent.version, dirent.before = False, False, None, None
        self._noted(dirent, was)

    def listed(
        self,
        items: Iterable[tuple[File, int | None]],
        followed: Callable[[File], bool],
        listable: Callable[[File], bool],
    ) -> list[File]:
        """The whole listing: names, and the `updated` of each.

        Args:
            followed: whether a name's changes are told without a listing.
            listable: whether a name is there because a listing has it.

        Returns:
            Names that it lacks and that are to be asked for singly.
        """
        first = not self._table.listed
        there: set[str] = set()
        for name, updated in items:
            there.add(name.key)
            dirent = self._table.dirents.by_key.get(name.key)
            if dirent is None or not dirent.present:
                dirent = self._listed_anew(name, updated, first=first)
            if dirent.updated != updated and not followed(name):
                self.changed(name, updated)
        if first:
            self._table.note_listed()
        missing = [
            dirent.name
            for key, dirent in self._table.dirents.by_key.items()
            if dirent.present and key not in there and listable(dirent.name)
        ]
        if len(missing) <= _MOST_CHECKED:
            return missing
        for name in missing:
            self.gone(name)
        return []

    def _listed_anew(self, name: File, updated: int | None, *, first: bool) -> Dirent:
        dirent = self._table.dirents.of(name)
        was = dirent.pending
        dirent.present, dirent.updated = True, updated
        dirent.changed = dirent.announced
        dirent.announced = dirent.announced or first
        node = self._table.entries.nodes.get(name.key)
        if first and node is not None:
            # A look-up came first, and who has its inode may watch it: what the listing shows may be a later version.
            dirent.version, dirent.updated = node.version, node.updated
        self._noted(dirent, was)
        return dirent

    def _noted(self, dirent: Dirent, was: bool) -> None:
        self._table.dirents.note(dirent)
        if dirent.pending and not was:
            self._table.touch()
        if dirent.pending:
            self._pending(dirent)
