"""Which unit of the system manager a process belongs to, and whether a file is for it.

This narrows what owner and mode allow, and stops no administrator: root can put a process into any unit.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_LARGEST = 1 << 16
_SYSTEMD = 1
"""PID 1 reads files for its units, as with ``LoadCredential=``."""


def of_cgroups(text: str) -> str | None:
    """The unit in ``/proc/PID/cgroup``: the first component that is a service or a scope.

    The first, since a user's manager is itself a service and may name units of its own as it likes: what runs below
    ``user@1000.service`` is that. The system's units lie in slices and in nothing else: what another container manager
    has made is of no unit here, whatever the units inside are called.
    """
    lines = text.split("\n")
    found = [line[3:] for line in lines if line.startswith("0::")]
    # With cgroups of the first version alone, systemd keeps its units in a hierarchy of that name (cgroups(7)).
    found += [line.partition(":name=systemd:")[2] for line in lines if ":name=systemd:" in line]
    for path in found:
        for part in path.split("/"):
            if part.endswith((".service", ".scope")):
                return part
            if part and not part.endswith(".slice"):
                break
    return None


def of(pid: int) -> str | None:
    """The unit of a process; None where it has none, has ended, or cannot be seen from here (pid 0)."""
    if pid <= 0:
        return None
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace", newline="\n") as file:  # noqa: PTH123
            return of_cgroups(file.read(_LARGEST))
    except OSError:
        return None


def matches(unit: str, patterns: Iterable[str]) -> bool:
    """Whether a unit is one of those meant: ``*`` and ``?`` in a pattern stand for any letters."""
    return any(re.fullmatch(_translated(pattern), unit, re.DOTALL) for pattern in patterns)


def allowed(pid: int, patterns: tuple[str, ...] | None) -> bool:
    """Whether a process may open a file for these units; None: every process may."""
    if patterns is None or pid == _SYSTEMD:
        return True
    unit = of(pid)
    return unit is not None and matches(unit, patterns)


def _translated(pattern: str) -> str:
    return "".join({"*": ".*", "?": "."}.get(letter) or re.escape(letter) for letter in pattern)
