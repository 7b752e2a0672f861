"""What a group of measurements says: cases, goals, facts."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.stats import ratio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OURS = "keyvaultfs"


@dataclass(frozen=True)
class Goal:
    """A number to reach, and what was reached.

    Args:
        text: what is promised, without the number.
        reached: what was measured.
        limit: what was promised.
        at_least: whether more is better.
        unit: of both.
        why: what is said where it is missed.
    """

    text: str
    reached: float
    limit: float
    at_least: bool = False
    unit: str = "x"
    why: str = ""

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.reached >= self.limit if self.at_least else self.reached <= self.limit


@dataclass
class Case:
    """One thing that several competitors do.

    Args:
        title: what they do.
        unit: of the samples.
        samples: by competitor, one number a round, in the order of the table.
        beside: further columns (requests, say): by competitor, by column.
        versus: the competitor that the ratios are of.
    """

    title: str
    unit: str = "µs"
    samples: dict[str, list[float]] = field(default_factory=dict)
    beside: dict[str, dict[str, str]] = field(default_factory=dict)
    versus: str = OURS

    def add(self, who: str, sample: float) -> None:
        """Note a round of a competitor."""
        self.samples.setdefault(who, []).append(sample)

    def say(self, who: str, column: str, text: object) -> None:
        """Put something beside a competitor's number."""
        self.beside.setdefault(who, {})[column] = str(text)

    def has(self, *who: str) -> bool:
        """Whether all of them were measured."""
        return all(self.samples.get(one) for one in who)

    def median(self, who: str) -> float:
        """Of one competitor."""
        return median(self.samples[who])

    def ratio(self, mine: str, theirs: str) -> float:
        """How many times of the second is the first."""
        return ratio(self.samples[mine], self.samples[theirs])


@dataclass
class Group:
    """The cases of one group, with its goals.

    Args:
        name: of its plot's file.
        title: for people.
        about: how it was measured, in a few sentences.
    """

    name: str
    title: str
    about: str
    cases: list[Case] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    plot: str = ""

    def case(self, title: str, unit: str = "µs") -> Case:
        """A new one."""
        self.cases.append(made := Case(title, unit))
        return made

    def at_most(self, text: str, reached: float, limit: float, unit: str = "x", why: str = "") -> None:
        """Note a goal where less is better."""
        self.goals.append(Goal(text, reached, limit, unit=unit, why=why))

    def at_least(self, text: str, reached: float, limit: float, unit: str = "x", why: str = "") -> None:
        """Note a goal where more is better."""
        self.goals.append(Goal(text, reached, limit, at_least=True, unit=unit, why=why))


def columns(beside: Mapping[str, Mapping[str, str]], order: Sequence[str]) -> list[str]:
    """The names of all further columns, in the order in which they turn up."""
    found: dict[str, None] = {}
    for who in order:
        found.update(dict.fromkeys(beside.get(who, {})))
    return list(found)
