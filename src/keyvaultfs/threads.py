"""The only door to worker threads: each call has a limiter and a deadline."""

from __future__ import annotations

import math
import time
from inspect import signature
from typing import TYPE_CHECKING, TypeVar

import trio
from trio.to_thread import run_sync

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# Renamed after trio 0.22, which Debian 12 has.
_FLAG = "abandon_on_cancel" if "abandon_on_cancel" in signature(run_sync).parameters else "cancellable"


async def run(fn: Callable[[float], T], limiter: trio.CapacityLimiter) -> T:
    """Call ``fn(end)`` in a worker thread; `end` is the caller's deadline in seconds of `time.monotonic`.

    A cancelled caller leaves the thread behind, which keeps its slot of `limiter` until it ends: `fn` must
    see to that itself.

    Raises:
        RuntimeError: the caller has no deadline.
    """
    left = trio.current_effective_deadline() - trio.current_time()
    if left == math.inf:
        raise RuntimeError("a blocking call without a deadline")
    end = time.monotonic() + left  # the thread cannot read trio's clock
    result: T = await run_sync(fn, end, limiter=limiter, **{_FLAG: True})  # type: ignore[arg-type]
    return result
