"""Taking our own mount away and no other: it is known by its id, wherever it is now and whatever lies over it.

A path says nothing about that: somebody may have mounted on top of ours, moved ours, renamed a folder above it, or
put a link in its place. So the path comes from the kernel's table, is opened, and the mount behind the descriptor
must have our id. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time

from keyvaultfs.keeper import mountinfo
from keyvaultfs.keeper.mountinfo import Mounted

_CONNECTIONS = "/sys/fs/fuse/connections"
_FUSERMOUNT_SECONDS = 20
_COPY_SECONDS = 2.0
_MOST_OVER = 16
_MNT_DETACH, _CLONE_NEWNS, _MS_PRIVATE, _MS_SHARED = 2, 0x00020000, 1 << 18, 1 << 20
PATHS = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

_libc = ctypes.CDLL(None, use_errno=True)


def unmount(ours: Mounted) -> bool:
    """Unmount ours, lazily if it is busy; what lies over it stays.

    Returns:
        Whether it is gone, by us or by others; False where it is left beneath another mount.
    """
    there = mountinfo.now(ours)
    if there is None:
        return True
    if os.geteuid() != 0:
        _by_fusermount(there)
    elif not _detach(there):
        _from_beneath(there)
    return mountinfo.now(ours) is None


def abort(ours: Mounted) -> None:
    """Fail everything that waits on a connection; best effort (fusectl may not be mounted)."""
    path = f"{_CONNECTIONS}/{ours.minor}/abort"
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:  # noqa: PTH123
        file.write(b"1")


def make_private(mountpoint: str) -> None:
    """What is mounted on ours stays in this mount namespace: without this it could not be uncovered later."""
    _libc.mount(None, os.fsencode(mountpoint), None, _MS_PRIVATE, None)


def _open(there: Mounted) -> int | None:
    """A descriptor of the root of this mount; None if its path leads elsewhere, such as to a mount on top of it."""
    try:
        fd = os.open(there.mountpoint, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    if mount_of(fd) == there.number:
        return fd
    os.close(fd)
    return None


def mount_of(fd: int) -> int | None:
    """The id of the mount that an open file is on; no file system is asked."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/self/fdinfo/{fd}", "rb") as file:  # noqa: PTH123
        for line in file.read().split(b"\n"):
            if line.startswith(b"mnt_id:"):
                return int(line[7:])
    return None


def _detach(there: Mounted) -> bool:
    fd = _open(there)
    if fd is None:
        return False
    try:
        # Lazily, since the descriptor itself keeps it busy.
        return bool(_libc.umount2(b"/proc/self/fd/%d" % fd, _MNT_DETACH) == 0)
    finally:
        os.close(fd)


def _from_beneath(there: Mounted) -> None:
    """Detach ours while another mount covers it.

    No system call reaches a covered mount by a path, and a lazy unmount from above would take the cover along. But in a
    copy of the mount namespace the cover can go, and when the copy of ours is then unmounted from a folder that the
    two namespaces share, the kernel unmounts ours as well and leaves the cover on that folder
    (Documentation/filesystems/sharedsubtree.rst).
    """
    if there.shared:
        return  # the cover's unmount would reach the original as well
    below = next((one for one in mountinfo.table() if one.number == there.parent), None)
    fd = None if below is None else _open(below)
    if below is None or fd is None:
        return
    folder = b"/proc/self/fd/%d" % fd
    try:
        if below.shared:
            _in_a_copy(there)
        elif _libc.mount(None, folder, None, _MS_SHARED, None) == 0:
            try:
                _in_a_copy(there)
            finally:
                _libc.mount(None, folder, None, _MS_PRIVATE, None)
    finally:
        os.close(fd)


def _in_a_copy(there: Mounted) -> None:
    """Uncover and unmount ours in a child with a copy of our mount namespace."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(Exception):
            if _libc.unshare(_CLONE_NEWNS) == 0:
                _uncover(there)
        os._exit(0)
    end = time.monotonic() + _COPY_SECONDS
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        if time.monotonic() > end:
            os.kill(pid, 9)
            return
        time.sleep(0.005)


def _uncover(there: Mounted) -> None:
    for _ in range(_MOST_OVER):
        stack = [one for one in mountinfo.table() if one.mountpoint == there.mountpoint]
        if not stack:
            return
        # Here it has another id. What else is the same file system is a bind mount of it, and lies on it.
        *below, top = stack
        ours = _same(top, there) and not any(_same(one, there) for one in below)
        if not ours and any(one.shared for one in mountinfo.table() if one.number == top.parent):
            return
        if not _detach(top) or ours:
            return


def _same(one: Mounted, other: Mounted) -> bool:
    return (one.minor, one.fstype) == (other.minor, other.fstype)


def _by_fusermount(there: Mounted) -> None:
    """fusermount3 unmounts what is on top: it is asked only while that is ours."""
    import subprocess

    program = fusermount()
    for options in (["-u", "-q"], ["-u", "-q", "-z"]):
        top = mountinfo.topmost(there.mountpoint)
        if program is None or top is None or top.number != there.number:
            return
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            done = subprocess.run(  # noqa: S603 - a fixed program
                [program, *options, "--", there.mountpoint],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_FUSERMOUNT_SECONDS,
                check=False,
            )
            if done.returncode == 0:
                return


def fusermount() -> str | None:
    """The path of fusermount3, None if it is not installed."""
    import shutil  # with subprocess a megabyte that a keeper of root's need not have

    return shutil.which("fusermount3", path=PATHS)
