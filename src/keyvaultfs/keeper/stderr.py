"""Standard error that nobody may be reading: a line is dropped and counted rather than waited for.

`O_NONBLOCK` belongs to the open file, which a shell or a service manager shares with us, and is not ours to set. So a
pipe or a terminal is opened a second time through /proc, a socket is sent to with MSG_DONTWAIT, and anything else is
written to when poll(2) says that a page fits.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
from collections import deque

_ATOMIC = 4096
"""PIPE_BUF: as much as this is written whole or not at all."""

_LINES = 256


class Stderr:
    """Takes lines and keeps a few of them while the reader is slow."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._opened: int | None = None
        self._socket: socket.socket | None = None
        self._ask = False
        self._waiting: deque[bytes] = deque()
        self._lost = 0
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(fd))
        elif stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            self._ask = not self._open_anew()

    def _open_anew(self) -> bool:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with contextlib.suppress(OSError):  # another user's pipe, or no /proc
            self._fd = self._opened = os.open(f"/proc/self/fd/{self._fd}", flags)
            return True
        return False

    def write(self, line: bytes) -> None:
        """Write a line, now or at one of the next calls."""
        line = line.rstrip(b"\n")[: _ATOMIC - 1] + b"\n"
        if len(self._waiting) >= _LINES:
            self._lost += 1
            return
        self._waiting.append(line)
        self.flush()

    def flush(self) -> None:
        """Write what waits, as far as the reader takes it."""
        while self._waiting:
            if self._lost and len(self._waiting) < _LINES:
                self._waiting.append(b"keyvaultfs: %d lines of this log are lost\n" % self._lost)
                self._lost = 0
            try:
                done = self._put(self._waiting[0])
            except BlockingIOError:
                return
            except OSError:  # nobody will read it any more
                self._waiting.clear()
                return
            rest = self._waiting[0][done:]
            if rest:
                self._waiting[0] = rest
            else:
                self._waiting.popleft()

    def close(self) -> None:
        """Let what was opened go; what was given stays open."""
        if self._socket is not None:
            self._socket.close()
        if self._opened is not None:
            os.close(self._opened)

    def _put(self, data: bytes) -> int:
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if self._ask:
            poll = select.poll()
            poll.register(self._fd, select.POLLOUT)
            if not poll.poll(0):
                raise BlockingIOError
        return os.write(self._fd, data)
