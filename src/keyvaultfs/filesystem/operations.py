"""The pyfuse3 handlers, a few lines each."""

from __future__ import annotations

import errno
import math
import os
import random
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar

import pyfuse3
import trio

from keyvaultfs.files import units
from keyvaultfs.files.tree import Directory
from keyvaultfs.filesystem import control
from keyvaultfs.filesystem.bound import BOUNDED_SECONDS
from keyvaultfs.filesystem.crowds import Held, Waiting
from keyvaultfs.filesystem.directory import OpenDirectory
from keyvaultfs.filesystem.folders import Folders
from keyvaultfs.filesystem.inodes.numbers import FIRST_HASHED
from keyvaultfs.filesystem.requests import SystemdPatience, open_request, release_request, request

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from pyfuse3 import FileHandleT, FileNameT, FlagT, InodeT, ReaddirToken, RequestContext

    from keyvaultfs.files.files import Files
    from keyvaultfs.files.tree import File
    from keyvaultfs.filesystem.announcements import Announcements
    from keyvaultfs.filesystem.attributes import Appearance
    from keyvaultfs.filesystem.directory import SmallDirectory
    from keyvaultfs.filesystem.inodes.nodes import Node
    from keyvaultfs.filesystem.inodes.table import InodeTable
    from keyvaultfs.filesystem.opener import Opener
    from keyvaultfs.filesystem.opens import Opens
    from keyvaultfs.filesystem.resolver import Resolver
    from keyvaultfs.log import Causes
    from keyvaultfs.metrics import FilesystemMetrics

T = TypeVar("T")
Answer: TypeAlias = "T | Coroutine[Any, Any, T]"

_INODE_BITS = 32
_FIRST_OWN = 1 << 62
"""Handles from here on are of directories and control files; those of secrets' files are below."""

_WRITING = os.O_ACCMODE | os.O_TRUNC
"""Flags of an open that does more than read: O_RDONLY is 0."""

_BLOCK = 4096
_LONGEST_ATTRIBUTE = 65536
"""Bytes: XATTR_SIZE_MAX of the kernel, which has no good word for a longer one."""


class Operations(pyfuse3.Operations):
    """What the kernel asks, answered from the resolver, the control directory and the listing.

    Args:
        timeout: seconds that a request may take.
        base_url: the vault's origin, for ``user.keyvault.id``.
        opens: is told of each OPEN of a secret's file.
    """

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(
        self,
        *,
        files: Files,
        table: InodeTable,
        resolver: Resolver,
        opener: Opener,
        announcements: Announcements,
        control: control.Control,
        appearance: Appearance,
        causes: Causes,
        metrics: FilesystemMetrics,
        timeout: float,
        base_url: str,
        opens: Opens,
    ) -> None:
        super().__init__()
        self._files = files
        self._table, self._nodes = table, table.nodes
        self._resolver = resolver
        self._opener = opener
        self._announcements = announcements
        self._control = control
        self._folders = Folders(files, table, resolver, control, appearance)
        self._causes = causes
        self.metrics = metrics
        self.timeout = timeout
        self._base_url = base_url
        self.unsettled, self.settle = table.handles.unsettled, table.handles.settle
        self.opened, self._closed = opens.opened, opens.closed
        self.in_flight: set[trio.CancelScope] = set()
        self.waiting = Waiting(causes, self.in_flight.__len__)
        self.held = Held(causes, lambda: len(table.handles.by_number) + len(self._directories))
        self._directories: dict[int, OpenDirectory | SmallDirectory] = {}
        self._texts: dict[int, bytes] = {}
        self.of_systemd: set[int] = set()
        self.systemd = SystemdPatience(files.outage)

    @request
    def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> Answer[pyfuse3.EntryAttributes]:
        folder = self._folders.of(parent_inode)
        if folder is None:
            return self._folders.look_up_control(parent_inode, name)
        if name == control.NAME and folder is self._files.tree.root:
            return self._folders.control_attributes(control.DIRECTORY)
        if ctx.pid == self._announcements.pid or name[:1] == b".":
            ours, inode = self._announcements.look_up(parent_inode, name, ctx.pid)
            if ours:
                return self._resolver.child_attributes(inode)
        found = self._folders.child(folder, name)
        if found is None:
            return self._folders.never()
        if isinstance(found, Directory):
            return self._folders.look_up(found)
        return self._resolver.lookup_now(found, name, ctx.pid) or self._resolver.lookup(
            found, name, self._patience(ctx), ctx.uid, ctx.pid
        )

    @request
    def getattr(self, inode: InodeT, ctx: RequestContext) -> pyfuse3.EntryAttributes:
        folder = self._folders.of(inode)
        if folder is not None:
            return self._folders.attributes(inode, folder)
        if inode in self._table.directories.by_inode:
            return self._control.directory(inode)
        own = self._control.attributes(inode)
        return own if own is not None else self._resolver.getattr(self._node(inode), ctx.pid)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """The kernel drops references. Has no answer, so it has no errno either, and is no `request`."""
        for inode, count in inode_list:
            self._table.forget(inode, count)

    @open_request
    def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> Answer[pyfuse3.FileInfo]:
        if flags & _WRITING:
            raise pyfuse3.FUSEError(errno.EROFS)
        node = self._nodes.get(inode)
        if node is None:
            return self._open_control(inode)
        if node.name.access.units is not None:
            self._check_unit(node.name, ctx.pid)
        opened = self._opener.open_now(node, ctx.pid)
        if opened is None:
            return self._open(node, ctx)
        return pyfuse3.FileInfo(opened[0].fh, False, opened[1])

    @request
    def read(self, fh: FileHandleT, off: int, size: int) -> Answer[bytes]:
        text = self._texts.get(fh)
        if text is not None:
            return text[off : off + size]
        handle = self._table.handles.use(fh)
        if handle is None:
            return self._text_again(fh, off)[:size]
        data = self._opener.read_now(handle, off, size)
        return self._opener.read(handle, off, size) if data is None else data

    @release_request
    def release(self, fh: FileHandleT) -> None:
        self.of_systemd.discard(fh)
        if fh >= _FIRST_OWN:
            self._texts.pop(fh, None)
        else:
            self._opener.release(fh)
            self._closed(fh)

    @request
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        self.held.admit(ctx.uid)
        fh = self._new_handle(inode)
        self._directories[fh] = await self._folders.open(inode)
        self.held.opened(fh, ctx.uid)
        if ctx.pid == 1:
            self.of_systemd.add(fh)
        return fh

    @request
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        directory = self._directories.get(fh)
        if directory is None:  # a predecessor opened it
            directory = self._directories[fh] = await self._folders.open(fh & ((1 << _INODE_BITS) - 1))
        await self._folders.read(directory, start_id, token)

    @request
    async def releasedir(self, fh: FileHandleT) -> None:
        self.of_systemd.discard(fh)
        self.held.closed(fh)
        directory = self._directories.pop(fh, None)
        if isinstance(directory, OpenDirectory):
            await directory.close()

    @request
    def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:  # noqa: ARG002
        # df(1) lists no file system without blocks. None is free, as on any that cannot be written.
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = _BLOCK
        data.f_blocks = max(1, -(-self._files.bytes_known() // _BLOCK))
        data.f_files = 1 + self._files.names_known()
        data.f_namemax = self._files.tree.longest_name
        return data

    @request
    def getxattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> bytes:  # noqa: ARG002
        if not name.startswith(b"user."):
            # No access control lists and no labels here: after one such answer ls(1) asks for no other file. Never
            # ENOSYS, after which the kernel asks for no attribute any more.
            raise pyfuse3.FUSEError(errno.ENOTSUP)
        node = self._table.nodes.get(inode)
        known = {} if node is None else self._resolver.extended(node, self._base_url)
        if name not in known:
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        if len(known[name]) > _LONGEST_ATTRIBUTE:
            raise pyfuse3.FUSEError(errno.E2BIG)
        return known[name]

    @request
    def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[bytes]:  # noqa: ARG002
        # None of ours is named, as other network file systems do: what is named is copied along by cp, rsync and
        # Python's copy2, and they fail where the target has no room for it, or where it changes meanwhile.
        return []

    async def _open(self, node: Node, ctx: RequestContext) -> pyfuse3.FileInfo:
        handle, keep_cache = await self._opener.open(node, self._patience(ctx), ctx.uid, ctx.pid)
        # Direct I/O reads to the end of the bytes, whatever size the kernel goes by; memory that is mapped needs pages.
        return pyfuse3.FileInfo(fh=handle.fh, direct_io=handle.node.unsure, keep_cache=keep_cache)

    def _open_control(self, inode: InodeT) -> pyfuse3.FileInfo:
        if inode >= FIRST_HASHED:
            raise _unknown()
        fh = self._new_handle(inode)
        self._texts[fh] = self._control.text(inode)
        return pyfuse3.FileInfo(fh=fh, direct_io=True)

    def _refuse_write(self, *args: object) -> NoReturn:  # noqa: ARG002
        raise pyfuse3.FUSEError(errno.EROFS)

    # Answered by handlers too: a remount can clear the kernel's read-only flag.
    _refused: Any = request(_refuse_write)
    create = link = mkdir = mknod = removexattr = rmdir = _refused
    setattr = setxattr = symlink = write = _refused

    @request
    def rename(self, *what: Any) -> None:
        """For the keeper's child alone, by which watchers hear of a rotation."""
        parent_old, name_old, parent_new, name_new, flags, _ = what
        within = not flags and parent_old == parent_new
        if not within or not self._announcements.rename(parent_new, name_old, name_new):
            raise pyfuse3.FUSEError(errno.EROFS)

    @request
    def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        """As `rename`."""
        if not self._announcements.unlink(parent_inode, name, ctx.pid):
            raise pyfuse3.FUSEError(errno.EROFS)

    def _check_unit(self, file: File, pid: int) -> None:
        """Only some units may open it; the kernel has looked at owner and mode."""
        if not units.allowed(pid, file.access.units):
            unit = units.of(pid) or "no unit that can be seen"
            self._causes.begin("{} may not open files for other units", unit, path=repr(file.path))
            raise pyfuse3.FUSEError(errno.EACCES)

    def _node(self, inode: int) -> Node:
        node = self._nodes.get(inode)
        if node is None:
            raise _unknown()
        return node

    def _patience(self, ctx: RequestContext) -> float:
        """Seconds to wait for news of a name, so that a rotation can be told within PID 1's time too."""
        return max(0.0, self.systemd.seconds() - BOUNDED_SECONDS) if ctx.pid == 1 else math.inf

    def _text_again(self, fh: int, off: int) -> bytes:
        """The text of a control file that a predecessor opened; none if it was read in part: the rest would differ."""
        inode = fh & ((1 << _INODE_BITS) - 1)
        if off or fh >> 62 != 1 or inode not in control.FILES.values():
            raise pyfuse3.FUSEError(errno.EIO)
        text = self._texts[fh] = self._control.text(inode)
        return text

    def _new_handle(self, inode: int) -> int:
        # Whoever takes over can tell from it which directory it is.
        return _FIRST_OWN | random.getrandbits(62 - _INODE_BITS) << _INODE_BITS | inode


def _unknown() -> pyfuse3.FUSEError:
    """For an inode that we do not have, as of a listing or an earlier life: the kernel looks the name up again."""
    return pyfuse3.FUSEError(errno.ESTALE)
