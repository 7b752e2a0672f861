"""A record of each open of a secret's file: who, what, when and how it ended. Never a value."""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import select
import stat
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from keyvaultfs.filesystem.askers import Asker
    from keyvaultfs.log import Causes
    from keyvaultfs.metrics import AuditMetrics
    from keyvaultfs.tallies import Tallies

_LOST = "opens are not recorded (option audit)"
_PATIENCE_SECONDS = 1.0
_HANGS_SECONDS = 3.0
"""A disk may take that long for what it is given to write, and not longer."""

_PAUSE_SECONDS = 0.01
_NEVER_TORN = select.PIPE_BUF

_NS = 1_000_000_000
_MESSAGE_ID = "a3d2c1f0b6f04f5e9d0c7b1e5a8f4c27"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is opened.

    Attributes:
        path: the file, absolute.
        versions: version by secret, of what the file is made of; "" where there is none that may be read.
        record: its part of a record in JSON, made once.
    """

    path: str
    versions: Mapping[str, str]
    record: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "record", json.dumps({"path": self.path, "secrets": self.versions})[1:-1])

    @property
    def whole(self) -> bool:
        """Whether all versions are known; else more may be the next time."""
        return all(self.versions.values())


class Format(Protocol):
    """What a record looks like."""

    def body(self, subject: Subject, asker: Asker, outcome: str, code: int) -> bytes:
        """All of it but the time. `outcome` is ``opened`` or the name of the errno `code`."""

    def complete(self, body: bytes) -> bytes:
        """A record that is of now."""


class Audit:
    """Hands records on before the kernel has its answer, so that no open that succeeded lacks one after a take-over.

    A record that cannot be written fails no open: it is counted, and said once.

    Args:
        fd: in non-blocking mode, the journal's socket, or a pipe to the keeper's child that writes a file (of older
            keepers a socket).
        form: a `JsonLine` or a `JournalEntry`.
        tallies: what that child has written; None where what is handed on counts as written.
        wait_writable: waits until `fd` takes a record.
        clock: the monotonic clock, which the child shares.
    """

    def __init__(
        self,
        fd: int,
        form: Format,
        metrics: AuditMetrics,
        causes: Causes,
        tallies: Tallies | None = None,
        *,
        wait_writable: Callable[[int], Coroutine[Any, Any, None]] = trio.lowlevel.wait_writable,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fd = fd
        self._is_pipe = stat.S_ISFIFO(os.fstat(fd).st_mode)
        self._form = form
        self._complete = form.complete
        self._metrics = metrics
        self._causes = causes
        self._tallies = tallies
        self._wait_writable = wait_writable
        self._clock = clock
        self._failing = False
        self._lost = 0
        self._earlier = None if tallies is None else tallies.total()

    def body(self, subject: Subject, asker: Asker, code: int) -> bytes:
        """What `record` takes, for each open of the same kind.

        Args:
            subject: the file.
            asker: who opens it.
            code: the errno that the open ended with, 0 if it succeeded.
        """
        outcome = errno.errorcode.get(code, str(code)) if code else "opened"
        return self._form.body(subject, asker, outcome, code)

    def record(self, body: bytes) -> Coroutine[Any, Any, None] | None:
        """Hand a record of now on, or give a coroutine that waits a moment for who is behind with them."""
        data = self._complete(body)
        try:
            self._hand_on(data)
        except BlockingIOError:
            if not self._failing:
                return self._later(data)
            self._lose(errno.EAGAIN)
        except OSError as exc:
            self._lose(exc.errno or errno.EIO)
        return None

    def settle(self) -> None:
        """Learn what has become of what was handed on. To be called every moment, and before it is told."""
        if self._tallies is None or self._earlier is None:
            return
        tally, earlier, lost = self._tallies.total(), self._earlier, self._metrics.lost
        self._metrics.records = tally.written - earlier.written
        self._metrics.lost = self._lost + tally.lost - earlier.lost
        code = tally.code
        if tally.since and self._clock() - tally.since > _HANGS_SECONDS:
            code = errno.ETIMEDOUT
        if code and (not self._failing or self._metrics.lost > lost):
            self._begin(code)
        elif not code:
            self._end()

    async def _later(self, data: bytes) -> None:
        with trio.move_on_after(_PATIENCE_SECONDS):
            while True:
                await self._wait_writable(self._fd)
                try:
                    self._hand_on(data)
                except BlockingIOError:
                    await trio.sleep(_PAUSE_SECONDS)  # there may be room, but not for one as long as this
                    continue
                except OSError as exc:
                    self._lose(exc.errno or errno.EIO)
                return
        self._lose(errno.EAGAIN)

    def _hand_on(self, data: bytes) -> None:
        if len(data) > _NEVER_TORN and self._is_pipe and not _has_room(self._fd, len(data)):
            raise BlockingIOError
        os.write(self._fd, data)
        if self._tallies is None:
            self._metrics.records += 1
            self._end()

    def _lose(self, code: int) -> None:
        self._lost += 1
        self._metrics.lost += 1
        if code == errno.EAGAIN and self._tallies is not None:
            code = errno.ETIMEDOUT
        self._begin(code)

    def _begin(self, code: int) -> None:
        self._failing = True
        self._causes.begin(_LOST, error=f"Audit-{errno.errorcode.get(code, code)}")

    def _end(self) -> None:
        if self._failing:
            self._failing = False
            self._causes.end(_LOST)


class JsonLine:
    """A JSON object on a line; see `Format`."""

    def __init__(self, wall: Callable[[], int] = time.time_ns) -> None:
        self._wall = wall
        self._second = self._next = 0
        self._begin = b""

    def body(self, subject: Subject, asker: Asker, outcome: str, code: int) -> bytes:
        """The end of the line."""
        return f'Z", "outcome": "{outcome}", "errno": {code}, {subject.record}, {asker.record}\n'.encode()

    def complete(self, body: bytes) -> bytes:
        """The whole line. It costs a part of the open that it is about, so that a second's first digits are kept."""
        now = self._wall()
        if not self._second <= now < self._next:
            seconds = now // _NS
            self._second, self._next = seconds * _NS, (seconds + 1) * _NS
            self._begin = time.strftime('{"time": "%Y-%m-%dT%H:%M:%S.', time.gmtime(seconds)).encode()
        return self._begin + str(now - self._second + _NS)[1:7].encode() + body


class JournalEntry:
    """A datagram of the native journal protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/); see `Format`."""

    def body(self, subject: Subject, asker: Asker, outcome: str, code: int) -> bytes:
        """All of it: the journal adds the time."""
        return _entry(subject, asker, outcome, code)

    def complete(self, body: bytes) -> bytes:
        """The same."""
        return body


def _entry(subject: Subject, asker: Asker, outcome: str, code: int) -> bytes:
    path, versions = subject.path, subject.versions
    version = ",".join(versions.values())
    what = "opened" if outcome == "opened" else f"{outcome}: not opened:"
    who = asker.unit or "no unit"
    message = f"{what} {path} by {asker.program or '?'} (pid {asker.pid}, uid {asker.uid}, {who}), version {version}"
    fields = {
        "MESSAGE": message,
        "MESSAGE_ID": _MESSAGE_ID,
        "PRIORITY": 6,
        "SYSLOG_IDENTIFIER": "keyvaultfs",
        "KEYVAULTFS_PATH": path,
        "KEYVAULTFS_SECRET": ",".join(versions),
        "KEYVAULTFS_VERSION": version,
        "KEYVAULTFS_OUTCOME": outcome,
        "KEYVAULTFS_ERRNO": code,
        "KEYVAULTFS_UNIT": asker.unit,
        "OBJECT_PID": asker.pid,
        "OBJECT_UID": asker.uid,
        "OBJECT_GID": asker.gid,
        "OBJECT_COMM": asker.program,
    }
    return b"".join(
        _field(name, str(value).encode("utf-8", "backslashreplace")) for name, value in fields.items()
    )


def _field(name: str, value: bytes) -> bytes:
    if b"\n" not in value:
        return b"%s=%s\n" % (name.encode(), value)
    return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(value)), value)


def _has_room(pipe: int, size: int) -> bool:
    """Whether a pipe takes a record that is longer than those that it never tears, and takes it whole.

    What did not fit into its last page began a new one, so that two neighbours hold more bytes than one page has.
    """
    import termios  # files of a hundred secrets alone have such records

    (there,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    pages = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) // mmap.PAGESIZE
    return int(2 * there // mmap.PAGESIZE + size // mmap.PAGESIZE) + 4 <= pages
