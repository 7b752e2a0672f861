"""Results as Markdown; pure."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from benchmarks.model import columns
from benchmarks.stats import ratio, spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.model import Case, Goal, Group


def number(value: float) -> str:
    """Three digits that matter, and no exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table: first column to the left, the others to the right."""
    marks = [":--", *("--:" for _ in head[1:])]
    lines = [head, marks, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def case(what: Case) -> str:
    """A case's table: median, quartiles, the ratio to ours, and what stands beside."""
    more = columns(what.beside, list(what.samples))
    against = what.samples.get(what.versus)
    rows = []
    for who, samples in what.samples.items():
        low, high = spread(samples)
        times = f"{number(ratio(samples, against))} x" if against else ""
        beside = what.beside.get(who, {})
        rows.append(
            [
                f"**{who}**" if who == what.versus else who,
                f"{number(median(samples))} {what.unit}",
                f"{number(low)} .. {number(high)}",
                times,
                str(len(samples)),
                *(beside.get(column, "") for column in more),
            ]
        )
    head = ["who", "median", "quartiles", f"of {what.versus}", "rounds", *more]
    return f"#### {what.title}\n\n{table(head, rows)}\n"


def goals(named: Sequence[tuple[str, Goal]]) -> str:
    """The table of goals, each with its group, and why those missed are missed."""
    rows = [
        [
            goal.text,
            f"{'at least' if goal.at_least else 'at most'} {number(goal.limit)} {goal.unit}",
            f"{number(goal.reached)} {goal.unit}",
            "met" if goal.met else "**missed**",
            title,
        ]
        for title, goal in named
    ]
    text = table(["number to reach", "promised", "reached", "", "group"], rows) + "\n"
    whys = [f"- *{goal.text}*: {goal.why}" for _, goal in named if not goal.met and goal.why]
    return text + ("\nWhat holds the missed ones back:\n\n" + "\n".join(whys) + "\n" if whys else "")


def group(what: Group) -> str:
    """A group's section."""
    parts = [f"## {what.title}\n", what.about.strip() + "\n", f"![{what.title}]({what.name}.svg)\n"]
    parts += [case(one) for one in what.cases if one.samples]
    parts += [f"- {note}" for note in what.notes]
    return "\n".join(parts) + "\n"


def page(groups: Sequence[Group], facts: Mapping[str, str], missing: Sequence[str], quick: bool) -> str:
    """The whole of RESULTS.md."""
    head = [
        "# Results",
        "",
        "Written by `make bench`"
        + (" with `QUICK=1` (few rounds: for a look, not for a verdict)." if quick else ".")
        + " Every number is of the run described here, and every ratio is of numbers of this run, round by round:",
        "the competitors take turns, so that whatever else the machine does hits all of them alike.",
        "",
        table(["", ""], [[name, value] for name, value in facts.items()]),
        "",
    ]
    head += [f"Missing, so not measured: {', '.join(missing)}.\n"] if missing else []
    named = [(one.title, goal) for one in groups for goal in one.goals]
    return "\n".join([*head, "## Numbers to reach\n", goals(named), *(group(one) for one in groups)])
