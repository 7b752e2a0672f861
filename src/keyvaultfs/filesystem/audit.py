"""A record of each open of a secret's file: who, what, when and how it ended. Never a value."""

from __future__ import annotations

import errno
import json
import os
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


class Format(Protocol):
    """Bytes of one record, complete."""

    def __call__(self, subject: Subject, asker: Asker, outcome: str, code: int) -> bytes:
        """`outcome` is ``opened`` or the name of the errno `code`."""


class Audit:
    """Hands records on before the kernel has its answer, so that no open that succeeded lacks one after a take-over.

    A record that cannot be written fails no open: it is counted, and said once.

    Args:
        fd: a socket in non-blocking mode, of the journal or of the keeper's child that writes a file.
        form: a `JsonLine`, or `journal_entry`.
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
        self._form = form
        self._metrics = metrics
        self._causes = causes
        self._tallies = tallies
        self._wait_writable = wait_writable
        self._clock = clock
        self._failing = False
        self._lost = 0
        self._earlier = None if tallies is None else tallies.total()

    def record(self, subject: Subject, asker: Asker, code: int) -> Coroutine[Any, Any, None] | None:
        """Hand a record on now, or give a coroutine that waits a moment for who is behind with them.

        Args:
            subject: the file.
            asker: who opens it.
            code: the errno that the open ended with, 0 if it succeeded.
        """
        outcome = errno.errorcode.get(code, str(code)) if code else "opened"
        data = self._form(subject, asker, outcome, code)
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
                    continue
                except OSError as exc:
                    self._lose(exc.errno or errno.EIO)
                return
        self._lose(errno.EAGAIN)

    def _hand_on(self, data: bytes) -> None:
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
    """A JSON object on a line.

    Put together by hand, and most of it kept from one record to the next: it costs a part of the open that it is about.
    """

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._second = 0
        self._begin = b""
        self._last: tuple[Subject, Asker, int] | None = None
        self._end = b""

    def __call__(self, subject: Subject, asker: Asker, outcome: str, code: int) -> bytes:
        """See `Format`."""
        now = self._wall()
        second = int(now)
        if second != self._second:
            self._second = second
            self._begin = time.strftime('{"time": "%Y-%m-%dT%H:%M:%S.', time.gmtime(second)).encode()
        last = self._last
        if last is None or last[0] is not subject or last[1] is not asker or last[2] != code:
            self._last = subject, asker, code
            middle = f'Z", "outcome": "{outcome}", "errno": {code}, '
            self._end = f"{middle}{subject.record}, {asker.record}\n".encode()
        return b"%s%06d%s" % (self._begin, int((now - second) * 1e6), self._end)


def journal_entry(subject: Subject, asker: Asker, outcome: str, code: int) -> bytes:
    """A datagram of the native journal protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/)."""
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
