"""``python -m benchmarks [--quick] [--groups NAME …]``: measures, and writes RESULTS.md and a plot per group."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

from benchmarks import installed, markdown
from benchmarks.model import Group

GROUPS = ("warm", "cold", "listings", "crowd", "upkeep", "size", "composed", "operate", "world")
HERE = Path(__file__).resolve().parent


def main() -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, three to five minutes in all")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=GROUPS, help="only these")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of RESULTS.md and the plots")
    wanted = parser.parse_args()
    begin = time.monotonic()
    # Before anything is measured: a file that is edited meanwhile must not be mixed in.
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in wanted.groups}
    missing = installed.install_missing()
    facts = installed.facts(HERE.parent)
    groups: list[Group] = []
    wanted.out.mkdir(parents=True, exist_ok=True)
    for name in wanted.groups:
        before = time.monotonic()
        group: Group = modules[name].run(wanted.quick)
        groups.append(group)
        print(f"{name}: {time.monotonic() - before:.0f} s", file=sys.stderr)
        # After each group: what a run has measured until it is interrupted is not lost.
        facts["took"] = f"{(time.monotonic() - begin) / 60:.1f} minutes"
        facts["groups"] = ", ".join(group.name for group in groups)
        (wanted.out / f"{name}.svg").write_text(group.plot, encoding="utf-8")
        text = markdown.page(groups, facts, missing, wanted.quick)
        (wanted.out / "RESULTS.md").write_text(text, encoding="utf-8")
    print(markdown.goals([(group.title, goal) for group in groups for goal in group.goals]))
    print(f"written: {wanted.out / 'RESULTS.md'}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
