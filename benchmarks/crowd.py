"""Group 4: 256 readers at once."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import peers, readers
from benchmarks.model import OURS, Group
from benchmarks.svg import bars
from tests.support.vault import VaultProcess

if TYPE_CHECKING:
    from benchmarks.model import Case

    Failures = dict[tuple[str, str, str], list[int]]
    """by case, competitor and reason: readers that failed, round by round"""

READERS = 256
SECRETS = 1000
COLD = f"{OURS}, cold"
_LATENCY_MS = 20
ABOUT = """
256 processes read secrets that they choose at random among 1,000, all beginning at once. Cold is a fresh mount
and a vault of 20 ms latency, 8 reads for each process; warm is the same mount when every value is known, more
reads for each process. The time of a read is what its process saw; the most requests in flight are counted by
the vault.
"""


def _note(failures: Failures, case: Case, who: str, found: dict[str, Any]) -> None:
    """A round; one in which a reader failed gives no time, and is said so below the table."""
    if found["failed"]:
        failures.setdefault((case.title, who, found["why"]), []).append(found["failed"])
        return
    case.add(who, found["p50"])
    case.say(who, "p99 of the last", f"{found['p99']:,.2f} ms")
    case.say(who, "reads a second, of the last", f"{found['rate']:,.0f}")


def _said(failures: Failures) -> list[str]:
    """A line for each way to fail."""
    return [
        f"{title}: {who}: {READERS} readers were too many in {len(rounds)} rounds, in which "
        f"{min(rounds)} to {max(rounds)} of them failed: {why}"
        for (title, who, why), rounds in failures.items()
    ]


def run(quick: bool) -> Group:
    """Measure."""
    group = Group("crowd", "Crowd", ABOUT)
    cold = group.case(f"{READERS} readers, cold: a read's time", "ms")
    warm = group.case(f"{READERS} readers, warm: a read's time", "ms")
    cold.versus = COLD
    failures: Failures = {}
    reads = 20 if quick else 200
    with contextlib.ExitStack() as stack:
        vault = stack.enter_context(VaultProcess(latency=_LATENCY_MS / 1e3))
        names = vault.made_up(SECRETS, size=4, updated=1_700_000_000)
        below = stack.enter_context(peers.folder())
        for _ in range(2 if quick else 7):
            with peers.ours(vault, below / "cold", *peers.LONG) as mount:
                vault.reset_requests()
                _note(failures, cold, COLD, readers.run(mount.where, names, READERS, 8))
                report = vault.report()
                gets = [
                    entry["name"]
                    for entry in report["requests"]
                    if entry["op"] == "get" and entry["had_token"]
                ]
                cold.say(COLD, "most in flight", report["max_in_flight"]["vault"])
                cold.say(COLD, "GETs", len(gets))
                cold.say(COLD, "of so many secrets", len(set(gets)))
        mount = stack.enter_context(peers.ours(vault, below / "kv", *peers.LONG))
        found = stack.enter_context(peers.file_systems(below, names))
        folders = {
            who: mount.where if who == OURS else found[who]
            for who in peers.FILES
            if who == OURS or who in found
        }
        for where in folders.values():
            with ThreadPoolExecutor(32) as pool:
                list(pool.map(Path.read_bytes, (where / name for name in names)))
        order = list(folders)
        for number in range(3 if quick else 11):
            turn = number % len(order)
            for who in order[turn:] + order[:turn]:
                _note(failures, warm, who, readers.run(folders[who], names, READERS, reads))
        warm.samples = {who: warm.samples[who] for who in order if warm.has(who)}
    group.notes += _said(failures)
    group.plot = bars(
        "Crowd of 256",
        [(case.title, "ms", {who: case.median(who) for who in case.samples}) for case in group.cases],
    )
    return group
