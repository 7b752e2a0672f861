"""Who opened a file, and what is shown of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from keyvaultfs.filesystem.askers import Asker


class Current(NamedTuple):
    """What a file shows now.

    Attributes:
        edition: the version, "" if another than any that was ever opened.
        since: when it came to be, Unix seconds, or None.
    """

    edition: str
    since: int | None


@dataclass(slots=True, eq=False)
class Reader:
    """A unit, or a user's program where there is none, and a file that it opened. Times in Unix seconds.

    Attributes:
        path: below the mount point.
        edition: the version that it last opened.
        opens: how often it did.
        counted: the number of opens when `last` was noted.
        touched: whether it closed something, or first opened another version, since it was last written.
    """

    path: str
    asker: Asker
    edition: str
    first: float
    last: float
    slot: int
    opens: int = 0
    counted: int = 0
    touched: bool = True

    @property
    def owner(self) -> int:
        """The user; -1 for the system's units: one is one reader of a file, whatever its programs are called."""
        return -1 if self.asker.unit and not self.asker.manager else self.asker.uid

    @property
    def key(self) -> tuple[str, ...]:
        """What tells it from other readers."""
        return key(self.path, self.asker)


def key(path: str, asker: Asker) -> tuple[str, ...]:
    """What tells a reader of a file from others: its unit, and where it has none, user and program."""
    if asker.unit:
        return (path, asker.unit, asker.manager)
    return (path, "", str(asker.uid), asker.program)


def shown(path: str, now: Current | None, readers: list[tuple[Reader, list[str]]]) -> dict[str, Any]:
    """A file and its readers, each with the versions that it has open, as ``readers`` shows them."""
    rows = [
        {
            "unit": reader.asker.unit,
            "uid": reader.asker.uid,
            "program": reader.asker.program,
            "pid": reader.asker.pid,
            "edition": reader.edition,
            "opened": round(reader.last, 3),
            "first": round(reader.first, 3),
            "opens": reader.opens,
            "open_now": len(held),
            "behind": any(is_behind(edition, now) for edition in (reader.edition, *held)),
        }
        for reader, held in readers
    ]
    rows.sort(key=lambda row: (not row["behind"], -float(str(row["opened"]))))
    edition, since = ("", None) if now is None else now
    return {"path": path, "edition": edition, "since": since, "known": now is not None, "readers": rows}


def is_behind(edition: str, now: Current | None) -> bool:
    """Whether a file is known to show another edition now."""
    return now is not None and edition != now.edition
