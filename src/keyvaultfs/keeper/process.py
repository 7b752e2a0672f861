"""A worker process as the keeper sees it: its channel, its log pipe, and whether it lives."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
from collections import deque
from typing import TYPE_CHECKING

from keyvaultfs import ipc

if TYPE_CHECKING:
    from keyvaultfs.ipc import Charge

_ABOVE_FIXED = 64
_LAST_LINES = 5


def high(fd: int) -> int:
    """A duplicate above the numbers that a worker is given, closed on exec; `fd` itself is closed."""
    duplicate = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE_FIXED)
    os.close(fd)
    return duplicate


class WorkerProcess:
    """One worker. It is never waited for: a thread that is stuck in the kernel keeps a process from being reaped.

    Args:
        device: the FUSE device.
        table: memfd of the inode table.
        values: memfd of the values.
        charge: what the worker is to do.
    """

    def __init__(self, device: int, table: int, values: int, charge: Charge) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log_read, log_write = os.pipe()
        channel_end, log_end = high(theirs.detach()), high(log_write)
        null = high(os.open(os.devnull, os.O_RDWR))
        wanted = {0: null, 1: null, ipc.LOG_FD: log_end, ipc.DEVICE_FD: device, ipc.CHANNEL_FD: channel_end}
        wanted |= {ipc.TABLE_FD: table, ipc.VALUES_FD: values}
        try:
            self.pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-P", "-m", "keyvaultfs.worker", charge.launch.mountpoint],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in wanted.items()],
                setpgroup=0,  # Ctrl-C in a terminal is for the keeper
                setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE],
                setsigmask=[],
            )
        finally:
            for fd in (channel_end, log_end, null):
                os.close(fd)
        self.channel = ipc.Channel(socket.socket(fileno=high(ours.detach())))
        self.log_fd = high(log_read)
        os.set_blocking(self.log_fd, False)
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self.words = ""
        self.standby = False
        self.going = False
        self.ready = False
        self.retire_by: float | None = None
        self._partial = b""
        self.channel.send("charge", charge=charge.pack())

    def go(self) -> None:
        """Let it take the mount over."""
        self.going = True
        self.channel.send("go")

    def dead(self) -> bool:
        """Whether its leader has ended; other threads may still be stuck."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:  # noqa: PTH123 - read five times a second
                state = file.read().rpartition(b")")[2].split()[0]
        except (OSError, IndexError):
            return True
        return state in {b"Z", b"X"}

    def kill(self) -> None:
        """SIGKILL, if there is still somebody to get it."""
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def log_lines(self) -> list[str]:
        """New complete lines of its log."""
        try:
            data = os.read(self.log_fd, 1 << 16)
        except OSError:
            return []
        *lines, self._partial = (self._partial + data).split(b"\n")
        if not data and self._partial:
            lines, self._partial = [self._partial], b""
        self._partial = self._partial[-(1 << 16) :]
        texts = [line.decode("utf-8", "backslashreplace") for line in lines]
        self.last_lines.extend(texts)
        return texts

    def close(self) -> None:
        """Let its descriptors go; the process may still be there."""
        self.channel.sock.close()
        os.close(self.log_fd)
