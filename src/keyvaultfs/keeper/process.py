"""A worker process as the keeper sees it: its channel, its log pipe, and whether it lives."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
from collections import deque
from types import MappingProxyType
from typing import TYPE_CHECKING

from keyvaultfs import ipc, isolation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keyvaultfs.ipc import Charge

_ABOVE_FIXED = 16
_LAST_LINES = 5
_NO_MORE: Mapping[int, int] = MappingProxyType({})
_OF_THE_KEEPER = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "INVOCATION_ID", "JOURNAL_STREAM"}
_LONGEST_LINE = 1 << 16


def high(fd: int) -> int:
    """A duplicate above the numbers that a worker is given, closed on exec; `fd` itself is closed."""
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE_FIXED)
    finally:
        os.close(fd)


class WorkerProcess:
    """One worker. It is never waited for: a thread that is stuck in the kernel keeps a process from being reaped.

    Args:
        device: the FUSE device.
        table: memfd of the inode table.
        values: memfd of the values.
        charge: what the worker is to do.
        more: other descriptors, by the number that the worker is to find them at.

    Raises:
        OSError: no process, no descriptor or no memory was to be had; nothing of it is left.
    """

    def __init__(
        self, device: int, table: int, values: int, charge: Charge, more: Mapping[int, int] = _NO_MORE
    ) -> None:
        with contextlib.ExitStack() as owned:

            def own(fd: int) -> int:
                owned.callback(os.close, fd)
                return fd

            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours, theirs:
                channel, channel_end = high(os.dup(ours.fileno())), own(high(os.dup(theirs.fileno())))
            self.channel = ipc.Channel(socket.socket(fileno=channel))
            failed = contextlib.ExitStack()
            failed.callback(self.channel.sock.close)
            with failed:
                log_read, log_write = os.pipe()
                log_end = own(high(log_write))
                self.log_fd = high(log_read)
                failed.callback(os.close, self.log_fd)
                os.set_blocking(self.log_fd, False)
                null = own(high(os.open(os.devnull, os.O_RDWR)))
                wanted = {0: null, 1: null, ipc.LOG_FD: log_end, ipc.DEVICE_FD: device}
                wanted |= {ipc.CHANNEL_FD: channel_end, ipc.TABLE_FD: table, ipc.VALUES_FD: values} | dict(
                    more
                )
                self.pid = _spawn(wanted, charge)
                failed.pop_all()
        self.log_open = self.channel_open = True
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self.words = ""
        self._partial = b""
        # Opened now, while the process is still one of ours to look at: where /proc hides others' (hidepid), it also
        # hides one that is not dumpable, and the worker soon is not.
        self._stat = _opened(f"/proc/{self.pid}/stat")
        self.killed_by = 0
        self.channel.send("charge", charge=charge.pack())

    def dead(self) -> bool:
        """Whether its leader has ended, as far as can be seen; other threads may still be stuck."""
        ended = self._ended()
        if ended or self._stat is None:
            return ended
        try:
            state = os.pread(self._stat, 1024, 0).rpartition(b")")[2].split()[:1]
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return state in ([b"Z"], [b"X"])

    def _ended(self) -> bool:
        """Whether all its threads have ended; it is left to be reaped."""
        try:
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
        if found is not None and found.si_code in {os.CLD_KILLED, os.CLD_DUMPED}:
            self.killed_by = found.si_status
        return found is not None

    def kill(self) -> None:
        """SIGKILL, if there is still somebody to get it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def log_lines(self) -> list[str]:
        """New complete lines of its log, as it wrote them."""
        try:
            data = os.read(self.log_fd, 1 << 16)
        except OSError:
            return []
        *lines, self._partial = (self._partial + data).split(b"\n")
        if not data:
            self.log_open = False
            lines, self._partial = [self._partial] if self._partial else [], b""
        self._partial = self._partial[-_LONGEST_LINE:]
        texts = [line.decode("utf-8", "backslashreplace") for line in lines]
        self.last_lines.extend(ipc.one_line(text, 300) for text in texts[-_LAST_LINES:])
        return texts

    def close(self) -> None:
        """Let its descriptors go; the process may still be there."""
        self.channel.sock.close()
        os.close(self.log_fd)
        if self._stat is not None:
            os.close(self._stat)


def _spawn(wanted: dict[int, int], charge: Charge) -> int:
    command = isolation.command("keyvaultfs.worker", charge.launch.mountpoint)
    return os.posix_spawn(
        command[0],
        command,
        {name: value for name, value in os.environ.items() if name not in _OF_THE_KEEPER},
        file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in wanted.items()],
        setsid=True,  # Ctrl-C in a terminal is for the keeper
        setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE],
        setsigmask=[],
    )


def _opened(path: str) -> int | None:
    with contextlib.suppress(OSError):
        return high(os.open(path, os.O_RDONLY))
    return None
