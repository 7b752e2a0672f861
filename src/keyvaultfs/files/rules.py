"""Owner, group, mode and units by pattern over paths."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from keyvaultfs.files.names import Pattern


class Access(NamedTuple):
    """Owner, group and modes of a file or directory, and the units that may open it; None: as the whole mount has it.

    Attributes:
        units: patterns over units of the system manager; () lets everybody in whom the mode lets in.
    """

    owner: int | None = None
    group: int | None = None
    mode: int | None = None
    dir_mode: int | None = None
    units: tuple[str, ...] | None = None

    def over(self, below: Access) -> Access:
        """This access, with the values of `below` for what is None here."""
        said = {name: value for name, value in self._asdict().items() if value is not None}
        return below._replace(**said)


AS_MOUNTED = Access()
"""Of a path of which the configuration says nothing."""


class Rule(NamedTuple):
    """The access to all paths that one of the patterns matches."""

    patterns: tuple[Pattern, ...]
    access: Access


def access(rules: tuple[Rule, ...], path: str, own: Access = AS_MOUNTED, *, folded: bool = False) -> Access:
    """The access to a path: later rules override earlier ones key by key, and its own keys override rules.

    Args:
        folded: the path is a secret's name, or is made of one: its case does not count.
    """
    found = AS_MOUNTED
    if not rules:
        return own
    for rule in rules:
        if any(pattern.matches(path, folded=folded) for pattern in rule.patterns):
            found = rule.access.over(found)
    found = own.over(found)
    return AS_MOUNTED if found == AS_MOUNTED else found
