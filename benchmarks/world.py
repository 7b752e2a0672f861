"""Group 9: what the world does to it: names that a user makes up, connections that a network forgets, many opens."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import peers, processes
from benchmarks.model import OURS, Group
from benchmarks.reader import read_file
from benchmarks.svg import bars
from tests.support.made_up_names import ATTACK
from tests.support.network import NETWORK, VAULT, NetworkMount
from tests.support.vault import VaultProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.mount import Mount

QUIET = "a cached value, quiet"
CACHED = "a cached value, meanwhile"
COLD = "another reader's cold name, meanwhile"
FIRST = "the first read after ttl"
_TTL = 5.0
_OPENS = 10_000
ABOUT = """
- Names that are made up: 64 threads of an ordinary user look up names that no secret has, without pause, while
  another reader reads a cached value and cold names; with a listing, which proves that they are not there, and where
  the identity has no right to list. The vault takes 20 ms for each answer; its own log tells how many of those names
  it was asked for. The user's threads take the processors as well, on which the mount and the other
  reader must live.
- Connections that are forgotten: the network drops all further packets of the idle connections, without a word to
  either end, as load balancers do; 100 values are then due at once, and the first of them is read.
- A secret of 25 kB is opened and read 10,000 times.
"""


def _took(path: Path) -> float:
    begin = time.perf_counter()
    read_file(str(path))
    return time.perf_counter() - begin


@contextlib.contextmanager
def _attacked(where: Path) -> Iterator[None]:
    """While 64 threads make names up."""
    with subprocess.Popen(
        [sys.executable, "-c", ATTACK, str(where)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as attack:
        assert attack.stdout is not None
        attack.stdout.readline()
        try:
            yield
        finally:
            attack.kill()


def _made_up(group: Group, seconds: float, *, listed: bool) -> None:
    said = "made-up names" if listed else "made-up names, no right to list"
    case = group.case(f"64 threads of {said}: a read", "ms")
    case.versus = QUIET
    with contextlib.ExitStack() as stack:
        vault = stack.enter_context(VaultProcess(latency=0.02))
        names = vault.made_up(2000, size=16, updated=1_700_000_000)
        random.Random(12).shuffle(names)  # in directory order they would be read ahead
        if not listed:
            vault.fault(op="list", deny="rbac")
        below = stack.enter_context(peers.folder())
        below.chmod(0o755)  # the user must get as far as the mount
        mount = stack.enter_context(peers.ours(vault, below / "kv", "mode=0444", *peers.LONG))
        if listed:
            list(mount.where.iterdir())
        with ThreadPoolExecutor(
            32
        ) as pool:  # connections and threads are there, as on a mount that is in use
            list(pool.map(_took, (mount / name for name in names[:100])))
        for _ in range(1000):
            case.add(QUIET, _took(mount / names[0]) * 1e3)
        before = processes.resident_mib(mount.worker())
        vault.reset_requests()
        cold = iter(names[100:])
        with _attacked(mount.where):
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                case.add(COLD, _took(mount / next(cold)) * 1e3)
                for _ in range(20):
                    case.add(CACHED, _took(mount / names[0]) * 1e3)
        grown = processes.resident_mib(mount.worker()) - before
        asked = [one["time"] for one in vault.requests("get") if one["name"].startswith("x")]
    if not listed and not asked:
        raise RuntimeError("no made-up name reached the vault: the user did not reach the mount")
    most = max((sum(at <= other < at + 1 for other in asked) for at in asked), default=0)
    group.at_most(f"{said}: asked for in any second", most, 60, "requests")
    group.at_most(f"{said}: another reader's cold name", case.median(COLD) / 1e3, 1, "s")
    group.at_most(
        f"{said}: a cached value, of quiet",
        case.median(CACHED) / case.median(QUIET),
        2,
        why="65 threads and the worker share the processors of this machine",
    )
    group.at_most(f"{said}: the worker's memory grows by", grown, 16, "MiB")


def _forgotten(group: Group, rounds: int) -> None:
    case = group.case("100 values due, after the network forgot the connections", "ms")
    case.versus = QUIET
    for _ in range(rounds):
        with contextlib.ExitStack() as stack:
            below = stack.enter_context(peers.folder())
            authority = below / "authority.pem"
            arguments = ("--host", VAULT, "--authority", str(authority), "--name", "vault.test")
            vault = stack.enter_context(VaultProcess(*arguments, network=NETWORK))
            names = [f"name-{number:03}" for number in range(100)]
            vault.bulk([{"name": name, "value": "old"} for name in names])
            mount = NetworkMount(vault, below, f"ttl={_TTL}", "timeout=10", authority=authority)
            mount.names(vault=(VAULT,))
            stack.callback(mount.destroy)
            mount.start()
            _read_all(mount, names)
            for _ in range(50):
                case.add(QUIET, _took(mount / names[0]) * 1e3)
            if not mount.forget():
                raise RuntimeError("no connection was kept")
            vault.bulk([{"name": name, "value": "new"} for name in names])
            time.sleep(_TTL + 0.5)
            case.add(FIRST, _took(mount / names[50]) * 1e3)
            if read_file(str(mount / names[50])) != b"new":
                raise RuntimeError("the first read after ttl was stale")
            for _ in range(50):
                case.add(CACHED, _took(mount / names[50]) * 1e3)
            mount.stop()
    group.at_most("after an idle cut: the first read is fresh within", max(case.samples[FIRST]) / 1e3, 2, "s")


def _read_all(mount: Mount, names: list[str]) -> None:
    """All of them known, by a listing first: others are looked up at a limited rate."""
    list(mount.where.iterdir())
    for name in names:
        read_file(str(mount / name))


def _opens(group: Group) -> None:
    case = group.case(f"{_OPENS:,} opens of a secret of 25 kB: the worker's memory", "MiB")
    with contextlib.ExitStack() as stack:
        vault = stack.enter_context(VaultProcess())
        vault.set("large", "x" * 25_000)
        below = stack.enter_context(peers.folder())
        mount = stack.enter_context(peers.ours(vault, below / "kv", *peers.LONG))
        path = str(mount / "large")
        for _ in range(100):
            read_file(path)
        before = processes.resident_mib(mount.worker())
        for _ in range(_OPENS):
            read_file(path)
        after = processes.resident_mib(mount.worker())
    case.add(f"{OURS}, before", before)
    case.add(OURS, after)
    group.at_most(f"{_OPENS:,} opens of 25 kB: the worker's memory grows by", after - before, 8, "MiB")


def run(quick: bool) -> Group:
    """Measure."""
    group = Group("world", "The world", ABOUT)
    for listed in (True, False):
        _made_up(group, 3 if quick else 10, listed=listed)
    _forgotten(group, 1 if quick else 3)
    _opens(group)
    panels = [
        (case.title, case.unit, {who: median(case.samples[who]) for who in case.samples})
        for case in group.cases
    ]
    group.plot = bars(group.title, panels)
    return group
