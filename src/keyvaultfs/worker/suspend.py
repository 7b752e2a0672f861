"""Tells when the machine was suspended: trio's clock and the kernel's entry timeouts stand still then, and do not know.

CLOCK_BOOTTIME goes on meanwhile and CLOCK_MONOTONIC does not: by what their difference grows, everything has aged.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

_CHECK_SECONDS = 2.0
_GAP_SECONDS = 1.0


def boottime_gap() -> float:
    """Seconds that this machine was suspended since it was booted."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


async def watch(noticed: Callable[[float], None]) -> None:
    """Call `noticed` with the seconds of each suspend that is over. Runs until cancelled."""
    gap = boottime_gap()
    while True:
        await trio.sleep(_CHECK_SECONDS)
        now = boottime_gap()
        if now - gap > _GAP_SECONDS:
            noticed(now - gap)
        gap = now
