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
    result: T = await run_sync(fn, end(), limiter=limiter, **{_FLAG: True})  # type: ignore[arg-type]
    return result


class Slot:
    """One of a limiter's slots, taken without a round of the scheduler where one is free."""

    def __init__(self, limiter: trio.CapacityLimiter) -> None:
        self._limiter = limiter

    async def __aenter__(self) -> None:
        try:
            self._limiter.acquire_on_behalf_of_nowait(self)
        except trio.WouldBlock:
            await self._limiter.acquire_on_behalf_of(self)

    async def __aexit__(self, *_: object) -> None:
        self._limiter.release_on_behalf_of(self)


def end() -> float:
    """The caller's deadline in seconds of `time.monotonic`: a thread cannot read trio's clock.

    Raises:
        RuntimeError: the caller has no deadline.
    """
    left = trio.current_effective_deadline() - trio.current_time()
    if left == math.inf:
        raise RuntimeError("a blocking call without a deadline")
    return time.monotonic() + left
