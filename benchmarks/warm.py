"""Group 1: a file whose value is known."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

from benchmarks import peers, processes
from benchmarks.installed import program
from benchmarks.model import OURS, Case, Group
from benchmarks.reader import Reader
from benchmarks.svg import bars
from tests.support.vault import VaultProcess

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.mount import Mount

AGENT = "HTTP agent, keep-alive"
AGENT_REQUESTS = "HTTP agent, keep-alive, requests"
NGINX = "nginx, constant answer, keep-alive"
CURL = "HTTP agent, one-shot curl"
SDK = "SDK client, warm"
FRESH = "SDK client, fresh process"
ON_ONE = "open+read+close, 1 reader, all on one processor"
_NAME = "s000"
ABOUT = """
One secret that is cached, read again and again: `open` + `read` + `close`, `stat`, and `cat` as a process, by 1
and by 8 reader processes at once. tmpfs is the physical limit; the pyfuse3 floor (`floor.py`) answers with
constants by pyfuse3's own loop; ours may be below it, since it reads requests that are there already without a
round of the scheduler (`worker/pump.py`); the single process (`single.py`) runs our operations class, by that loop
too, without keeper or take-over; bindfs (FUSE in C) and rclone mount (FUSE in Go) show that tmpfs folder with
their defaults. The HTTP agent (`agent.py`) keeps the value in memory and is asked over loopback with Python's
`http.client`, with `requests`, and with one-shot `curl`; nginx with a constant answer is the floor of all HTTP
agents. Microsoft's client asks the embedded vault each time: it has no cache.
"""


def calibrated(reader: Reader, job: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The job with as many operations as take about so long."""
    reader.each({**job, "count": 3})
    each = reader.each({**job, "count": 3})
    return {**job, "count": max(1, min(5000, int(seconds / each)))}


def measure(
    case: Case, jobs: dict[str, dict[str, Any]], readers: list[Reader], rounds: int, seconds: float
) -> None:
    """All competitors in turn, in each round beginning with another."""
    for reader in readers[1:]:  # connections and imports of each reader are made before
        for job in jobs.values():
            reader.each({**job, "count": 1})
    ready = {who: calibrated(readers[0], job, seconds / len(readers) ** 0.5) for who, job in jobs.items()}
    order = list(ready)
    for number in range(rounds):
        turn = number % len(order)
        for who in order[turn:] + order[:turn]:
            at = time.monotonic() + 0.002
            for reader in readers:
                reader.begin({**ready[who], "at": at})
            each = [reader.end()["each"] for reader in readers]
            case.add(who, sum(each) / len(each) * 1e6)
    case.samples = {who: case.samples[who] for who in order}


def _jobs(
    found: dict[str, Path], vault: VaultProcess, port: int, constant: int | None
) -> dict[str, dict[str, Any]]:
    jobs: dict[str, dict[str, Any]] = {
        who: {"do": "read", "name": str(found[who] / _NAME)} for who in peers.FILES if who in found
    }
    jobs[AGENT] = {"do": "http", "port": port, "name": _NAME}
    jobs[AGENT_REQUESTS] = {"do": "requests", "port": port, "name": _NAME}
    if constant is not None:
        jobs[NGINX] = {"do": "http", "port": constant, "name": _NAME}
    jobs[SDK] = {"do": "sdk", "url": vault.url, "env": peers.sdk_environment(vault), "name": _NAME}
    return jobs


def run(quick: bool) -> Group:
    """Measure."""
    group = Group("warm", "Warm file", ABOUT)
    rounds, seconds = (6, 0.02) if quick else (31, 0.06)
    with contextlib.ExitStack() as stack:
        vault = stack.enter_context(VaultProcess())
        names = vault.made_up(1000, size=4)
        below = stack.enter_context(peers.folder())
        mount = stack.enter_context(peers.ours(vault, below / "kv", *peers.LONG))
        found = stack.enter_context(peers.file_systems(below, names))
        found[OURS] = mount.where
        found[peers.SINGLE] = stack.enter_context(peers.single(vault, below / "single"))
        port = stack.enter_context(peers.agent(vault))
        constant = stack.enter_context(peers.nginx(below))
        readers = [stack.enter_context(Reader()) for _ in range(8)]
        jobs = _jobs(found, vault, port, constant)
        stats = {who: {**job, "do": "stat"} for who, job in jobs.items() if who in found}
        programs: dict[str, dict[str, Any]] = {
            who: {"do": "spawn", "argv": ["cat", job["name"]]} for who, job in jobs.items() if who in found
        }
        if program("curl"):
            argv = ["curl", "-sf", "--noproxy", "*", f"http://127.0.0.1:{port}/secrets/{_NAME}"]
            programs[CURL] = {"do": "spawn", "argv": argv}
        fresh = [sys.executable, "-m", "benchmarks.sdk_read", vault.url, _NAME]
        for count in (1, 8):
            some = readers[:count]
            said = f"{count} reader{'s' if count > 1 else ''}"
            measure(group.case(f"open+read+close, {said}"), jobs, some, rounds, seconds)
            measure(group.case(f"stat, {said}"), stats, some, rounds, seconds)
            measure(group.case(f"cat as a process, {said}"), programs, some, rounds, seconds)
        _on_one(group, mount, found, readers[0], (rounds, seconds))
        last = group.cases[2]
        job = {"do": "spawn", "argv": fresh, "env": peers.sdk_environment(vault), "count": 1}
        for _ in range(2 if quick else 7):
            last.add(FRESH, readers[0].each(job) * 1e6)
    _goals(group)
    group.plot = bars(
        "Warm file",
        [(case.title, "µs", {who: case.median(who) for who in case.samples}) for case in group.cases],
    )
    return group


def _on_one(
    group: Group, mount: Mount, found: dict[str, Path], reader: Reader, how: tuple[int, float]
) -> None:
    """Again with reader and servers on one processor: where the scheduler puts them is as much as the code."""
    pids = [
        reader.pid,
        mount.worker(),
        *(peers.serving[str(where)] for where in found.values() if str(where) in peers.serving),
    ]
    jobs = {who: {"do": "read", "name": str(found[who] / _NAME)} for who in peers.FILES if who in found}
    with processes.on_one_processor(pids):
        measure(group.case(ON_ONE), jobs, [reader], *how)


def _goals(group: Group) -> None:
    _goals_of(group, group.cases[0], "warm open+read+close")
    _goals_of(group, next(case for case in group.cases if case.title == ON_ONE), "the same on one processor")
    case, what = group.cases[0], "warm open+read+close"
    group.at_least(
        f"{what}: faster than the local HTTP agent by keep-alive",
        case.ratio(AGENT, OURS),
        5,
        why="this agent does the least that an agent can do, asked by Python's leanest client; asked with "
        "requests it is the row below, and nginx shows what HTTP costs in that client without any agent",
    )


def _goals_of(group: Group, case: Case, what: str) -> None:
    group.at_most(
        f"{what}: of the pyfuse3 floor",
        case.ratio(OURS, peers.FLOOR),
        1.25,
        why="each request has a deadline, and each open file is recorded for a successor: constants need neither",
    )
    group.at_most(
        f"{what}: of a single-process mount of the same operations class",
        case.ratio(OURS, peers.SINGLE),
        1.05,
        why="both run the same code; on several processors the scheduler places them differently, see one processor",
    )
    if case.has(peers.BINDFS):
        group.at_most(
            f"{what}: of bindfs",
            case.ratio(OURS, peers.BINDFS),
            0.8,
            why="open must reach us, since it checks ttl, and release does: two answers, in Python here and in C "
            "there, where the kernel runs bindfs and its reader by turns on one processor as well",
        )
    if case.has(peers.RCLONE):
        group.at_least(f"{what}: faster than rclone mount", case.ratio(peers.RCLONE, OURS), 2.5)
