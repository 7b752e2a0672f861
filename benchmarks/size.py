"""Group 6: how large it is, how soon it answers, and how soon again after a kill."""

from __future__ import annotations

import compileall
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import keyvaultfs
from benchmarks import peers, processes
from benchmarks.model import OURS, Group
from benchmarks.reader import read_file
from benchmarks.svg import bars
from tests.support.mount import Mount, environment, mounts_below
from tests.support.vault import VaultProcess

if TYPE_CHECKING:
    from benchmarks.model import Case

IMPORTS = "Python, importing pyfuse3 and trio"
KEEPER = "keeper"
WORKER = "worker"
_MOUNTS = 8
ABOUT = """
Resident memory is what `ps` shows (VmRSS); beside it the proportional share (Pss), which counts a page that
several processes share by parts. The time to the first answer is from the start of `keyvaultfs mount` to its
return in the background and the answer to a `stat` of the mount; the first value includes the token, the
connection and the request. Most of a start is an interpreter's imports, hence a row for these. The take-over is
measured by a reader that opens and reads without pause, whose longest read spans the SIGKILL of the worker.
"""


def _memory(case: Case, mount: Mount) -> None:
    time.sleep(1)
    for who, pid in ((KEEPER, mount.process.pid), (WORKER, mount.worker())):
        case.add(who, processes.resident_mib(pid))
        case.say(who, "Pss", f"{processes.own_mib(pid):.1f} MiB")


def _sizes(group: Group, quick: bool) -> None:
    empty = group.case("resident memory, empty mount", "MiB")
    values = group.case("resident memory, 1,000 values", "MiB")
    names = group.case("resident memory, 10,000 names", "MiB")
    both = group.case("resident memory, 10,000 names and 1,000 values of 1 kB", "MiB")
    for case in (empty, values, names, both):
        case.versus = WORKER
    for _ in range(1 if quick else 3):
        with contextlib.ExitStack() as stack:
            vault = stack.enter_context(VaultProcess())
            below = stack.enter_context(peers.folder())
            with peers.ours(vault, below / "a", *peers.LONG) as mount:
                _memory(empty, mount)
            made = vault.made_up(1000, size=1024, updated=1_700_000_000)
            with peers.ours(vault, below / "b", *peers.LONG) as mount:
                for name in made:
                    (mount / name).read_bytes()
                _memory(values, mount)
            vault.clear_secrets()
            made = vault.made_up(10_000, size=1024, updated=1_700_000_000)
            with peers.ours(vault, below / "c", *peers.LONG) as mount:
                list(mount.where.iterdir())
                _memory(names, mount)
                for name in made[:1000]:
                    (mount / name).read_bytes()
                _memory(both, mount)
    group.at_most("keeper resident, empty", empty.median(KEEPER), 16, "MiB")
    group.at_most("worker resident, empty", empty.median(WORKER), 56, "MiB")
    grown = both.median(WORKER) - empty.median(WORKER)
    group.at_most("worker, 10,000 names and 1,000 values: above the empty mount's", grown, 64, "MiB")


def _many(group: Group) -> None:
    """Proportional memory of several mounts on one machine."""
    case = group.case(f"{_MOUNTS} mounts on one machine, a value read of each: proportional memory", "MiB")
    case.versus = WORKER
    with contextlib.ExitStack() as stack:
        vault = stack.enter_context(VaultProcess())
        name = vault.made_up(1, size=32)[0]
        below = stack.enter_context(peers.folder())
        mounts = [
            stack.enter_context(peers.ours(vault, below / f"kv{number}", *peers.LONG))
            for number in range(_MOUNTS)
        ]
        for mount in mounts:
            (mount / name).read_bytes()
        time.sleep(1)
        for mount in mounts:
            case.add(KEEPER, processes.own_mib(mount.process.pid))
            case.add(WORKER, processes.own_mib(mount.worker()))
    group.at_most(
        f"{_MOUNTS} mounts: proportional memory of each",
        case.median(KEEPER) + case.median(WORKER),
        28,
        "MiB",
        why="most of it is Python objects of the libraries, which each worker makes for itself",
    )


def _start(vault: VaultProcess, where: Path) -> tuple[float, float]:
    """Milliseconds from the command to the first answer, and to the first value."""
    where.mkdir(exist_ok=True)
    command = [word for word in Mount(vault, where, peers.LONG).command() if word != "-f"]
    begin = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment(), timeout=60)
    try:
        if done.returncode:
            raise RuntimeError(done.stderr.strip()[-300:])
        os.stat(where)  # noqa: PTH116 - no pathlib in what is measured
        answered = time.perf_counter()
        read_file(f"{where}/first0")
        return (answered - begin) * 1e3, (time.perf_counter() - begin) * 1e3
    finally:
        subprocess.run(["umount", str(where)], check=False, capture_output=True)
        if mounts_below(where):
            subprocess.run(["umount", "--lazy", str(where)], check=False, capture_output=True)


def _peer(command: list[str], where: Path, what: str) -> float:
    """Milliseconds from a peer's command to the first answer."""
    begin = time.perf_counter()
    with peers.mounted(command, where, what):
        os.stat(where)  # noqa: PTH116
        return (time.perf_counter() - begin) * 1e3


def _imports() -> float:
    """Milliseconds that an interpreter takes which imports what the worker stands on, and does nothing."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import pyfuse3, trio"], check=True)
    return (time.perf_counter() - begin) * 1e3


def _starts(group: Group, quick: bool) -> None:
    case = group.case("from `mount` to the first answer", "ms")
    values = group.case("from `mount` to the first value", "ms")
    with contextlib.ExitStack() as stack:
        vault = stack.enter_context(VaultProcess())
        vault.made_up(2, prefix="first", size=32)
        below = stack.enter_context(peers.folder())
        memory = stack.enter_context(peers.folder(peers.shared_memory()))
        others = peers.commands(below, memory, 10)
        for _ in range(4 if quick else 15):
            answered, read = _start(vault, below / "kv")
            case.add(OURS, answered)
            values.add(OURS, read)
            case.add(IMPORTS, _imports())
            for who, command in others.items():
                case.add(who, _peer(command, below / who.split()[0], who))
    group.at_most(
        "mount to first answer: of an interpreter that imports pyfuse3 and trio",
        case.ratio(OURS, IMPORTS),
        1.5,
        why="the command, the keeper and the worker are an interpreter each, and only some of that goes on at once",
    )


class _Longest:
    """A reader that opens and reads without pause, and remembers what took longest and what failed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._stop = False
        self._thread = threading.Thread(target=self._run)
        self.longest = 0.0
        self.failed: list[str] = []

    def _run(self) -> None:
        while not self._stop:
            begin = time.perf_counter()
            try:
                read_file(self._path)
            except OSError as error:
                self.failed.append(str(error))
            self.longest = max(self.longest, time.perf_counter() - begin)
            time.sleep(0.001)

    def __enter__(self) -> _Longest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join()


def _takeovers(group: Group, quick: bool) -> None:
    case = group.case("take-over after SIGKILL: the longest read of a reader", "ms")
    failed = 0
    with contextlib.ExitStack() as stack:
        vault = stack.enter_context(VaultProcess())
        name = vault.made_up(1000, size=32, updated=1_700_000_000)[0]
        below = stack.enter_context(peers.folder())
        mount = stack.enter_context(peers.ours(vault, below / "kv", *peers.LONG))
        for _ in range(3 if quick else 11):
            with _Longest(str(mount / name)) as reader:
                time.sleep(1.5)  # the worker's heartbeat has been heard
                reader.longest = 0.0
                os.kill(mount.worker(), signal.SIGKILL)
                time.sleep(1.5)
            case.add(OURS, reader.longest * 1e3)
            case.add(IMPORTS, _imports())
            failed += len(reader.failed)
        case.say(OURS, "reads that failed", failed)
    group.at_most(
        "take-over: the longest read, of an interpreter that imports pyfuse3 and trio",
        case.ratio(OURS, IMPORTS),
        1.2,
        why="a successor imports more than these two, and takes table and values over before it answers",
    )
    group.at_most("take-over: reads that failed", failed, 0, "reads")


def run(quick: bool) -> Group:
    """Measure."""
    group = Group("size", "Size", ABOUT)
    # As a package's installation does: keeper and worker write no compiled code, and would compile at each start.
    compileall.compile_dir(Path(keyvaultfs.__file__).parent, quiet=1)
    _sizes(group, quick)
    _many(group)
    _starts(group, quick)
    _takeovers(group, quick)
    group.plot = bars(
        "Size",
        [(case.title, case.unit, {who: case.median(who) for who in case.samples}) for case in group.cases],
    )
    return group
