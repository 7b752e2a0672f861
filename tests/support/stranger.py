"""A user's own file system that says it is keyvaultfs: python stranger.py MOUNTPOINT PID.

Every name in it is there, and what it says of itself names the process PID as its keeper. PID 0: nothing is answered.
"""

from __future__ import annotations

import json
import stat
import sys

import pyfuse3
import trio

_FILE = 3


class Stranger(pyfuse3.Operations):
    def __init__(self, keeper: int) -> None:
        super().__init__()
        self.text = json.dumps({"version": "0.1.0", "keeper": keeper, "worker": keeper}, indent=2).encode()

    async def getattr(self, inode: int, ctx: object = None) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = stat.S_IFREG | 0o644 if inode == _FILE else stat.S_IFDIR | 0o755
        entry.st_size = len(self.text)
        return entry

    async def lookup(self, parent: int, name: bytes, ctx: object = None) -> pyfuse3.EntryAttributes:
        return await self.getattr(2 if name == b".keyvaultfs" else _FILE)

    async def open(self, inode: int, flags: int, ctx: object = None) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=_FILE)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return self.text[off : off + size]


async def never() -> None:
    await trio.sleep_forever()


def main(where: str, keeper: int) -> None:
    options = {"subtype=keyvaultfs", "fsname=https://mytestkeyvault.vault.azure.net", "allow_other"}
    pyfuse3.init(Stranger(keeper), where, options)
    sys.stdout.write("mounted\n")
    sys.stdout.flush()
    trio.run(pyfuse3.main if keeper else never)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
