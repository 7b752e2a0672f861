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
LATENCIES = (0, 20, 50)
ABOUT = """
Each read is of a name that was never asked for before; the embedded vault waits so long before each answer as
the heading says (its token endpoint does not wait). keyvaultfs holds a connection and a token, as it does on a
machine where it has run for a minute; its first read after mounting, which needs both, has a row of its own.
The two `curl`s are those of Microsoft's tutorial (a token, then the secret) in one `sh`; the single GET is the
least that a client built on requests can do; the SDK's are `azure-identity` and `azure-keyvault-secrets`.
"""


def _measure(
    vault: VaultProcess, case: Case, reader: Reader, jobs: dict[str, dict[str, Any]], rounds: int
) -> int:
    """Each competitor in turn reads a name of its own; returns the most requests that one of our reads took."""
    names = vault.made_up(1000, size=32, updated=1_700_000_000)
    random.Random(12).shuffle(names)  # in directory order it would be `ls -l`, which has a group of its own
    fresh: Iterator[str] = iter(names)
    for job in jobs.values():
        reader.times({**job, "names": [next(fresh)]})
    most = 0
    for _ in range(rounds):
        for who, job in jobs.items():
            vault.reset_requests()
            case.add(who, reader.times({**job, "names": [next(fresh)]})[0] * 1e3)
            asked = len(vault.requests())
            most = max(most, asked) if who in {OURS, CAT} else most
            case.say(who, "requests of the last", asked)
    return most


def run(quick: bool) -> Group:
    """Measure."""
    group = Group("cold", "Cold file", ABOUT)
    rounds = 6 if quick else 31
    most = 0
    for latency in LATENCIES:
        case = group.case(f"first read, {latency} ms latency", "ms")
        with contextlib.ExitStack() as stack:
            vault = stack.enter_context(VaultProcess(latency=latency / 1e3))
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
            jobs[PLAIN] = {
                "do": "get",
                "url": vault.url,
                "ca_file": vault.ca_file,
                "token": peers.token(vault),
            }
            if program("curl"):
                jobs[CURLS] = {"do": "spawn", "argv": peers.tutorial(vault)}
            environment = peers.sdk_environment(vault)
            jobs[WARM_SDK] = {"do": "sdk", "url": vault.url, "env": environment}
            argv = [sys.executable, "-m", "benchmarks.sdk_read", vault.url, "{}"]
            jobs[FRESH] = {"do": "spawn", "argv": argv, "env": environment}
            most = max(most, _measure(vault, case, reader, jobs, rounds))
    _goals(group, most)
    group.plot = bars(
        "Cold file",
        [(case.title, "ms", {who: case.median(who) for who in case.samples}) for case in group.cases],
    )
    return group


def _goals(group: Group, most: int) -> None:
    group.at_most("cold read: most requests that one took", most, 1, "requests")
    for latency, case in zip(LATENCIES, group.cases, strict=True):
        over = case.median(OURS) - latency
        plain = case.median(PLAIN) - latency
        why = f"a bare GET with requests already takes {number(plain)} ms more than the latency here"
        group.at_most(f"cold read, {latency} ms: overhead over the server's latency", over, 4, "ms", why=why)
    for latency, case in zip(LATENCIES, group.cases, strict=True):
        if case.has(CURLS):
            text = f"cold cat, {latency} ms: faster than the tutorial's two curls"
            why = f"the two curls need only {number(case.median(CURLS) - latency)} ms beside that latency, which all wait for"
            group.at_least(text, case.ratio(CURLS, CAT), 2, why=why)
        text = f"cold cat, {latency} ms: faster than a fresh SDK process"
        group.at_least(
            text,
            case.ratio(FRESH, CAT),
            20,
            why="both wait for the vault's own latency, the SDK twice (it asks for the challenge first): "
            "the more the vault makes everybody wait, the less can be won",
        )
