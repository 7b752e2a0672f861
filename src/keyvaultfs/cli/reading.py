"""Reads a file that may hang: a child process does it, and is left behind when it takes too long.

A process that waits on FUSE may not even be killed, so it must not be the one that a person waits for.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from typing import TYPE_CHECKING

from keyvaultfs.errors import KeyVaultFSError

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 15.0
"""Longer than a request of a mount takes with the default `timeout`."""

_MOST = 64 << 20
_PIECE = 1 << 16
_EARLIER = "its worker is of a version without {}: keyvaultfs of this version serves after systemctl reload, or SIGHUP"


class Attempt:
    """One attempt to read a file, in a child process that owns nothing of ours.

    Args:
        most: bytes to read at most; more are an error (EFBIG).
        keep: whether to hand the bytes over, or only say that they can be read.
    """

    def __init__(self, path: str, *, most: int = _MOST, keep: bool = True) -> None:
        self.path = path
        self.fd, writing = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if not self._pid:
            try:
                _read_and_say(path, writing, most, keep=keep)
            finally:
                os._exit(0)
        os.close(writing)
        self._answer = b""

    def more(self) -> bool:
        """Take what has come; False at the end. To be called when `fd` can be read."""
        piece = os.read(self.fd, _PIECE)
        self._answer += piece
        return bool(piece)

    def result(self) -> bytes:
        """The bytes, after the end.

        Raises:
            OSError: it could not be read.
        """
        code = int.from_bytes(self._answer[:4], "little") if len(self._answer) >= 4 else errno.EIO
        if code:
            raise OSError(code, os.strerror(code), self.path)
        return self._answer[4:]

    def close(self) -> None:
        """Wait for nothing: a child that still reads is killed, as far as the kernel lets it."""
        os.close(self.fd)
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(self._pid, os.WNOHANG) == (0, 0):
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, os.WNOHANG)


def read(path: str, seconds: float = SECONDS, most: int = _MOST) -> bytes:
    """A whole file.

    Raises:
        OSError: it cannot be read, or has more than `most` bytes.
        TimeoutError: not within `seconds`.
    """
    attempt = Attempt(path, most=most)
    end = time.monotonic() + seconds
    try:
        while True:
            ready, _, _ = select.select([attempt.fd], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError(errno.ETIMEDOUT, f"no answer within {seconds:g} s", path)
            if not attempt.more():
                return attempt.result()
    finally:
        attempt.close()


def control(mountpoint: str, name: str, seconds: float = SECONDS) -> str:
    """A file of a mount's directory ``.keyvaultfs``.

    Raises:
        KeyVaultFSError: it cannot be read, in a sentence that says why.
    """
    folder = os.path.join(mountpoint, ".keyvaultfs")  # noqa: PTH118
    try:
        return read(os.path.join(folder, name), seconds).decode("utf-8", "backslashreplace")  # noqa: PTH118
    except TimeoutError:
        why = f"no answer within {seconds:g} s: the mount hangs; its log says more"
    except OSError as exc:
        why = _why(exc, folder, name, seconds)
    raise KeyVaultFSError("", f"{mountpoint}: {why}") from None


@contextlib.contextmanager
def understood(mountpoint: str) -> Iterator[None]:
    """For whoever makes words of what a mount tells of itself: its worker may be of any version, or taken over.

    Raises:
        KeyVaultFSError: it is not of the form that was expected.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError):
        raise KeyVaultFSError("", f"{mountpoint}: what it tells of itself cannot be understood") from None


def _why(exc: OSError, folder: str, name: str, seconds: float) -> str:
    if exc.errno in {errno.EACCES, errno.EPERM}:
        return "only root and the mount's owner may ask"
    if exc.errno == errno.ENOTCONN:
        return "the mount is dead: unmount it (umount, or fusermount3 -u), and mount again"
    if exc.errno in {errno.ENOENT, errno.ENOTDIR}:
        try:
            read(os.path.join(folder, "status"), seconds)  # noqa: PTH118
        except OSError:
            return "it is not a keyvaultfs mount"
        return _EARLIER.format(name)
    return exc.strerror or "it cannot be read"


def _read_and_say(path: str, writing: int, most: int, *, keep: bool) -> None:
    """In the child. Its streams are let go, or who reads ours would wait for it as well."""
    code, data, count = 0, b"", 0
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        target = os.dup2(writing, 3)
        os.closerange(4, 1 << 16)
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        while piece := os.read(fd, _PIECE):
            data += piece if keep else b""
            count += len(piece)
            if count > most:
                code = errno.EFBIG
                break
    except OSError as exc:
        target, code = 3, exc.errno or errno.EIO
    whole = code.to_bytes(4, "little") + (data if keep and not code else b"")
    while whole:
        whole = whole[os.write(target, whole) :]
