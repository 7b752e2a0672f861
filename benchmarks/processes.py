"""What the kernel says of a process: memory and time."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def resident_mib(pid: int) -> float:
    """Resident memory (VmRSS), shared pages counted whole, as `ps` and `top` show it."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise LookupError(f"process {pid} is no more")


def own_mib(pid: int) -> float:
    """Memory that nobody shares with it (Pss: shared pages counted by share)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise LookupError(f"process {pid} is no more")


def cpu_seconds(pid: int) -> float:
    """Processor time of all its threads, by the clock that clock_getcpuclockid(3) names."""
    return time.clock_gettime((~pid << 3) | 2)


def with_siblings(pid: int) -> list[int]:
    """A process and all other children of its parent, as a worker and what else its keeper has started."""
    parent = (
        Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[1]
    )
    threads = Path(f"/proc/{parent}/task").iterdir()
    return [int(child) for one in threads for child in (one / "children").read_text(encoding="ascii").split()]


def pin(pid: int, processors: set[int]) -> None:
    """Let all threads that a process has now run on these processors alone; 0 is the caller; none is no mistake."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid or os.getpid()}/task").iterdir():
            os.sched_setaffinity(int(thread.name), processors)


def put_first(pid: int, nice: int) -> None:
    """Let all threads that a process has now go before or behind others (nice(2)), as far as we may say so."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), nice)


@contextlib.contextmanager
def on_one_processor(pids: Iterable[int]) -> Iterator[None]:
    """Meanwhile all of these run on one, where nothing depends on where the scheduler puts them.

    Before all else that runs there, if root asks: what others want of that processor would be most of what is measured.
    """
    everywhere, pinned = os.sched_getaffinity(0), tuple(pids)
    for pid in pinned:
        pin(pid, {min(everywhere)})
        put_first(pid, -20)
    try:
        yield
    finally:
        for pid in pinned:
            put_first(pid, 0)
            pin(pid, everywhere)
