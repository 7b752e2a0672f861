"""Where records of opens go (option ``audit``): the journal's socket, or a pipe to a child that writes a file."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from typing import TYPE_CHECKING

from keyvaultfs import ipc, tallies
from keyvaultfs.errors import KeyVaultFSError
from keyvaultfs.keeper.inheritance import memory
from keyvaultfs.keeper.recorder import Recorder
from keyvaultfs.keeper.spawn import high
from keyvaultfs.tallies import Tallies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

JOURNAL = "journal"
_SOCKET = "/run/systemd/journal/socket"
_OPEN_SECONDS = 5.0
_REOPEN_SECONDS = 5.0
"""The keeper does nothing else meanwhile; a busy machine may take a second to start a process."""

_END_SECONDS = 1.0
_AGAIN_SECONDS = 5.0
_QUEUE_BYTES = 1 << 20
_WORDS = {
    errno.ELOOP: "it is a symbolic link",
    errno.ENXIO: "it is no regular file",
    errno.ETIMEDOUT: "it cannot be opened in time: its file system does not answer",
}


class AuditTarget:
    """What takes records, for each worker; nothing without the option.

    Args:
        option: ``journal``, an absolute path, or None.

    Raises:
        KeyVaultFSError: it cannot be opened, or is no regular file.
    """

    def __init__(self, option: str | None) -> None:
        self._option = option
        self._file: _File | None = None
        self._journal: int | None = None
        if option is None:
            return
        with _explained(option):
            if option == JOURNAL:
                self._journal = high(_journal())
            else:
                self._file = _File(option)

    def descriptors(self) -> Mapping[int, int]:
        """What a worker is handed, by the number that it is to find it at."""
        if self._file is not None:
            return {ipc.AUDIT_FD: self._file.records, ipc.TALLIES_FD: self._file.tallies}
        return {} if self._journal is None else {ipc.AUDIT_FD: self._journal}

    def reopen(self, bury: Callable[[int], None]) -> None:
        """Open it anew, as after logrotate(8) moved it; what is open stays so when that fails.

        Args:
            bury: is given a child that ends, to reap it.

        Raises:
            KeyVaultFSError: it failed.
        """
        if self._option is None:
            return
        with _explained(self._option):
            if self._file is not None:
                self._file.reopen(bury)
            else:
                fresh = high(_journal())
                assert self._journal is not None
                os.close(self._journal)
                self._journal = fresh

    def mind(self, now: float, bury: Callable[[int], None]) -> None:
        """See that there is somebody who writes; to be called every moment."""
        if self._file is not None:
            self._file.mind(now, bury)

    def end(self) -> None:
        """The workers are gone: wait a moment for what they left to be written."""
        if self._file is not None:
            self._file.end()


class _File:
    """A file, the child that writes it, and the records that wait for it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.tallies = memory("audit", tallies.BYTES)
        self._counts = Tallies(self.tallies)
        # The kernel writes a record into a pipe whole or not at all (PIPE_BUF), in half the time that a socket takes.
        self._inner, self.records = (high(end) for end in os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        with contextlib.suppress(OSError):  # a user who has many pipes
            fcntl.fcntl(self._inner, fcntl.F_SETPIPE_SZ, _QUEUE_BYTES)
        self._again = 0.0
        try:
            self._recorder = self._started(_OPEN_SECONDS)
        except OSError:
            self._close()
            raise
        self._recorder.begin()

    def reopen(self, bury: Callable[[int], None]) -> None:
        fresh = self._started(_REOPEN_SECONDS, bury)
        self._recorder.dismiss(_END_SECONDS)
        bury(self._recorder.pid)
        self._recorder = fresh
        fresh.begin()

    def mind(self, now: float, bury: Callable[[int], None]) -> None:
        if now < self._again or not self._recorder.ended():
            return
        self._again = now + _AGAIN_SECONDS
        self._recorder.let_go()
        bury(self._recorder.pid)
        self._recorder = Recorder(self._path, self._inner, self._counts)
        self._recorder.begin()

    def end(self) -> None:
        self._close()  # ours was the last one that records come from: the child reads on to the end
        end = time.monotonic() + _END_SECONDS
        while time.monotonic() < end and os.waitpid(self._recorder.pid, os.WNOHANG)[0] == 0:
            time.sleep(0.005)
        self._recorder.let_go()

    def _close(self) -> None:
        os.close(self._inner)
        os.close(self.records)
        os.close(self.tallies)

    def _started(self, seconds: float, bury: Callable[[int], None] = lambda _: None) -> Recorder:
        found = Recorder(self._path, self._inner, self._counts)
        try:
            found.opened(seconds)
        except OSError:
            found.kill()
            bury(found.pid)
            raise
        return found


@contextlib.contextmanager
def _explained(option: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        code = exc.errno or errno.EIO
        why = _WORDS.get(code) or os.strerror(code)
        if option == JOURNAL:
            why = f"the journal does not listen at {_SOCKET}: {os.strerror(code)}"
        raise KeyVaultFSError("", f"audit={option}: {why}") from None


def _journal() -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(_SOCKET)
        return sock.detach()
