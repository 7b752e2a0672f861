"""Directories: what a name in one stands for, and what a listing of one shows."""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import TYPE_CHECKING

import pyfuse3
import trio

from keyvaultfs.files.tree import Directory
from keyvaultfs.filesystem import attributes, control, names
from keyvaultfs.filesystem.directory import OpenDirectory

if TYPE_CHECKING:
    from pyfuse3 import InodeT, ReaddirToken

    from keyvaultfs.files.files import Files
    from keyvaultfs.files.tree import File
    from keyvaultfs.filesystem.attributes import Appearance
    from keyvaultfs.filesystem.control import Control
    from keyvaultfs.filesystem.directory import SmallDirectory
    from keyvaultfs.filesystem.inodes.nodes import Directory as Folder
    from keyvaultfs.filesystem.inodes.nodes import Dirent, Node
    from keyvaultfs.filesystem.inodes.table import InodeTable
    from keyvaultfs.filesystem.resolver import Resolver
    from keyvaultfs.model import SecretName

_REMEMBERED = 1 << 14


class Folders:
    """The folders of the tree, and ``.keyvaultfs`` with what is below it."""

    def __init__(
        self, files: Files, table: InodeTable, resolver: Resolver, control: Control, appearance: Appearance
    ) -> None:
        self._files = files
        self._table = table
        self._resolver = resolver
        self._control = control
        self._appearance = appearance
        self._children: dict[str, dict[bytes, File | Directory]] = {}

    def of(self, inode: int) -> Directory | None:
        """The folder of the tree that an inode is."""
        if inode == pyfuse3.ROOT_INODE:
            return self._files.tree.root
        directory = self._table.directories.by_inode.get(inode)
        return directory.name if directory is not None and isinstance(directory.name, Directory) else None

    def attributes(self, inode: int, folder: Directory) -> pyfuse3.EntryAttributes:
        """What stat(2) shows of a folder."""
        appearance = self._appearance.of(folder.access)
        changed = self._table.changed if folder is self._files.tree.root else None
        return attributes.directory(appearance, inode, appearance.dir_mode, changed)

    def look_up(self, folder: Directory) -> pyfuse3.EntryAttributes:
        """The attributes of a folder that is looked up, which counts as a reference to it."""
        directory = self._table.directories.of(folder)
        self._table.looked_up(directory)
        found = self.attributes(directory.inode, folder)
        found.entry_timeout = attributes.FOREVER
        return found

    def child(self, folder: Directory, name: bytes) -> File | Directory | None:
        """What a name in a folder stands for; None for one that can be no file's."""
        children = self._children.get(folder.path)
        if children is None:
            children = self._children[folder.path] = {}
        found = children.get(name)
        if found is not None:
            return found
        try:
            found = self._files.tree.child(folder, name.decode())
        except UnicodeDecodeError:
            return None
        # A file that the kernel was not told of may be one of thousands that somebody makes up.
        if found is not None and (isinstance(found, Directory) or found.key in self._table.entries.nodes):
            if len(children) >= _REMEMBERED:
                children.clear()
            children[name] = found
        return found

    def never(self) -> pyfuse3.EntryAttributes:
        """ENOENT for a name that no file can have. The kernel may remember it unless a configuration may name it."""
        absent = pyfuse3.EntryAttributes()
        absent.st_ino = 0
        absent.entry_timeout = 0.0 if self._files.tree.written else attributes.FOREVER
        return absent

    async def look_up_control(self, parent: InodeT, name: bytes) -> pyfuse3.EntryAttributes:
        """What a look-up in or below ``.keyvaultfs`` is answered with."""
        if parent == control.DIRECTORY:
            if name not in control.ENTRIES:
                return self.never()
            return self.control_attributes(control.ENTRIES[name])
        if parent == control.VERSIONS:
            secret = names.parse(name)
            if secret is None:
                return self.never()
            # Any name: that of a secret whose current version is disabled too, and at the price of no request.
            directory = self._table.directories.of(secret)
            self._table.looked_up(directory)
            return self._control.directory(directory.inode)
        secret = self._secret_of(parent)
        await self._files.see_whether_shown(secret)
        return await self._resolver.pinned(secret, os.fsdecode(name))

    def control_attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        """What stat(2) shows of ``.keyvaultfs`` or something in it."""
        found = self._control.attributes(inode)
        if found is None:
            raise pyfuse3.FUSEError(errno.ESTALE)
        return found

    async def open(self, inode: InodeT) -> OpenDirectory | SmallDirectory:
        """What a directory has, for `read`."""
        folder = self.of(inode)
        if folder is not None:
            return OpenDirectory(self._files.listing.rows(folder), self._resolver.waiting)
        if inode == control.DIRECTORY:
            return tuple(
                (name, partial(self._listed_control, number)) for name, number in control.ENTRIES.items()
            )
        if inode == control.VERSIONS:
            return ()  # any name can be looked up there
        secret = self._secret_of(inode)
        return tuple(
            (item.version.encode(), partial(self._resolver.listed_version, secret, item))
            for item in await self._files.versions(secret)
            if item.properties.enabled
        )

    async def read(self, directory: OpenDirectory | SmallDirectory, start: int, token: ReaddirToken) -> None:
        """Answer a READDIR from a position on; each entry counts as a reference to its inode."""
        if isinstance(directory, OpenDirectory):
            await self._read_folder(directory, start, token)
            return
        for position, (name, show) in enumerate(directory[start:], start + 1):
            found, node = show()
            if not pyfuse3.readdir_reply(token, name, found, position):
                if node is not None:
                    self._table.unless_held(node)
                break
            if node is not None:
                self._table.looked_up(node)

    def _listed_control(self, inode: int) -> tuple[pyfuse3.EntryAttributes, None]:
        return self.control_attributes(inode), None

    def _secret_of(self, inode: int) -> SecretName:
        directory = self._table.directories.by_inode.get(inode)
        if directory is None or isinstance(directory.name, Directory):
            raise pyfuse3.FUSEError(errno.ESTALE)
        return directory.name

    async def _read_folder(self, directory: OpenDirectory, start: int, token: ReaddirToken) -> None:
        position = await directory.position(start)
        if await directory.at(position) is None:
            return
        now = trio.current_time()
        for line, cookie in directory.ready(position):
            found, held = self._listed(line, now)
            if not pyfuse3.readdir_reply(token, line.raw, found, cookie):
                return
            self._table.looked_up(held)

    def _listed(
        self, line: File | Directory, now: float
    ) -> tuple[pyfuse3.EntryAttributes, Node | Dirent | Folder]:
        if isinstance(line, Directory):
            directory = self._table.directories.of(line)
            return self.attributes(directory.inode, line), directory
        return self._resolver.listed(line, now)
