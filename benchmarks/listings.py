"""Group 3: listings of 10 to 10,000 secrets."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import requests

from benchmarks import peers, processes
from benchmarks.markdown import number
from benchmarks.model import OURS, Group
from benchmarks.reader import Reader
from benchmarks.svg import lines
from tests.support.vault import VaultProcess

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.model import Case

SIZES = (10, 100, 1000, 10_000)
COMMANDS = {
    "ls": ["ls"],
    "ls -l": ["ls", "-l"],
    "ls --color": ["ls", "--color=always"],
    "find": ["find"],
}
COLD = f"{OURS}, cold"
ON_ONE = f"{OURS}, all on one processor"
ONE_BY_ONE = "one GET after another"
_LATENCY_MS = 20
WHY_LS = (
    "compare the pyfuse3 floor with bindfs: pyfuse3 has READDIRPLUS alone, for which the kernel makes a dentry and an "
    "inode of each name, and it cannot let the kernel keep a listing (FOPEN_CACHE_DIR)"
)
WHY_GROWTH = (
    "each name of a long listing is a LOOKUP or its share of a READDIRPLUS, and each of these the waking of the other "
    "processor or of none, as the scheduler places the two: compare it on one processor"
)
ABOUT = """
`ls`, `ls -l`, `ls --color=always` and `find`, each as a process with its output thrown away. Cold is the first
command on a fresh mount, the vault at 0 ms of latency unless the heading says otherwise; warm is any later one.
The peers show the same names: bindfs and rclone from tmpfs, the pyfuse3 floor from constants. Beside the time
stand the requests to the vault that the command caused, as the vault counted them.
"""


@dataclass(frozen=True)
class _Stage:
    """Where a command is measured."""

    vault: VaultProcess
    below: Path
    reader: Reader


def _job(command: list[str], where: Path) -> dict[str, Any]:
    return {"do": "spawn", "argv": [*command, str(where)], "count": 1}


def _asked(vault: VaultProcess) -> str:
    found = vault.requests(kind="vault")
    gets = sum(1 for entry in found if entry["op"] == "get")
    return f"{len(found)} ({gets} of values)"


def _cold(stage: _Stage, case: Case, command: list[str], rounds: int) -> None:
    for _ in range(rounds):
        with peers.ours(stage.vault, stage.below / "cold", *peers.LONG) as mount:
            _settled(stage.vault)
            case.add(COLD, stage.reader.each(_job(command, mount.where)) * 1e3)
            case.say(COLD, "requests", _asked(stage.vault))


def _settled(vault: VaultProcess) -> None:
    """Forget the requests of the mount's own probe, once they are done."""
    time.sleep(0.3)
    vault.reset_requests()


def _warm(stage: _Stage, folders: dict[str, Path], case: Case, command: list[str], rounds: int) -> None:
    for where in folders.values():
        stage.reader.each(_job(command, where))
    _settled(stage.vault)
    order = list(folders)
    for done in range(rounds):
        turn = done % len(order)
        for who in order[turn:] + order[:turn]:
            case.add(who, stage.reader.each(_job(command, folders[who])) * 1e3)
    case.say(OURS, "requests", _asked(stage.vault))


def _skipped(size: int, name: str, quick: bool) -> bool:
    """10,000 values one after another are nothing for a quick look."""
    return quick and size == SIZES[-1] and name != "ls"


def _size(size: int, quick: bool, cases: dict[str, Case]) -> None:
    """All commands on one vault of `size` secrets."""
    with contextlib.ExitStack() as stack:
        vault = stack.enter_context(VaultProcess())
        names = vault.made_up(size, size=8, updated=1_700_000_000)
        below = stack.enter_context(peers.folder())
        reader = stack.enter_context(Reader())
        stage = _Stage(vault, below, reader)
        shown = {name: command for name, command in COMMANDS.items() if not _skipped(size, name, quick)}
        rounds = 1 if quick and size >= 1000 else 2 if quick else 3 if size >= 1000 else 7
        for name, command in shown.items():
            _cold(stage, cases[name], command, rounds)
        mount = stack.enter_context(peers.ours(vault, below / "kv", *peers.LONG))
        found = {**stack.enter_context(peers.file_systems(below, names)), OURS: mount.where}
        folders = {who: found[who] for who in peers.FILES if who in found}
        for name, command in shown.items():
            _warm(stage, folders, cases[name], command, 5 if quick else 15)
        pids, processors = (reader.pid, mount.worker()), os.sched_getaffinity(0)
        for pid in pids:
            processes.pin(pid, {min(processors)})
        for name, command in shown.items():
            for _ in range(5 if quick else 15):
                cases[name].add(ON_ONE, reader.each(_job(command, mount.where)) * 1e3)
        for pid in pids:
            processes.pin(pid, processors)
    for case in cases.values():
        if COLD in case.samples:  # below the warm ones
            case.samples[COLD] = case.samples.pop(COLD)


def _one_by_one(group: Group, quick: bool, work: float) -> None:
    """Cold `ls -l` at 20 ms, against one GET after another on one connection.

    Args:
        work: milliseconds of a cold `ls -l` of 1,000 without latency.
    """
    size = 250 if quick else 1000
    case = group.case(f"ls -l of {size:,}, {_LATENCY_MS} ms latency", "ms")
    with contextlib.ExitStack() as stack:
        vault = stack.enter_context(VaultProcess(latency=_LATENCY_MS / 1e3))
        names = vault.made_up(size, size=8, updated=1_700_000_000)
        below = stack.enter_context(peers.folder())
        reader = stack.enter_context(Reader())
        for _ in range(1 if quick else 3):
            with peers.ours(vault, below / "kv", *peers.LONG) as mount:
                _settled(vault)
                case.add(COLD, reader.each(_job(COMMANDS["ls -l"], mount.where)) * 1e3)
                case.say(COLD, "requests", _asked(vault))
                _settled(vault)
                case.add(OURS, reader.each(_job(COMMANDS["ls -l"], mount.where)) * 1e3)
                case.say(OURS, "requests", _asked(vault))
                warm = len(vault.requests())
            case.add(ONE_BY_ONE, _gets(vault, names))
            case.say(ONE_BY_ONE, "requests", _asked(vault))
    group.at_most(
        f"cold ls -l of {size:,}, {_LATENCY_MS} ms: of one GET after another",
        case.ratio(COLD, ONE_BY_ONE),
        1 / 8,
        why=f"without any latency 1,000 take {number(work)} ms here: the processor's work at both ends",
    )
    group.at_most(f"warm ls -l of {size:,}: requests", warm, 0, "requests")


def _gets(vault: VaultProcess, names: list[str]) -> float:
    """Milliseconds for all the values, on one connection that is kept alive."""
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {peers.token(vault)}"
        session.verify = vault.ca_file
        vault.reset_requests()
        begin = time.perf_counter()
        for name in names:
            session.get(f"{vault.url}/secrets/{name}?api-version=7.4", timeout=10).raise_for_status()
        return (time.perf_counter() - begin) * 1e3


def run(quick: bool) -> Group:
    """Measure."""
    group = Group("listings", "Listings", ABOUT)
    by_size = {
        size: {name: group.case(f"{name}, {size:,} secrets", "ms") for name in COMMANDS} for size in SIZES
    }
    for size in SIZES:
        _size(size, quick, by_size[size])
    most = by_size[SIZES[-1]]["ls"]
    if most.has(peers.BINDFS):
        group.at_most("ls of 10,000 warm names: of bindfs", most.ratio(OURS, peers.BINDFS), 3, why=WHY_LS)
    for name in ("ls", "ls -l"):
        many, few = by_size[SIZES[-1]][name], by_size[SIZES[1]][name]
        for who, said in ((OURS, "warm"), (ON_ONE, "warm and on one processor"), (COLD, "cold")):
            if many.has(who):
                text = f"{name} {said}, 10,000 secrets: of the time of 100"
                group.at_most(text, many.median(who) / few.median(who), 110, why=WHY_GROWTH)
    if quick:
        group.notes.append("Left out with `QUICK=1`: `ls -l`, `ls --color` and `find` of 10,000.")
    _one_by_one(group, quick, by_size[1000]["ls -l"].median(COLD))
    group.plot = lines("Listings", "secrets", "ms", _series(by_size))
    return group


def _series(by_size: dict[int, dict[str, Case]]) -> dict[str, list[tuple[float, float]]]:
    """What the plot shows."""
    series: dict[str, list[tuple[float, float]]] = {}
    for size, cases in by_size.items():
        for name in ("ls", "ls -l"):
            for who in (OURS, COLD, peers.BINDFS, peers.RCLONE):
                if cases[name].has(who):
                    said = f"{OURS}, warm" if who == OURS else who
                    series.setdefault(f"{name}: {said}", []).append((float(size), cases[name].median(who)))
    return series
