"""A child that writes records of opens into the audit file, so that nobody else waits for that file's disk.

A disk can stop: a backup freezes it for its snapshot, the server of a network file system goes away. Whoever writes
then waits in the kernel, and may not even be killed. So each file is opened and written by a process that the keeper
starts for it and never waits for without a bound. Records come to it through a pipe, which the keeper holds open:
they outlive a worker. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
import stat
import time
from typing import TYPE_CHECKING

from keyvaultfs.keeper import child
from keyvaultfs.tallies import Tally

if TYPE_CHECKING:
    from keyvaultfs.tallies import Tallies

_PAUSE_SECONDS = 0.02
"""A tenth of what the pipe takes comes meanwhile where one processor does nothing but open files."""

_NOBODY = 65534
_NOT_FOR_IT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)
"""A terminal's Ctrl-C, and systemd's end of a unit, are for the keeper: there may still be records to write."""

_PLAIN = bytes(byte if byte == 10 or 32 <= byte < 127 else ord("?") for byte in range(256))
"""Of a record, which is JSON in ASCII: a worker that somebody has taken over may send anything to root's terminal."""

_READY, _GO, _END = b"ready", b"go", b"end"


class Recorder:
    """The keeper's side of one child.

    Args:
        path: the file, which it opens.
        records: the pipe's end that records come out of.

    Raises:
        OSError: no process was to be had.
    """

    def __init__(self, path: str, records: int, tallies: Tallies) -> None:
        row = tallies.begin()

        def serve(control: socket.socket) -> None:
            _serve(path, control, records, tallies, row)

        self.pid, self._control = child.start(serve, {records}, _NOT_FOR_IT)

    def opened(self, seconds: float) -> None:
        """Wait until it has the file open.

        Raises:
            OSError: it cannot be opened, or is no regular file (ENXIO); ETIMEDOUT: not within `seconds`.
        """
        if not select.select([self._control], [], [], seconds)[0]:
            raise TimeoutError(errno.ETIMEDOUT, "")
        answer = self._control.recv(64)
        if answer != _READY:
            raise OSError(int(answer or errno.EIO), "")

    def begin(self) -> None:
        """Have it take records from now on."""
        with contextlib.suppress(OSError):  # it is gone, as `ended` will say
            self._control.send(_GO)

    def ended(self) -> bool:
        """Whether it is gone, which nobody told it to."""
        try:
            return self._control.recv(64) != _READY
        except BlockingIOError:
            return False
        except OSError:  # it had a word of ours still to read
            return True

    def dismiss(self, seconds: float) -> None:
        """Have it write what there is, and end; wait so long for that."""
        with contextlib.suppress(OSError):
            self._control.send(_END)
            select.select([self._control], [], [], seconds)
        self.let_go()

    def let_go(self) -> None:
        """Want nothing of it any more."""
        self._control.close()

    def kill(self) -> None:
        """End it, as far as the kernel lets it."""
        self.let_go()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _serve(path: str, control: socket.socket, records: int, tallies: Tallies, row: int) -> None:
    try:
        fd = _open(path)
    except OSError as exc:
        control.send(str(exc.errno or errno.EIO).encode())
        return
    _become_nobody()
    control.send(_READY)
    if control.recv(64) != _GO:
        return
    pen = Pen(fd, tallies, row)
    # Who takes all that the pipe can hold cuts no record in two: another may be the next to take some.
    room = bytearray(fcntl.fcntl(records, fcntl.F_GETPIPE_SZ))
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(records, select.POLLIN)
    dismissed = False
    while not dismissed:
        if control.fileno() in dict(poll.poll()):
            # Once dismissed it takes what is there, and what comes later is for another. Where the keeper is gone, the
            # worker may have more to say before it ends.
            dismissed = control.recv(64) == _END
            poll.unregister(control)
        count = _take(records, room)
        if count == 0:
            return
        if count is not None:
            pen.write(bytes(memoryview(room)[:count]))
        if not dismissed:
            # A program that opens thousands of files wakes nobody for each of them.
            time.sleep(_PAUSE_SECONDS)


def _take(records: int, room: bytearray) -> int | None:
    """How many bytes there were; 0 if nobody is left who could send any, None if they are still to come."""
    try:
        return os.readv(records, [room])
    except BlockingIOError:
        return None


def _open(path: str) -> int:
    # Without waiting: the open of a FIFO would wait for its reader.
    flags = (
        os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    )
    fd = os.open(path, flags, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise OSError(errno.ENXIO, "")
    return fd


def _become_nobody() -> None:
    """Root was needed to open the file alone."""
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # a user namespace may not have that user
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)


class Pen:
    """Writes lines to a file, and keeps the tally."""

    def __init__(self, fd: int, tallies: Tallies, row: int) -> None:
        self._fd = fd
        self._tallies = tallies
        self._row = row
        self._tally = Tally(*tallies.of(row)[:2])
        self._torn = False
        tallies.put(row, self._tally)

    def write(self, records: bytes) -> None:
        """Write some lines."""
        self._tallies.put(self._row, self._tally._replace(since=time.monotonic()))
        begin = b"\n" if self._torn else b""  # the next record begins on a line of its own
        whole = begin + records.translate(_PLAIN)
        try:
            count, code = os.write(self._fd, whole), 0
        except OSError as exc:
            count, code = 0, exc.errno or errno.EIO
        else:
            self._torn = not whole[:count].endswith(b"\n")
            code = errno.ENOSPC if count < len(whole) else 0  # as on a full disk
        kept = max(0, whole.count(b"\n", 0, count) - len(begin))
        written, lost, _, _ = self._tally
        self._tally = Tally(written + kept, lost + records.count(b"\n") - kept, code)
        self._tallies.put(self._row, self._tally)
