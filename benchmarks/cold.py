"""Group 2: the first read of a secret, which nobody knows yet."""

from __future__ import annotations

import contextlib
import random
import sys
from typing import TYPE_CHECKING, Any

from benchmarks import peers
from benchmarks.installed import program
from benchmarks.markdown import number
from benchmarks.model import OURS, Case, Group
from benchmarks.reader import Reader
from benchmarks.svg import bars
from tests.support.vault import VaultProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

CURLS = "the tutorial's two curls"
CAT = f"{OURS}, cat as a process"
FIRST = f"{OURS}, the first read after mounting"
WARM_SDK = "SDK client, warm"
FRESH = "SDK client, fresh process"
PLAIN = "one GET with requests, connection kept"
BEYOND = "{}: beyond what the vault took"
LATENCIES = (0, 20, 50)
TRIPS = (20, 50)
ABOUT = """
Each read is of a name that was never asked for before; the embedded vault waits so long before each answer as
the heading says (its token endpoint does not wait). keyvaultfs holds a connection and a token, as it does on a
machine where it has run for a minute; its first read after mounting, which needs both, has a row of its own.
The two `curl`s are those of Microsoft's tutorial (a token, then the secret) in one `sh`; the single GET is the
least that a client built on requests can do; the SDK's are `azure-identity` and `azure-keyvault-secrets`.
Latency is waited for once in each answer, whoever asks; a timer takes longer than it is set to, so overhead is
what a read takes beyond the time from the request's arrival to its answer in the vault's own log. Round trip is
distance (`relay.py`): who connects anew pays it for the connection and for TLS too, as on a network.
"""


def _measure(  # noqa: PLR0917 - all of them different
    vault: VaultProcess, case: Case, reader: Reader, jobs: dict[str, dict[str, Any]], rounds: int, trip: float
) -> int:
    """Each competitor in turn reads a name of its own; returns the most requests that one of our reads took.

    A round trip is of `trip` seconds.
    """
    names = vault.made_up(1000, size=32, updated=1_700_000_000)
    random.Random(12).shuffle(names)  # in directory order it would be `ls -l`, which has a group of its own
    fresh: Iterator[str] = iter(names)
    for job in jobs.values():
        reader.times({**job, "names": [next(fresh)]})
    most = 0
    for _ in range(rounds):
        for who, job in jobs.items():
            vault.reset_requests()
            took = reader.times({**job, "names": [next(fresh)]})[0]
            case.add(who, took * 1e3)
            requests = vault.requests()
            asked = len(requests)
            if who in {OURS, PLAIN}:
                there = sum(entry["end"] - entry["time"] for entry in requests)
                case.add(BEYOND.format(who), (took - there - trip * asked) * 1e3)
            most = max(most, asked) if who in {OURS, CAT} else most
            case.say(who, "requests of the last", asked)
    return most


def _at(group: Group, latency: int, trip: int, quick: bool) -> int:
    """A case of its own vault; returns the most requests that one of our reads took."""
    title = f"{trip} ms of round trip" if trip else f"{latency} ms latency"
    case = group.case(f"first read, {title}", "ms")
    with contextlib.ExitStack() as stack:
        near = stack.enter_context(VaultProcess(latency=latency / 1e3))
        vault = stack.enter_context(peers.far_away(near, trip / 1e3)) if trip else near
        below = stack.enter_context(peers.folder())
        reader = stack.enter_context(Reader())
        first = vault.made_up(1, prefix="first", size=32, updated=1_700_000_000)[0]
        for _ in range(2 if quick else 7):
            with peers.ours(vault, below / "once", *peers.LONG) as mount:
                job = {"do": "read", "folder": f"{mount.where}/", "names": [first]}
                case.add(FIRST, reader.times(job)[0] * 1e3)
        mount = stack.enter_context(peers.ours(vault, below / "kv", *peers.LONG))
        jobs: dict[str, dict[str, Any]] = {
            OURS: {"do": "read", "folder": f"{mount.where}/"},
            CAT: {"do": "spawn", "argv": ["cat", f"{mount.where}/{{}}"]},
        }
        jobs[PLAIN] = {"do": "get", "url": vault.url, "ca_file": vault.ca_file, "token": peers.token(vault)}
        if program("curl"):
            jobs[CURLS] = {"do": "spawn", "argv": peers.tutorial(vault)}
        environment = peers.sdk_environment(vault)
        jobs[WARM_SDK] = {"do": "sdk", "url": vault.url, "env": environment}
        argv = [sys.executable, "-m", "benchmarks.sdk_read", vault.url, "{}"]
        jobs[FRESH] = {"do": "spawn", "argv": argv, "env": environment}
        return _measure(vault, case, reader, jobs, 4 if quick else 31, trip / 1e3)


def run(quick: bool) -> Group:
    """Measure."""
    group = Group("cold", "Cold file", ABOUT)
    most = [_at(group, latency, 0, quick) for latency in LATENCIES]
    most += [_at(group, 0, trip, quick) for trip in TRIPS]
    group.at_most("cold read: most requests that one took", max(most), 1, "requests")
    waits = [(f"{latency} ms latency", latency) for latency in LATENCIES]
    waits += [(f"{trip} ms of round trip", trip) for trip in TRIPS]
    for case, (said, wait) in zip(group.cases, waits, strict=True):
        _goals(group, case, said, wait)
    group.plot = bars(
        "Cold file",
        [(case.title, "ms", {who: case.median(who) for who in case.samples}) for case in group.cases],
    )
    return group


def _goals(group: Group, case: Case, said: str, wait: int) -> None:
    plain = number(case.median(BEYOND.format(PLAIN)))
    group.at_most(
        f"cold read, {said}: overhead over it",
        case.median(BEYOND.format(OURS)),
        4,
        "ms",
        why=f"a bare GET with requests already takes {plain} ms more than that",
    )
    group.at_most(
        f"cold read, {said}: of a bare GET on a kept connection, beyond it",
        case.ratio(BEYOND.format(OURS), BEYOND.format(PLAIN)),
        1.3,
        why="a look-up, an open, a read and a release go through the kernel to another process and back",
    )
    if case.has(CURLS):
        beside = number(case.median(CURLS) - wait)
        group.at_least(
            f"cold cat, {said}: faster than the tutorial's two curls",
            case.ratio(CURLS, CAT),
            2,
            why=f"the two curls need {beside} ms beside that latency, which both wait for once",
        )
    group.at_least(
        f"cold cat, {said}: faster than a fresh SDK process",
        case.ratio(FRESH, CAT),
        20,
        why=f"it needs {number(case.median(FRESH))} ms in all, and 20 times the wait alone is {20 * wait} ms",
    )
