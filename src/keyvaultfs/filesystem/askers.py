"""Who opens a file: the process behind a request, read from /proc."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyfuse3 import RequestContext

_MOST = 64
_LONGEST, _LONGEST_NAME = 8192, 64


@dataclass(frozen=True, slots=True)
class Asker:
    """A process at the moment of a request.

    Attributes:
        pid: of the process; the kernel tells that of the thread.
        program: its ``comm``, at most 15 bytes; "" where that cannot be read.
        unit: systemd's name for what it belongs to; "" outside units, as in a login session.
        manager: that of the user's manager that has named the unit, as users may name theirs like the system's; "" for
            one of the system's.
    """

    uid: int
    gid: int
    pid: int
    program: str
    unit: str
    manager: str = ""
    record: str = field(init=False, compare=False, repr=False)
    """its part of a record in JSON, made once"""

    def __post_init__(self) -> None:
        facts = {
            "uid": self.uid,
            "gid": self.gid,
            "pid": self.pid,
            "program": self.program,
            "unit": self.unit,
        }
        object.__setattr__(self, "record", json.dumps(facts)[1:])


@dataclass(slots=True, eq=False)
class Seen:
    """An asker, and how to tell whether the next request of that process is of the same one.

    Attributes:
        fd: of its name in /proc, -1 where there is none, or none any more. A descriptor in /proc is of that very
            process, whoever has its number later.
        comm: what stands there; it changes with exec.
    """

    asker: Asker
    fd: int
    comm: bytes

    def asks(self, ctx: RequestContext) -> bool:
        """Whether a request of this process is of the same program and user."""
        asker = self.asker
        if asker.uid != ctx.uid or asker.gid != ctx.gid:
            return False
        try:
            return os.pread(self.fd, _LONGEST_NAME, 0) == self.comm
        except OSError:  # EBADF: forgotten; ESRCH: it has ended
            return False


class Askers:
    """Reads /proc, and keeps what it read of the last few processes while they live under the same name.

    Args:
        proc: where proc(5) is mounted.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self._known: OrderedDict[int, Seen] = OrderedDict()

    def of(self, ctx: RequestContext) -> Seen:
        """Who asks; never raises, and waits for nothing."""
        known = self._known.get(ctx.pid)
        if known is not None:
            if known.asks(ctx):
                self._known.move_to_end(ctx.pid)
                return known
            self._forget(ctx.pid)
        try:
            fd = os.open(f"{self._proc}/{ctx.pid}/comm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # gone, of another pid namespace, or hidden (hidepid=)
            return Seen(Asker(ctx.uid, ctx.gid, ctx.pid, "", ""), -1, b"")
        comm = _read(fd)
        asker = Asker(
            ctx.uid,
            ctx.gid,
            _process(self._text(ctx.pid, "status"), ctx.pid),
            comm.removesuffix(b"\n").decode("utf-8", "backslashreplace"),
            unit_of(cgroup := self._text(ctx.pid, "cgroup")),
            manager_of(cgroup),
        )
        seen = self._known[ctx.pid] = Seen(asker, fd, comm)
        if len(self._known) > _MOST:
            self._forget(next(iter(self._known)))
        return seen

    def close(self) -> None:
        """Let all descriptors go."""
        for pid in tuple(self._known):
            self._forget(pid)

    def _forget(self, pid: int) -> None:
        seen = self._known.pop(pid)
        os.close(seen.fd)
        seen.fd = -1

    def _text(self, pid: int, name: str) -> str:
        try:
            fd = os.open(f"{self._proc}/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return ""
        try:
            return os.read(fd, _LONGEST).decode("utf-8", "backslashreplace")
        except OSError:
            return ""
        finally:
            os.close(fd)


def unit_of(cgroup: str) -> str:
    """The unit that a cgroup(7) file names: the innermost, and never a login session's scope."""
    return (_units(cgroup) or [""])[-1]


def manager_of(cgroup: str) -> str:
    """What a unit of a user's manager is within, such as ``user@1000.service``; "" for one of the system's."""
    outermost, *within = _units(cgroup) or [""]
    return outermost if within and outermost.startswith("user@") else ""


def _units(cgroup: str) -> list[str]:
    """The units on the way to a process, from the outermost."""
    for line in cgroup.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number != "0" and controllers != "name=systemd":
            continue
        units = [name for part in path.split("/") if _is_unit(name := part.removeprefix("_"))]
        if units:
            return units
    return []


def _is_unit(name: str) -> bool:
    if name.endswith(".scope"):
        return not name.startswith("session-") and name != "init.scope"
    return name.endswith(".service")


def _process(status: str, thread: int) -> int:
    _, _, rest = status.partition("\nTgid:\t")
    number = rest.partition("\n")[0]
    return int(number) if number.isdigit() else thread


def _read(fd: int) -> bytes:
    try:
        return os.pread(fd, _LONGEST_NAME, 0)
    except OSError:  # ESRCH: it has ended
        return b""
