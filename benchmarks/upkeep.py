"""Group 5: what it costs while nothing happens."""

from __future__ import annotations

import contextlib
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import requests

from benchmarks import peers, processes, rotations
from benchmarks.model import OURS, Group
from benchmarks.svg import bars
from tests.support.vault import VaultProcess

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.mount import Mount

DEFAULT_TTL = 300.0
POLL_SECONDS = 120.0
POLLING = "polling each value"
_SIZES = (100, 1000)
_LATENCY_MS = 20
_CHANGES = 3
ABOUT = """
Values in use were first read at different times, spread over one `ttl`, and are opened again four times in
each. An hour at the default `ttl` of 300 s is too long for a benchmark, so a shorter `ttl` (in the table) is
measured for some of its lengths, after the first, and the requests are scaled to it; while it is measured,
three secrets are rotated in the vault. Polling each value is what the Secrets Store CSI driver does, each 120 s
when rotation is on: one round is made, and the vault's count is scaled. Processor time is of keeper and worker
together, with nobody reading, at the default `ttl`. The vault waits 20 ms before each answer.

A rotation is found by the look-up of a reader after a refresh, and is timed from the vault's having that request, on
loopback and without latency, to the event at a watch on the folder: with the vault's answer. The processor time is of
keeper, worker and the child that renames, with that look-up and fetch; the vault's own is not in it.
"""


@dataclass(frozen=True)
class Window:
    """What a time of use cost."""

    pages: int
    gets: int
    ttls: float
    pages_per_ttl: float

    @property
    def hourly(self) -> float:
        """Requests in an hour at the default time-to-live."""
        return (self.pages + self.gets) / self.ttls * 3600 / DEFAULT_TTL


def _use(where: Path, names: list[str], seconds: float, interval: float) -> None:
    """Open and read all of them each `interval`, for so long."""
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        for name in names:
            (where / name).read_bytes()
        time.sleep(max(0.0, min(now + interval, end) - time.monotonic()))


def _first(where: Path, names: list[str], seconds: float) -> None:
    """Read all for the first time, spread over so long, as the programs of a machine do."""
    slices = 16

    def part(number: int) -> None:
        mine = names[number::slices]
        begin = time.monotonic()
        for index, name in enumerate(mine):
            time.sleep(max(0.0, begin + seconds * index / len(mine) - time.monotonic()))
            (where / name).read_bytes()

    with ThreadPoolExecutor(slices) as pool:
        list(pool.map(part, range(slices)))


def pages_per_ttl(pages: list[tuple[float, bool]], ttl: float) -> float:
    """How many are listed in each `ttl`, from the begin of the first listing to that of the last.

    A window of a few `ttl` may hold one listing more than it has times `ttl`, which says nothing.

    Args:
        pages: of each when it was asked for, in seconds, and whether it continues a listing.
    """
    begins = [at for at, continues in pages if not continues]
    between = [at for at, _ in pages if begins[0] <= at < begins[-1]]
    return len(between) / (begins[-1] - begins[0]) * ttl


def _in_use(size: int, ttl: float, ttls: int) -> Window:
    with contextlib.ExitStack() as stack:
        vault = stack.enter_context(VaultProcess(latency=_LATENCY_MS / 1e3))
        names = vault.made_up(size, size=32, updated=1_700_000_000)
        below = stack.enter_context(peers.folder())
        mount = stack.enter_context(peers.ours(vault, below / "kv", f"ttl={ttl}", f"list_ttl={ttl}"))
        _first(mount.where, names, ttl)
        _use(mount.where, names, 1.5 * ttl, ttl / 4)
        vault.reset_requests()
        begin = time.monotonic()
        _use(mount.where, names, ttl * 0.4, ttl / 4)
        for name in names[:_CHANGES]:
            vault.rotate(name, "another", updated=int(time.time()) - 60)
        _use(mount.where, names, ttl * (ttls - 0.4), ttl / 4)
        took = time.monotonic() - begin
        found = vault.requests(kind="vault")
        pages = [(entry["time"], entry["page"]) for entry in found if entry["op"] == "list"]
        return Window(len(pages), len(found) - len(pages), took / ttl, pages_per_ttl(pages, ttl))


def _polled(size: int) -> float:
    """Requests in an hour, when each value is asked for each 120 s: a round, as the vault counts it, scaled."""
    with VaultProcess() as vault, requests.Session() as session:
        names = vault.made_up(size, size=32)
        session.trust_env = False
        token = peers.token(vault)
        vault.reset_requests()
        for name in names:
            session.get(
                f"{vault.url}/secrets/{name}?api-version=7.4",
                headers={"Authorization": f"Bearer {token}"},
                verify=vault.ca_file,
                timeout=10,
            ).raise_for_status()
        return len(vault.requests(kind="vault")) * 3600 / POLL_SECONDS


def _idle(mount: Mount, seconds: float) -> float:
    """Processor seconds in an hour."""
    pids = (mount.process.pid, mount.worker())
    time.sleep(1)
    before = sum(processes.cpu_seconds(pid) for pid in pids)
    begin = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - begin
    return (sum(processes.cpu_seconds(pid) for pid in pids) - before) * 3600 / took


def _rotations(group: Group, quick: bool) -> None:
    count = 100 if quick else 1000
    event = group.case("a rotation: from the request that finds it to the event", "ms")
    cost = group.case("1,000 rotations: keeper, worker and the child that renames", "CPU s")
    with contextlib.ExitStack() as stack:
        vault = stack.enter_context(VaultProcess())
        vault.set("pw", "first")
        below = stack.enter_context(peers.folder())
        mount = stack.enter_context(peers.ours(vault, below / "kv"))
        for _ in rotations.rotate(vault, mount, "pw", 5):  # the child is started by the first
            pass
        before = rotations.cpu_seconds(mount)
        for seconds in rotations.rotate(vault, mount, "pw", count):
            event.add(OURS, seconds * 1e3)
        cost.add(OURS, (rotations.cpu_seconds(mount) - before) * 1000 / count)
        cost.say(OURS, "measured", f"{count:,} rotations")


def run(quick: bool) -> Group:
    """Measure."""
    group = Group("upkeep", "Upkeep", ABOUT)
    ttl, ttls = (6.0, 2) if quick else (30.0, 5)
    with ThreadPoolExecutor(len(_SIZES)) as pool:  # each has a vault and a mount of its own, and little to do
        windows = list(pool.map(lambda size: _in_use(size, ttl, ttls), _SIZES))
    for size, window in zip(_SIZES, windows, strict=True):
        case = group.case(f"{size:,} values in use, at the default ttl", "requests/hour")
        case.add(OURS, window.hourly)
        case.say(
            OURS,
            "measured",
            f"{window.pages} pages and {window.gets} gets in {window.ttls:.1f} x {ttl:.0f} s",
        )
        case.add(POLLING, _polled(size))
        case.say(POLLING, "measured", f"one round of {size:,}")
        least = math.ceil(size / 25)
        group.at_most(
            f"{size:,} values in use: pages listed in each ttl, of the least possible",
            window.pages_per_ttl / least,
            1.1,
        )
        text = f"{size:,} values in use: gets for each real change"
        group.at_most(text, window.gets / _CHANGES, 1, "gets")
    case = group.case("idle: keeper and worker, 1,000 values cached", "CPU s/hour")
    with contextlib.ExitStack() as stack:
        vault = stack.enter_context(VaultProcess())
        names = vault.made_up(1000, size=32, updated=1_700_000_000)
        below = stack.enter_context(peers.folder())
        mount = stack.enter_context(peers.ours(vault, below / "kv"))
        for name in names:
            (mount / name).read_bytes()
        for _ in range(1 if quick else 3):
            case.add(OURS, _idle(mount, 8 if quick else 20))
    _rotations(group, quick)
    group.plot = bars(
        "Upkeep",
        [(case.title, case.unit, {who: case.median(who) for who in case.samples}) for case in group.cases],
    )
    return group
