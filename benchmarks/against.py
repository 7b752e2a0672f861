"""``python -m benchmarks.against REVISION``: this tree beside an earlier revision of it, in one run on one machine.

First how large their workers are: mounted, with 10,000 names listed, and with 1,000 values read. Then both mount the
same vault and take turns; the earlier one's code is taken out of git. Where root may, the scheduler groups no processes
by session meanwhile: a worker in a session of its own would else wait longer for its turn than one that shares its
reader's.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import peers, processes
from benchmarks.reader import Reader
from benchmarks.stats import ratio
from benchmarks.warm import calibrated
from tests.support.mount import ROOT, Mount
from tests.support.vault import VaultProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

_AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")
_SECONDS = 0.04  # of a round
_COLD = 8  # names a round


@contextlib.contextmanager
def one_group() -> Iterator[None]:
    """No groups of the scheduler's, as long as it lasts."""
    try:
        before = _AUTOGROUP.read_text(encoding="ascii")
        _AUTOGROUP.write_text("0", encoding="ascii")
    except OSError:
        print("note: processes are grouped by session, which may favour one of the two", file=sys.stderr)
        yield
        return
    try:
        yield
    finally:
        _AUTOGROUP.write_text(before, encoding="ascii")


def taken_out(revision: str, folder: Path) -> Path:
    """The source folder of a revision; raises CalledProcessError where there is none such."""
    folder.mkdir()
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", revision, "src"], check=True, stdout=subprocess.PIPE
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], check=True, input=archive.stdout)
    return folder / "src"


class Comparison:
    """Two mounts that take turns, and what they took, by what is measured."""

    def __init__(self, mounts: dict[str, Mount], reader: Reader, name: str) -> None:
        self._mounts = mounts
        self._reader = reader
        self._jobs = {
            who: calibrated(reader, {"do": "read", "name": str(mount / name)}, _SECONDS)
            for who, mount in mounts.items()
        }
        count = max(job["count"] for job in self._jobs.values())
        self._jobs = {who: {**job, "count": count} for who, job in self._jobs.items()}
        self.samples: dict[str, dict[str, list[float]]] = {}

    def warm(self, what: str, rounds: int) -> None:
        """Open, read and close, µs; and the worker's processor time for it."""
        for turn in range(rounds):
            for who in self._order(turn):
                job, worker = self._jobs[who], self._mounts[who].worker()
                before = processes.cpu_seconds(worker)
                each = self._reader.each(job)
                used = (processes.cpu_seconds(worker) - before) / job["count"]
                self._add(what, who, each * 1e6)
                self._add(f"{what}: worker's processor time", who, used * 1e6)

    def warm_on_one(self, what: str, rounds: int) -> None:
        """The same with reader and workers on one processor."""
        pids = [self._reader.pid, *(mount.worker() for mount in self._mounts.values())]
        with processes.on_one_processor(pids):
            self.warm(what, rounds)

    def cold(self, what: str, names: list[str]) -> None:
        """Names that this mount was not asked for before, µs each."""
        for turn in range(len(names) // _COLD):
            some = names[turn * _COLD : (turn + 1) * _COLD]
            for who in self._order(turn):
                job: dict[str, Any] = {"do": "read", "folder": f"{self._mounts[who].where}/", "names": some}
                for took in self._reader.times(job):
                    self._add(what, who, took * 1e6)

    def table(self) -> str:
        """Medians, minima, and the median of the ratios of the rounds, in which noise hits both."""
        lines = []
        for what, found in self.samples.items():
            (before, old), (after, new) = found.items()
            lines.append(f"{what}, µs: {ratio(new, old):.3f} x in a round")
            for said, of in (("median", median), ("least", min)):
                lines.append(
                    f"  {said:7} {before} {of(old):8.2f}   {after} {of(new):8.2f}   {of(new) / of(old):6.3f} x"
                )
        return "\n".join(lines)

    def _order(self, turn: int) -> list[str]:
        order = list(self._mounts)
        return order if turn % 2 == 0 else order[::-1]

    def _add(self, what: str, who: str, sample: float) -> None:
        found = self.samples.setdefault(what, {name: [] for name in self._mounts})
        found[who].append(sample)


def sizes(sources: dict[str, Path], below: Path, rounds: int = 3) -> str:
    """Resident memory of their workers, MiB: medians, and the newer one's share of the older one's."""
    found: dict[str, dict[str, list[float]]] = {}
    for turn in range(rounds):
        with VaultProcess() as vault:
            for who in list(sources) if turn % 2 == 0 else list(sources)[::-1]:
                vault.clear_secrets()
                with peers.ours(vault, below / "empty", *peers.LONG, source=sources[who]) as mount:
                    _size(found, "empty", who, mount)
                names = vault.made_up(10_000, size=1024, updated=1_700_000_000)
                with peers.ours(vault, below / "full", *peers.LONG, source=sources[who]) as mount:
                    list(mount.where.iterdir())
                    _size(found, "10,000 names", who, mount)
                    for name in names[:1000]:
                        (mount / name).read_bytes()
                    _size(found, "10,000 names and 1,000 values", who, mount)
    lines = []
    for what, by_whom in found.items():
        old, new = (median(by_whom[who]) for who in sources)
        lines.append(f"resident memory, {what}, MiB: {old:.1f} and {new:.1f}, {new / old:.3f} x")
    return "\n".join(lines)


def _size(found: dict[str, dict[str, list[float]]], what: str, who: str, mount: Mount) -> None:
    time.sleep(1)
    found.setdefault(what, {}).setdefault(who, []).append(processes.resident_mib(mount.worker()))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.against", description=__doc__)
    parser.add_argument("revision", help="that this tree is compared with")
    parser.add_argument("--rounds", type=int, default=60, help="of each kind (60)")
    wanted = parser.parse_args()
    with contextlib.ExitStack() as stack:
        stack.enter_context(one_group())
        below = stack.enter_context(peers.folder())
        sources = {wanted.revision: taken_out(wanted.revision, below / "old"), "this": ROOT / "src"}
        print(sizes(sources, below), flush=True)
        vault = stack.enter_context(VaultProcess())
        names = vault.made_up(_COLD * wanted.rounds + 1, size=32, updated=1_700_000_000)
        random.Random(12).shuffle(names)  # in the order of the listing they would be read ahead
        mounts = {
            who: stack.enter_context(peers.ours(vault, below / f"kv{number}", *peers.LONG, source=source))
            for number, (who, source) in enumerate(sources.items())
        }
        reader = stack.enter_context(Reader())
        comparison = Comparison(mounts, reader, names.pop())
        comparison.warm("warm open+read+close", wanted.rounds)
        comparison.warm_on_one("warm open+read+close, all on one processor", wanted.rounds)
        comparison.cold("cold read", names)
        print(comparison.table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
