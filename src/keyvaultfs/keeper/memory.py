"""Whether the kernel killed for lack of memory. Read, never guessed: a SIGKILL alone may have come from anybody."""

from __future__ import annotations

import contextlib

_CGROUPS = "/sys/fs/cgroup"
_EVERYBODY = "/proc/vmstat"


class OutOfMemory:
    """Counts the out-of-memory kills of our control group, or of the whole machine where we see no group of ours."""

    def __init__(self) -> None:
        self._before = ("", 0)

    def note(self) -> None:
        """Count from here on: a worker starts. A process may be moved to another group at any time."""
        self._before = _count()

    def struck(self) -> bool:
        """Whether somebody was killed since the last worker was started."""
        file, number = _count()
        return file == self._before[0] and number > self._before[1]


def _count() -> tuple[str, int]:
    found = ((path, _kills(path)) for path in (*_candidates(), _EVERYBODY))
    return next(((path, number) for path, number in found if number is not None), ("", 0))


def _candidates() -> list[str]:
    """Cgroup v2 has memory.events, v1 memory.oom_control; both have a line ``oom_kill NUMBER``."""
    found = []
    with contextlib.suppress(OSError), open("/proc/self/cgroup", "rb") as file:  # noqa: PTH123
        for line in file.read().split(b"\n"):
            number, _, rest = line.partition(b":")
            controllers, _, path = rest.partition(b":")
            where = path.decode("utf-8", "surrogateescape").rstrip("/")
            if number == b"0":
                found.append(f"{_CGROUPS}{where}/memory.events")
            elif b"memory" in controllers.split(b","):
                found.append(f"{_CGROUPS}/memory{where}/memory.oom_control")
    return found


def _kills(path: str) -> int | None:
    with contextlib.suppress(OSError, ValueError), open(path, "rb") as file:  # noqa: PTH123
        for line in file.read().split(b"\n"):
            if line.startswith(b"oom_kill "):
                return int(line[9:])
    return None
