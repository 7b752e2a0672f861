"""A thousand machines booted in the same second on one vault: ``python docs/fleet.py`` writes ``docs/fleet.svg``.

Our own code from the cache down to the throttle, on a clock that is turned (tests/support/fleet.py). An hour of the
fleet takes some minutes.
"""

from __future__ import annotations

import logging
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from benchmarks.svg import lines  # noqa: E402
from tests.support.fleet import WINDOW, simulate  # noqa: E402

MACHINES = 1000
LIMIT = 4000
SECONDS = 3600
_SETTLED = 300
CASES = {
    "keyvaultfs, 429 with Retry-After": {"jitter": True, "tells": True},
    "keyvaultfs, 429 without": {"jitter": True, "tells": False},
    "the same without jitter": {"jitter": False, "tells": True},
}


def case(name: str) -> tuple[list[tuple[float, float]], str]:
    """The curve of one fleet, and a line of what became of it."""
    logging.disable(logging.CRITICAL)  # each machine would tell of its vault
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    fleet = simulate(MACHINES, limit=LIMIT, seconds=SECONDS, **CASES[name])
    asked, waited = fleet.vault.asked(), fleet.waited()
    over = max(second for second, requests in enumerate(asked) if requests > LIMIT)
    later = max(asked[_SETTLED:])
    facts = (
        f"{len(waited)} programs of {len(waited) + fleet.wanting()} had their secret after "
        f"{waited[len(waited) // 2]:.0f} s (median), {waited[-1]:.0f} s (last); "
        f"{sum(fleet.vault.refused.values())} requests refused; more than {LIMIT} in {WINDOW} s "
        f"last at {over} s, after {_SETTLED} s at most {later}; "
        f"reads that failed later: {sum(machine.failed_later for machine in fleet.machines)}"
    )
    return _thinned(asked), facts


def _thinned(asked: list[int]) -> list[tuple[float, float]]:
    """The highest of each span; spans grow with time, as a logarithmic scale shows them."""
    points, first = [], 0
    while first < len(asked):
        end = max(first + 1, int(first * 1.12))
        points.append((float(first + 1), float(max(1, *asked[first:end], 0))))
        first = end
    return points


def main() -> None:
    """Run all, print the facts, write the plot."""
    with ProcessPoolExecutor(2) as pool:
        found = dict(zip(CASES, pool.map(case, CASES), strict=True))
    for name, (_, facts) in found.items():
        print(f"{name}: {facts}")
    curves = {name: points for name, (points, _) in found.items()}
    curves["the vault's limit"] = [(1.0, float(LIMIT)), (float(SECONDS), float(LIMIT))]
    title = f"{MACHINES:,} machines booted in the same second, 10 to 50 secrets each"
    plot = lines(title, "seconds after the boot", f"requests in the last {WINDOW} s", curves)
    (ROOT / "docs" / "fleet.svg").write_text(plot, encoding="utf-8")


if __name__ == "__main__":
    main()
