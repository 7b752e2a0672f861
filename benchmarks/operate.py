"""Group 8: what running it costs: the audit log, who reads what, metrics, a check."""

from __future__ import annotations

import contextlib
import subprocess
import time
from typing import TYPE_CHECKING, Any

from benchmarks import peers, processes
from benchmarks.against import one_group
from benchmarks.model import OURS, Group
from benchmarks.reader import Reader
from benchmarks.svg import bars
from benchmarks.warm import measure
from tests.support.mount import KEYVAULTFS, environment
from tests.support.vault import VaultProcess

if TYPE_CHECKING:
    from pathlib import Path

AUDITED = f"{OURS}, audit=FILE"
_NAMES = 10_000
_BASE = "an interpreter that imports the command line and ends"
ABOUT = """
A warm `open` + `read` + `close` by one reader, of a mount without and of one with `audit=FILE`, whose records go to a
file on the same disk; by turns, each long enough for that file's writer to come to it many times. Reader, workers and
writer are on one processor: on several, where the scheduler puts them outweighs a record, and who writes costs nothing.
Then one process has read each of 10,000 secrets, and still runs: `keyvaultfs readers` and `keyvaultfs metrics` are
timed as programs, and so is `keyvaultfs check`, against an embedded vault on loopback, so that what is left is its own
time. Each starts an interpreter, whose time is the last row.
"""


def _timed(*words: str) -> float:
    """Seconds of a command; its failure ends the benchmark."""
    begin = time.perf_counter()
    done = subprocess.run(
        [*KEYVAULTFS, *words], check=False, capture_output=True, text=True, env=environment(), timeout=60
    )
    took = time.perf_counter() - begin
    if done.returncode:
        raise RuntimeError(f"{words[0]}: exit status {done.returncode}: {done.stderr[-300:]}")
    return took


def _audited(group: Group, below: Path, rounds: int, seconds: float) -> None:
    with contextlib.ExitStack() as stack:
        vault = stack.enter_context(VaultProcess())
        name = vault.made_up(1, size=16)[0]
        plain = stack.enter_context(peers.ours(vault, below / "plain", *peers.LONG))
        audit = f"audit={below / 'audit.jsonl'}"
        audited = stack.enter_context(peers.ours(vault, below / "audited", audit, *peers.LONG))
        jobs: dict[str, dict[str, Any]] = {
            who: {"do": "read", "name": str(mount / name)}
            for who, mount in ((OURS, plain), (AUDITED, audited))
        }
        case = group.case("open+read+close, with a record of each open and without, all on one processor")
        reader = stack.enter_context(Reader())
        servers = [pid for mount in (plain, audited) for pid in processes.with_siblings(mount.worker())]
        with one_group(), processes.on_one_processor((reader.pid, *servers)):
            measure(case, jobs, [reader], rounds, seconds)
    group.at_most("warm open+read+close with audit=FILE: of one without", case.ratio(AUDITED, OURS), 1.3)


def _commands(group: Group, below: Path, rounds: int) -> None:
    case = group.case(f"commands beside {_NAMES:,} names that one process reads", "ms")
    with contextlib.ExitStack() as stack:
        vault = stack.enter_context(VaultProcess())
        names = vault.made_up(_NAMES, size=16, updated=1_700_000_000)
        mount = stack.enter_context(peers.ours(vault, below / "many", *peers.LONG))
        list(mount.where.iterdir())
        reader = stack.enter_context(Reader())
        reader.times({"do": "read", "folder": f"{mount.where}/", "names": names})
        where = str(mount.where)
        check = ("check", vault.url, "-o", vault.mount_options())
        for _ in range(rounds):
            case.add("readers", _timed("readers", where) * 1e3)
            case.add("metrics", _timed("metrics", where) * 1e3)
            case.add("check", _timed(*check) * 1e3)
            case.add(_BASE, _timed("--version") * 1e3)
    case.versus = _BASE
    for command in ("readers", "metrics"):
        group.at_most(f"{command} of {_NAMES:,} names", case.median(command) / 1e3, 1, "s")
    group.at_most("check of a healthy vault on loopback", case.median("check") / 1e3, 2, "s")


def run(quick: bool) -> Group:
    """Measure."""
    group = Group("operate", "Running it", ABOUT)
    with peers.folder() as below:
        _audited(group, below, *((6, 0.02) if quick else (61, 0.2)))
        _commands(group, below, 2 if quick else 7)
    panels = [
        (case.title, case.unit, {who: case.median(who) for who in case.samples}) for case in group.cases
    ]
    group.plot = bars(group.title, panels)
    return group
