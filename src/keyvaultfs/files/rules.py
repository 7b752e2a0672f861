"""Owner, group, mode and units by pattern over paths."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keyvaultfs.files.names import Pattern


@dataclass(frozen=True, slots=True)
class Look:
    """How a file or directory looks to stat(2), and who may open it; None: as the mount has it.

    Attributes:
        units: patterns over units of the system manager; () lets everybody in whom the mode lets in.
    """

    owner: int | None = None
    group: int | None = None
    mode: int | None = None
    dir_mode: int | None = None
    units: tuple[str, ...] | None = None

    def over(self, below: Look) -> Look:
        """This one, and the other's where this one is silent."""
        silent = {
            item.name: getattr(below, item.name) for item in fields(Look) if getattr(self, item.name) is None
        }
        return replace(self, **silent)


NO_LOOK = Look()


@dataclass(frozen=True, slots=True)
class Rule:
    """A look for all paths that one of the patterns matches."""

    patterns: tuple[Pattern, ...]
    look: Look


def look(rules: tuple[Rule, ...], path: str, own: Look = NO_LOOK, *, folded: bool = False) -> Look:
    """The look of a path: later rules override earlier ones key by key, and its own keys override rules.

    Args:
        folded: the path is a secret's name, or is made of one: its case does not count.
    """
    found = NO_LOOK
    if not rules:
        return own
    for rule in rules:
        if any(pattern.matches(path, folded=folded) for pattern in rule.patterns):
            found = rule.look.over(found)
    found = own.over(found)
    return NO_LOOK if found == NO_LOOK else found
