"""No exception in the keeper's loop ends a mount: what went wrong is said, and the next step is taken."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_AGAIN_SECONDS = 60.0
_PAUSE_SECONDS = 0.05
"""After a step that failed, so that one that fails at each turn is no busy loop."""


class Guard:
    """Runs steps. Each kind of failure is logged once, and then once a minute with how often it was met.

    Args:
        say: logs a line.
        clock: seconds.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._met: dict[tuple[str, str], tuple[float, int]] = {}
        self.failed = False

    def run(self, step: Callable[..., object], *arguments: object) -> None:
        """Do a step; an exception is logged by type and place, since its text may quote what a worker sent."""
        try:
            step(*arguments)
        except Exception as exc:  # noqa: BLE001 - the mount outlives every mistake
            self.failed = True
            self._note(getattr(getattr(step, "func", step), "__name__", "a step"), exc)

    def pause(self) -> None:
        """Wait a moment if a step has failed since the last call."""
        if self.failed:
            self.failed = False
            time.sleep(_PAUSE_SECONDS)

    def _note(self, step: str, exc: Exception) -> None:
        kind = type(exc).__name__
        if isinstance(exc, OSError) and exc.errno is not None:
            kind += f" ({os.strerror(exc.errno)})"
        now = self._clock()
        said, times = self._met.get((step, kind), (-_AGAIN_SECONDS, 0))
        if now - said < _AGAIN_SECONDS:
            self._met[step, kind] = (said, times + 1)
            return
        self._met[step, kind] = (now, 0)
        more = f", {times} times more since it was said last" if times else ""
        try:
            self._say(f"trouble in {step}: {kind} at {_place(exc)}{more}; the mount is kept")
        except Exception:  # noqa: BLE001 - not even this ends it
            return


def _place(exc: Exception) -> str:
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "?"
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"  # noqa: PTH119
