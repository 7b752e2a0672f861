# ruff: noqa: ARG002 - pyfuse3 hands over more than a constant needs
"""The least file system that pyfuse3 can be: every answer is a constant. What it costs, pyfuse3 costs.

``python -m benchmarks.floor MOUNTPOINT COUNT``: COUNT files, each with its name and a newline in it.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

import pyfuse3
import trio


class Floor(pyfuse3.Operations):
    """Inode 1 is the directory, and those behind it are the files."""

    def __init__(self, names: list[bytes]) -> None:
        super().__init__()
        self.names = names
        self.number = {name: index + 2 for index, name in enumerate(names)}

    def attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        """Of a file or the directory; for ever."""
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = pyfuse3.InodeT(inode)
        entry.st_mode = pyfuse3.ModeT(stat.S_IFDIR | 0o755 if inode == 1 else stat.S_IFREG | 0o400)
        entry.st_size = 0 if inode == 1 else len(self.names[inode - 2])
        entry.st_nlink = 1
        entry.entry_timeout = entry.attr_timeout = 300.0
        return entry

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Of a name."""
        if (inode := self.number.get(name)) is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self.attributes(inode)

    async def getattr(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext | None = None
    ) -> pyfuse3.EntryAttributes:
        """Of an inode."""
        return self.attributes(inode)

    async def opendir(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileHandleT:
        """Nothing to do."""
        return pyfuse3.FileHandleT(inode)

    async def readdir(self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """All names from a place on."""
        for index in range(start_id, len(self.names)):
            name = pyfuse3.FileNameT(self.names[index])
            if not pyfuse3.readdir_reply(token, name, self.attributes(index + 2), index + 1):
                break

    async def open(
        self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        """With the kernel's page cache, as keyvaultfs does it."""
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode), keep_cache=True)

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        """The name itself."""
        return self.names[fh - 2][off : off + size]


def main() -> None:
    """Serve until it is unmounted."""
    count = int(sys.argv[2])
    width = len(str(count - 1))
    names = [os.fsencode(f"s{number:0{width}}") for number in range(count)]
    pyfuse3.init(Floor(names), sys.argv[1], {*pyfuse3.default_options, "fsname=floor", "ro"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main()
