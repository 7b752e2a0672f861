"""A worker process as the keeper sees it: its channel, its log pipe, and whether it lives."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections import deque
from types import MappingProxyType
from typing import TYPE_CHECKING

from keyvaultfs import ipc
from keyvaultfs.keeper.allowance import Allowance
from keyvaultfs.keeper.signals import interrupt_waits
from keyvaultfs.keeper.spawn import high, refuse_descriptors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keyvaultfs.ipc import Charge
    from keyvaultfs.keeper.spawn import Begun

_LAST_LINES = 5
_NONE: Mapping[int, int] = MappingProxyType({})
_LONGEST_LINE = 1 << 16
_MESSAGES_A_SECOND, _MESSAGE_BURST = 200.0, 400.0
_LINES_A_SECOND, _LINE_BURST = 200.0, 2000.0


class WorkerProcess:
    """One worker. It is never waited for: a thread that is stuck in the kernel keeps a process from being reaped.

    Args:
        begun: the process.
        charge: what it is to do.
        handed: descriptors that go with the charge, by the number that the worker is to find them at.

    Attributes:
        words: its last, if it said any.
        ready: whether it said that it serves.
        messages: how many messages may be read of it.
        lines: how many of its log lines are handed on.
        rests_until: when its messages are read again.
        noisy: whether it was said that it sends what is no message.
    """

    def __init__(self, begun: Begun, charge: Charge, handed: Mapping[int, int] = _NONE) -> None:
        self.pid = begun.pid
        self.channel = ipc.Channel(socket.socket(fileno=begun.channel))
        if not refuse_descriptors(self.channel.sock):
            interrupt_waits()
        self.log_fd = begun.log
        self.log_open = self.channel_open = True
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self.words = ""
        self.ready = False
        self.messages = Allowance(_MESSAGES_A_SECOND, _MESSAGE_BURST)
        self.lines = Allowance(_LINES_A_SECOND, _LINE_BURST)
        self.rests_until = 0.0
        self.noisy = False
        self._partial = b""
        # Opened now, while the process is still one of ours to look at: where /proc hides others' (hidepid), it also
        # hides one that is not dumpable, and the worker soon is not.
        self._stat = _opened(f"/proc/{self.pid}/stat")
        self.killed_by = 0
        self.channel.hand("charge", handed, charge=charge.pack())

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


def _opened(path: str) -> int | None:
    with contextlib.suppress(OSError):
        return high(os.open(path, os.O_RDONLY))
    return None
