"""Durations, times and counts in words."""

from __future__ import annotations

import time

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def duration(seconds: float) -> str:
    """``3 s``, ``5 min``, ``23 h``, ``9 d``: the largest unit of which there are two, cut to whole ones."""
    for length, unit in _UNITS:
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def ago(when: float, now: float) -> str:
    """``3 min ago``; both in Unix seconds."""
    return f"{duration(now - when)} ago"


def at(when: float) -> str:
    """A moment of Unix time, in the machine's zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))


def count(number: int, one: str, many: str = "") -> str:
    """``1 file``, ``2 files``."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def size(number: int) -> str:
    """``512 B``, ``1.5 KiB``, ``64 MiB``."""
    amount = float(number)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024 or unit == "MiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"


def lines(text: str) -> str:
    """Lines of somebody else's, such as a worker that was taken over, without what a terminal would obey."""
    return "\n".join(map(line, text.split("\n")))


def line(text: object) -> str:
    """A text of somebody else's, on a line and without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))
