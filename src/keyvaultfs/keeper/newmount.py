"""Mounting step by step (fsopen(2) and its kin, Linux 5.2), so that a mount is read-only before anybody sees it.

The superblock is not read-only: a child of the keeper renames on it (`announce`), by way of a detached clone of the
mount that nobody else can reach. A mount that is attached writable and changed later would have been copied, writable,
into other mount namespaces by then. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# The same on every architecture but Alpha (asm-generic/unistd.h).
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = 428, 429, 430, 431, 432, 442
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_CLOEXEC = os.O_CLOEXEC
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _NOSYMFOLLOW = 1, 2, 4, 8, 0x200000
_OPEN_TREE_CLONE = 1
_FROM_EMPTY_PATH, _TO_SYMLINKS = 4, 0x10

_libc = ctypes.CDLL(None, use_errno=True)


class _Attributes(ctypes.Structure):
    """struct mount_attr of mount_setattr(2)."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


def _call(number: int, *arguments: object) -> int:
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    done = int(_libc.syscall(ctypes.c_long(number), *words))
    if done < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return done


def mount(source: str, mountpoint: str, subtype: str, parameters: Iterable[tuple[str, str]]) -> int:
    """Mount FUSE, read-only from its first moment.

    Args:
        source: shown in mountinfo letter for letter; the kernel takes 255 bytes here, and more by mount(2).
        subtype: shown as ``fuse.SUBTYPE``.
        parameters: of the file system; one with the value "" is a flag.

    Returns:
        A descriptor of the mount.

    Raises:
        OSError: the kernel lacks the calls, or refuses.
    """
    context = _call(_FSOPEN, b"fuse", _FSOPEN_CLOEXEC)
    try:
        _set(context, "source", source)
        _set(context, "subtype", subtype)
        for name, value in parameters:
            _set(context, name, value)
        _call(_FSCONFIG, context, _CREATE, None, None, 0)
        mounted = _fsmount(context)
    finally:
        os.close(context)
    try:
        _call(_MOVE_MOUNT, mounted, b"", _AT_FDCWD, os.fsencode(mountpoint), _FROM_EMPTY_PATH | _TO_SYMLINKS)
    except OSError:
        os.close(mounted)
        raise
    return mounted


def _set(context: int, name: str, value: str) -> None:
    command = _SET_STRING if value else _SET_FLAG
    _call(_FSCONFIG, context, command, name.encode(), os.fsencode(value) if value else None, 0)


def _fsmount(context: int) -> int:
    flags = _RDONLY | _NOSUID | _NODEV | _NOEXEC
    # nosymfollow: a worker that somebody has taken over could serve a link that a program of root's follows out of the
    # mount. Kernels before 5.14 do not know it here.
    with contextlib.suppress(OSError):
        return _call(_FSMOUNT, context, _FSMOUNT_CLOEXEC, flags | _NOSYMFOLLOW)
    return _call(_FSMOUNT, context, _FSMOUNT_CLOEXEC, flags)


def writable_clone(mounted: int) -> int:
    """A detached clone of a mount that can be written through: in nobody's mount table, and gone with its descriptor.

    It keeps the superblock alive, so it must be closed for an unmount to end the connection.

    Raises:
        OSError: the kernel lacks mount_setattr(2) (before 5.12), or refuses.
    """
    clone = _call(_OPEN_TREE, mounted, b"", _AT_EMPTY_PATH | _OPEN_TREE_CLONE | _CLOEXEC)
    change = _Attributes(clear=_RDONLY)
    try:
        _call(_MOUNT_SETATTR, clone, b"", _AT_EMPTY_PATH, ctypes.byref(change), ctypes.sizeof(_Attributes))
    except OSError:
        os.close(clone)
        raise
    return clone


def refresh(root: int, inode: int) -> None:
    """Have the kernel ask for the attributes of an inode that it holds, whether or not a name leads to it.

    Args:
        root: a descriptor of a directory of the mount, not opened with O_PATH.

    Raises:
        OSError: the kernel no longer holds it (ESTALE), or who asks lacks CAP_DAC_READ_SEARCH.
    """
    # FILEID_INO64_GEN of fs/fuse/inode.c: the node id's upper half, its lower half, the generation.
    handle = (ctypes.c_uint32 * 5)(12, 0x81, inode >> 32, inode & 0xFFFFFFFF, 0)
    fd = _libc.open_by_handle_at(root, ctypes.byref(handle), os.O_PATH | os.O_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno() or errno.EIO, "open_by_handle_at")
    try:
        os.fstat(fd)
    finally:
        os.close(fd)
