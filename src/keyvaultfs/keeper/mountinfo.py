"""What the kernel says is mounted where. Never asks a file system, and takes no line of the table on trust.

Whoever may mount anything (every user, by fusermount3) chooses names that stand in this table. So it is read as bytes
and split at the newline alone, the one character that the kernel escapes for that purpose: Python's text files also
split at a carriage return, and `str.splitlines` at eight more. A line that is not of the expected form is no mount of
ours and is skipped.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

PATH = "/proc/self/mountinfo"


class Mounted(NamedTuple):
    """A line of /proc/self/mountinfo (proc_pid_mountinfo(5)).

    Attributes:
        number: the mount's id, which tells it from an earlier one at the same place. The kernel gives it
            out again after the unmount.
        parent: the id of the mount that it is mounted on.
        minor: of the device: the number of the FUSE connection.
        mountpoint: where it is now, whatever was moved or renamed since.
        shared: whether what is mounted on it appears in other mount namespaces too.
        user: of a FUSE mount, who made it. The kernel writes ``user_id`` itself, and no user can choose it.
    """

    number: int
    parent: int
    minor: int
    mountpoint: str
    shared: bool
    fstype: str
    source: str
    user: int | None = None


def table() -> list[Mounted]:
    """All mounts that this process sees, in the order of the kernel's table."""
    with open(PATH, "rb") as file:  # noqa: PTH123 - pathlib is a megabyte that a keeper need not have
        return parse(file.read())


def parse(data: bytes) -> list[Mounted]:
    """The lines that are of the expected form."""
    return [one for line in data.split(b"\n") if (one := _line(line)) is not None]


def _line(line: bytes) -> Mounted | None:
    left, dash, right = line.partition(b" - ")
    fields, last = left.split(b" "), right.split(b" ")
    if not dash or len(fields) < 6 or len(last) < 2:
        return None
    try:
        return Mounted(
            number=int(fields[0]),
            parent=int(fields[1]),
            minor=int(fields[2].partition(b":")[2]),
            mountpoint=_plain(fields[4]),
            shared=any(field.startswith(b"shared:") for field in fields[6:]),
            fstype=_plain(last[0]),
            source=_plain(last[1]),
            user=_user(last[2] if len(last) > 2 else b""),
        )
    except ValueError:
        return None


def _user(options: bytes) -> int | None:
    """Of a file system's own options, which stand behind the source: that is anything that a user likes."""
    found = [word.partition(b"=")[2] for word in options.split(b",") if word.startswith(b"user_id=")]
    return int(found[0]) if len(found) == 1 else None


def _plain(text: bytes) -> str:
    """Undo the octal escapes of mountinfo; bytes that are not UTF-8 become surrogates, as in file names."""
    return os.fsdecode(re.sub(rb"\\([0-3][0-7]{2})", lambda found: bytes([int(found[1], 8)]), text))


def topmost(mountpoint: str) -> Mounted | None:
    """What is mounted on a path; the last one if there are several."""
    return next((one for one in reversed(table()) if one.mountpoint == mountpoint), None)


def now(ours: Mounted) -> Mounted | None:
    """The same mount as it is in the table now, wherever it was moved to; None when it is there no more."""
    return next((one for one in table() if (one.number, one.minor) == (ours.number, ours.minor)), None)
