"""mount(2) and fusermount3. Standard library only."""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import os
import socket
import stat
from typing import TYPE_CHECKING, NamedTuple

from keyvaultfs.errors import KeyVaultFSError, UsageError
from keyvaultfs.keeper import child, newmount
from keyvaultfs.keeper.mountinfo import Mounted, topmost
from keyvaultfs.keeper.unmounting import PATHS, fusermount, make_private, unmount

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyvaultfs.ipc import Launch
    from keyvaultfs.settings.options import Settings

_SUBTYPE = "keyvaultfs"
FSTYPE = f"fuse.{_SUBTYPE}"
_DEVICE = "/dev/fuse"
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_NOSYMFOLLOW = 1, 2, 4, 8, 256
_FUSERMOUNT_SECONDS = 20
_ANSWER_SECONDS = 2.0
_LONGEST_STATUS = 1 << 20
_MAX_READ = 1 << 17

_libc = ctypes.CDLL(None, use_errno=True)


class Made(NamedTuple):
    """A mount that was made.

    Attributes:
        device: the FUSE device, which the kernel serves.
        clone: a descriptor through which it can be written to, -1 where there is none.
        writable: whether a rename reaches the worker: by the clone, or by the mount point itself.
    """

    device: int
    clone: int
    writable: bool


def mount(launch: Launch, settings: Settings) -> Made:
    """Mount.

    Raises:
        KeyVaultFSError, OSError: it cannot be mounted there; the text says what to do.
    """
    prepare(launch.mountpoint)
    if os.geteuid() == 0:
        return _mount_as_root(launch, settings)
    return _mount_as_user(launch, settings)


def prepare(mountpoint: str) -> None:
    """Clean a stale mount away, and see that the mount point is an empty directory.

    Raises:
        KeyVaultFSError: it is not; or something is mounted there that lives.
    """
    there = topmost(mountpoint)
    if there is not None and there.fstype.startswith("fuse"):
        if alive(there):
            keeper = _keeper_of(mountpoint)
            who = f" by process {keeper}" if keeper else ""
            raise UsageError(
                f"{mountpoint} is mounted already{who}; unmount it first, or choose another directory"
            )
        unmount(there)
    try:
        found = os.stat(mountpoint)  # noqa: PTH116
        if not stat.S_ISDIR(found.st_mode):
            raise UsageError(f"{mountpoint} is not a directory; choose an empty one")
        if os.listdir(mountpoint):  # noqa: PTH208
            raise UsageError(f"{mountpoint} is not empty; mount on an empty directory")
    except FileNotFoundError:
        raise UsageError(f"{mountpoint} does not exist; create it: mkdir -p {mountpoint}") from None
    except OSError as exc:
        raise UsageError(f"{mountpoint}: {exc.strerror}") from None


def alive(there: Mounted) -> bool:
    """Whether somebody serves a FUSE mount: a dead one is "not connected".

    Its connection stays listed in /sys/fs/fuse until it is unmounted, dead or not, so the mount itself is asked.
    """

    def ask() -> bytes:
        try:
            os.statvfs(there.mountpoint)
        except OSError as exc:
            return b"dead" * (exc.errno == errno.ENOTCONN)
        return b""

    return _answer(ask) != b"dead"


def _keeper_of(mountpoint: str) -> int | None:
    """The process that holds one of our mounts: it says so itself, and so may anybody whose mount it is."""
    import json

    def ask() -> bytes:
        fd = os.open(f"{mountpoint}/.keyvaultfs/status", os.O_RDONLY)
        with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor
            keeper = json.loads(file.read(_LONGEST_STATUS)).get("keeper")
        return str(keeper).encode() if type(keeper) is int else b""

    found = _answer(ask)
    return int(found) if found.isdigit() else None


def _answer(ask: Callable[[], bytes]) -> bytes:
    """What a child is told that asks a file system; b"" if it cannot be asked, or does not answer in time."""
    import select

    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for number in range(3):  # whoever reads our streams to their end would wait for it as well
                os.dup2(null, number)
            child.close_all_but((writing,))
            os.write(writing, ask())
        finally:
            os._exit(0)
    os.close(writing)
    try:
        ready, _, _ = select.select([reading], [], [], _ANSWER_SECONDS)
        if ready:
            os.waitpid(pid, 0)
            return os.read(reading, 32)
        os.kill(pid, 9)
        return b""
    finally:
        os.close(reading)


def _mount_as_root(launch: Launch, settings: Settings) -> Made:
    parameters = [
        ("rootmode", "40000"),
        ("user_id", "0"),
        ("group_id", "0"),
        ("default_permissions", ""),
        ("max_read", str(_MAX_READ)),
    ]
    if settings.allow_other is not False:
        parameters.append(("allow_other", ""))
    contexts = [(name, value) for name, _, value in (one.partition("=") for one in launch.generic)]
    made = _mount_new(launch, [*parameters, *contexts]) if settings.rename else None
    if made is None:
        made = _mount_old(launch, parameters, contexts)
    make_private(launch.mountpoint)
    return made


def _open_device() -> int:
    try:
        return os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        raise UsageError(f"{_DEVICE}: {exc.strerror}; load the kernel module: modprobe fuse") from None


def _mount_new(launch: Launch, parameters: list[tuple[str, str]]) -> Made | None:
    """Mount with the calls of Linux 5.2, and make a writable clone with one of 5.12; None where they do not do."""
    device = _open_device()
    try:
        mounted = newmount.mount(
            launch.source, launch.mountpoint, _SUBTYPE, [("fd", str(device)), *parameters]
        )
    except OSError:
        os.close(device)  # it may belong to a mount that was made and not attached
        return None  # mount(2) knows better what is wrong, if anything is
    clone = -1
    with contextlib.suppress(OSError):
        clone = newmount.writable_clone(mounted)
    os.close(mounted)
    return Made(device, clone, writable=clone >= 0)


def _mount_old(launch: Launch, parameters: list[tuple[str, str]], contexts: list[tuple[str, str]]) -> Made:
    """Mount with mount(2). The superblock is read-only too: without a clone there is nothing to write through."""
    device = _open_device()
    words = [f"fd={device}", *(f"{name}={value}" if value else name for name, value in parameters)]
    words += [f'{name}="{value}"' for name, value in contexts]
    done = _libc.mount(
        os.fsencode(launch.source),
        os.fsencode(launch.mountpoint),
        FSTYPE.encode(),
        # nosymfollow: a worker that somebody has taken over could serve a link that a program of root's
        # follows out of the mount. Kernels before 5.10 ignore it.
        _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC | _MS_NOSYMFOLLOW,
        os.fsencode(",".join(words)),
    )
    if done != 0:
        number = ctypes.get_errno()
        os.close(device)
        # Without SELinux the kernel takes context= for a parameter that nobody knows, as any but mount(8) hands it on.
        why = f" (does this kernel have SELinux? {', '.join(launch.generic)})" if launch.generic else ""
        raise UsageError(f"{launch.mountpoint}: mount(2) failed: {os.strerror(number)}{why}")
    return Made(device, -1, writable=False)


def _mount_as_user(launch: Launch, settings: Settings) -> Made:
    """By way of fusermount3, which is setuid root and passes the descriptor through the socket _FUSE_COMMFD."""
    import subprocess

    program = fusermount()
    if program is None:
        raise UsageError(
            "fusermount3 is not installed, and only root can mount without it: apt install fuse3"
        )
    source = launch.source.replace("\\", "\\\\").replace(",", "\\,")
    words = [
        # A clone of the mount is for root alone to make, so the child that renames goes by the mount point. All other
        # writes are refused by the worker.
        *([] if settings.rename else ["ro"]),
        "nosuid",
        "nodev",
        "noexec",
        "subtype=keyvaultfs",
        f"fsname={source}",
        "default_permissions",
    ]
    words += ["allow_other"] if settings.allow_other else []
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        done = subprocess.run(  # noqa: S603 - a fixed program
            [program, "-o", ",".join([*words, *launch.generic]), "--", launch.mountpoint],
            env={"_FUSE_COMMFD": str(theirs.fileno()), "PATH": PATHS, "LC_ALL": "C"},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_FUSERMOUNT_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "backslashreplace").strip().rpartition("\n")[2]
            raise UsageError(f"{launch.mountpoint}: {said or 'fusermount3 failed'}")
        ours.settimeout(_FUSERMOUNT_SECONDS)
        return Made(_receive_descriptor(ours), -1, writable=settings.rename)


def _receive_descriptor(sock: socket.socket) -> int:
    descriptors = array.array("i")
    _, ancillary, _, _ = sock.recvmsg(1, socket.CMSG_SPACE(descriptors.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: descriptors.itemsize])
            return descriptors[0]
    raise KeyVaultFSError("", "fusermount3 mounted, but passed no descriptor")


def connection(mountpoint: str) -> Mounted:
    """The mount that was just made."""
    found = topmost(mountpoint)
    if found is None or found.fstype != FSTYPE:
        raise KeyVaultFSError("", f"{mountpoint} was unmounted at once")
    return found
