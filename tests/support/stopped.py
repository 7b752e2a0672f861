# ruff: noqa: ARG002 - pyfuse3 hands over more than this needs
"""A disk that can stop: a file system in which a file can be written, until its process is stopped.

``python -m tests.support.stopped MOUNTPOINT``. With SIGSTOP it hangs as a network file system does without its server.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyfuse3
import trio

from tests.support.mount import ROOT, environment, mounts_below, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

_FILE = 2


class Disk(pyfuse3.Operations):
    """One directory, and one file once it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.name = b""
        self.data = b""

    def _attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = pyfuse3.InodeT(inode)
        entry.st_mode = pyfuse3.ModeT(stat.S_IFREG | 0o600 if inode == _FILE else stat.S_IFDIR | 0o755)
        entry.st_size = len(self.data) if inode == _FILE else 0
        entry.st_nlink = 1
        entry.entry_timeout = entry.attr_timeout = 0.0
        return entry

    async def lookup(self, parent_inode: Any, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        """Of the file."""
        if name != self.name:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._attributes(_FILE)

    async def getattr(self, inode: int, ctx: Any = None) -> pyfuse3.EntryAttributes:
        """Of either."""
        return self._attributes(inode)

    async def create(
        self, parent_inode: Any, name: bytes, mode: Any, flags: Any, ctx: Any
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        """The file."""
        self.name = name
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(_FILE)), self._attributes(_FILE)

    async def open(self, inode: Any, flags: Any, ctx: Any) -> pyfuse3.FileInfo:
        """It again."""
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(_FILE))

    async def read(self, fh: Any, off: int, size: int) -> bytes:
        """What was written."""
        return self.data[off : off + size]

    async def write(self, fh: Any, off: int, buf: bytes) -> int:
        """At the end, as it is opened."""
        self.data = self.data[:off] + buf
        return len(buf)


@contextlib.contextmanager
def disk(where: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Such a disk, mounted; it goes on in the end, whatever was done to it."""
    where.mkdir()
    command = [sys.executable, "-m", "tests.support.stopped", str(where)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment() | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    ) as process:
        try:
            wait_until(lambda: str(where) in mounts_below(where.parent), "the disk")
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            subprocess.run(["umount", "--lazy", where], check=False)
            process.terminate()


if __name__ == "__main__":
    Path("/proc/self/comm").write_text("disk")
    pyfuse3.init(Disk(), sys.argv[1], {*pyfuse3.default_options, "fsname=disk", "allow_other"})
    with contextlib.suppress(KeyboardInterrupt):
        trio.run(pyfuse3.main)
    os._exit(0)
