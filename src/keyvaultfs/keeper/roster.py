"""Root's keepers and root's mounts, by what the kernel says of them; for the scripts of the packages.

    python3 -I -m keyvaultfs.keeper.roster renew      each keeper starts a worker of the code that is installed now
    python3 -I -m keyvaultfs.keeper.roster unmount    unmount all of them

Any user can mount a file system that calls itself keyvaultfs, whose files name any process and never answer, on a
folder with any name, and can put a symbolic link in a folder's place. So no mount is asked for anything, and no path is
trusted: a keeper is a process of root's that holds what only a keeper holds, and a mount is known by its id. What users
have mounted themselves stays as it is. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import sys
import time
from typing import TYPE_CHECKING

from keyvaultfs.keeper import mountinfo
from keyvaultfs.keeper.mounting import FSTYPE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from keyvaultfs.keeper.mountinfo import Mounted

_MNT_DETACH = 2
_DETACH_SECONDS = 5.0
_END_SECONDS = 3.0
"""How long somebody who has a file open may go on reading: then the keeper is told to end."""
_PYTHON = re.compile(r"python3(\.\d+)?( \(deleted\))?")
"""Deleted: Python itself was upgraded while the keeper ran."""

_libc = ctypes.CDLL(None, use_errno=True)


def mounts() -> list[Mounted]:
    """Root's mounts, the newest first."""
    return [one for one in reversed(mountinfo.table()) if one.fstype == FSTYPE and one.user == 0]


def keepers(proc: str = "/proc") -> list[int]:
    """The process ids of root's keepers, in this namespace of processes."""
    pids = [int(name) for name in os.listdir(proc) if name.isdecimal()]  # noqa: PTH208
    found = {pid: _parent(f"{proc}/{pid}") for pid in pids if _keeps(proc, pid)}
    # A child that a keeper has just made, or a worker that stayed root, has the same descriptors.
    return sorted(pid for pid, parent in found.items() if parent not in found)


def _keeps(proc: str, pid: int) -> bool:
    """Whether a process is root's, runs our program by Python, and holds a FUSE device and the table of a mount.

    A user can give a process any name, but not root's identity; and can pass a descriptor to a service of root's, but
    not make it Python that was started with our name.
    """
    folder = f"{proc}/{pid}"
    with contextlib.suppress(OSError):
        return (
            _uids(folder) == {"0"}
            and _PYTHON.fullmatch(os.path.basename(os.readlink(f"{folder}/exe"))) is not None  # noqa: PTH115, PTH119
            and os.readlink(f"{folder}/ns/pid") == os.readlink(f"{proc}/self/ns/pid")  # noqa: PTH115
            and b"keyvaultfs" in _read(f"{folder}/cmdline")
            and _holds(folder)
        )
    return False


def _holds(folder: str) -> bool:
    held = {os.readlink(f"{folder}/fd/{fd}") for fd in os.listdir(f"{folder}/fd")}  # noqa: PTH115, PTH208
    return "/dev/fuse" in held and any(name.startswith("/memfd:keyvaultfs-") for name in held)


def _uids(folder: str) -> set[str]:
    return set(_field(folder, "Uid"))


def _parent(folder: str) -> int:
    with contextlib.suppress(OSError):
        return int(_field(folder, "PPid")[0])
    return 0


def _field(folder: str, name: str) -> list[str]:
    for line in _read(f"{folder}/status").decode("utf-8", "replace").split("\n"):
        if line.startswith(f"{name}:"):
            return line.split()[1:]
    return []


def _read(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read()


def renew() -> int:
    """Tell each keeper to take the code that is installed now; readers see no gap."""
    for pid in keepers():
        _signal(pid, signal.SIGHUP)
    return 0


def _signal(pid: int, number: signal.Signals) -> None:
    """To the keeper `pid` and to no process that has its number by now."""
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(pid)
        try:
            if pid in keepers():
                signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)


def unmount() -> int:
    """Unmount root's mounts, be they busy, dead, or bound to other places, and see that their keepers end.

    Returns:
        0, or 1 if a mount was left: something lies over it, or a folder above it is in the way.
    """
    for one in mounts():
        _in_a_child(one.mountpoint)
    for _ in _until(_END_SECONDS):
        if not keepers():
            break
    for pid in keepers():  # of a mount that could not be reached: a keeper ends its own
        _signal(pid, signal.SIGTERM)
    for _ in _until(_DETACH_SECONDS):
        if not mounts():
            return 0
    for one in mounts():
        sys.stderr.write(f"keyvaultfs: still mounted: {one.mountpoint!a}\n")
    return 1


def _in_a_child(path: str) -> None:
    """`detach`, in a process that is not waited for when it hangs in a file system of somebody's on the way."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(OSError):
            detach(path)
        os._exit(0)
    for _ in _until(_DETACH_SECONDS):
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
    os.kill(pid, signal.SIGKILL)


def detach(path: str) -> None:
    """Unmount what is at a path now, if that is a mount of root's own and ours, and nothing otherwise.

    The descriptor settles what is meant, whatever is done to the path: its mount cannot go while it is open, so that
    the id is compared with a table that is read afterwards, and the unmount goes by way of the descriptor.
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        facts = _read(f"/proc/self/fdinfo/{fd}")
        number = re.search(rb"^mnt_id:\s*(\d+)", facts, re.MULTILINE)
        if number is not None and int(number[1]) in {one.number for one in mounts()}:
            _libc.umount2(f"/proc/self/fd/{fd}".encode(), _MNT_DETACH)
    finally:
        os.close(fd)


def _until(seconds: float) -> Iterator[None]:
    """A turn at once, and then one every 50 ms."""
    end = time.monotonic() + seconds
    while True:
        yield
        if time.monotonic() > end:
            return
        time.sleep(0.05)


def main(argv: Sequence[str]) -> int:
    """Entry point."""
    return {"renew": renew, "unmount": unmount}[argv[1]]()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
