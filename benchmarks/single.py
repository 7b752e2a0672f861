"""Our operations in one process that mounts by itself: what keeper and take-over cost, this does not pay.

``python -m benchmarks.single VAULT MOUNTPOINT OPTIONS``: the same operations class, cache and client as a worker's.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import sys

import pyfuse3
import trio

from keyvaultfs import ipc
from keyvaultfs.files.tree import Tree
from keyvaultfs.ipc import Charge, Launch
from keyvaultfs.settings import file
from keyvaultfs.worker import privileges
from keyvaultfs.worker.chain import Chain
from keyvaultfs.worker.main import Worker

_DEVICE = 100
_READ_ONLY_AND_SO_ON = 1 | 2 | 4 | 8  # MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC


def mount(where: str) -> None:
    """Mount with libfuse's options, before privileges go: afterwards no device can be opened."""
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(fd, _DEVICE)
    how = f"fd={_DEVICE},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"single", os.fsencode(where), b"fuse.single", _READ_ONLY_AND_SO_ON, how.encode()):
        raise OSError(ctypes.get_errno(), "mount")
    os.close(fd)


class Single(Worker):
    """A worker without a keeper, that mounts by itself."""

    async def run(self) -> int:
        """Mount and serve until it is unmounted."""
        self.chain = Chain.build(self.charge.launch.vault, self.settings, self.metrics, self.causes)
        self._build()
        pyfuse3.init(self.parts.operations, f"/dev/fd/{_DEVICE}", {"fsname=single"})
        async with trio.open_nursery() as nursery:
            await nursery.start(self.parts.cache.run)
            nursery.start_soon(self.chain.run)
            await pyfuse3.main()
            nursery.cancel_scope.cancel()
        pyfuse3.close(unmount=False)
        return 0


def main() -> None:
    """Run it."""
    vault, mountpoint, text = sys.argv[1:]
    launch = Launch(vault, mountpoint, vault, options=dict(word.split("=", 1) for word in text.split(",")))
    ours, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    high = ipc.Channel(socket.socket(fileno=fcntl.fcntl(ours.detach(), fcntl.F_DUPFD_CLOEXEC, 64)))
    for number in (ipc.TABLE_FD, ipc.VALUES_FD):
        fd = fcntl.fcntl(os.memfd_create("kept"), fcntl.F_DUPFD_CLOEXEC, 64)
        os.dup2(fd, number)
    charge = Charge(launch, init="", init_answer="", successor=False, keeper=os.getpid())
    settings = file.settings(launch)
    mount(mountpoint)
    trio.run(Single(charge, settings, Tree(), privileges.drop(settings.run_as), high).run)


if __name__ == "__main__":
    main()
