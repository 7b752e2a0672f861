"""Whether the token endpoint is fenced off from the machine's other users, as far as a process without rights can tell.

The rules themselves are root's to look at. A timer unit of root's does that every half minute and leaves a line in
/run/keyvaultfs (packaging/nftables/keyvaultfs-imds.sh); this reads it. Standard library only.
"""

from __future__ import annotations

import os
import time
from enum import Enum
from typing import NamedTuple

STATE = "/run/keyvaultfs/imds-fence"
_TRUST_SECONDS = 120.0
"""A line that is older was left by a timer that does not run any more: nobody knows."""

_MOST_BYTES = 200


class Fence(Enum):
    """What is known of the fence; the values are for `status` and for labels."""

    ABSENT = "absent"
    """never set up, or taken down on purpose: every user can ask for the machine's identity"""
    IN_FORCE = "in-force"
    LOST = "lost"
    """set up, and not in force, or not looked after: every user may be able to ask"""


class FenceState(NamedTuple):
    """What the last check found.

    Attributes:
        fence: the state.
        age: seconds since that check; None if there was none of late.
        restored: how often the fence has been put back since boot, because something had flushed it.
    """

    fence: Fence
    age: float | None = None
    restored: int = 0


def fence(path: str = STATE) -> FenceState:
    """Read what the last check found; never raises, whatever the file holds."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return FenceState(Fence.ABSENT)
    except OSError:
        return FenceState(Fence.LOST)
    try:
        text = os.read(fd, _MOST_BYTES)
    except OSError:
        return FenceState(Fence.LOST)
    finally:
        os.close(fd)
    return parse(text, time.clock_gettime(time.CLOCK_BOOTTIME))


def parse(text: bytes, now: float) -> FenceState:
    """The line of a check.

    Args:
        text: what the file holds.
        now: seconds since boot, suspended ones too.
    """
    try:
        word, when, restored = text.decode("ascii").split()
        age, count = now - float(when), int(restored)
    except ValueError:
        return FenceState(Fence.LOST)
    recent = -1 < age < _TRUST_SECONDS  # not so for "nan" either
    stands = word == Fence.IN_FORCE.value and recent
    return FenceState(Fence.IN_FORCE if stands else Fence.LOST, max(0.0, age) if recent else None, count)
