"""Log lines for journald: priorities as sd-daemon(3) prefixes, and each cause said once."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LOG = logging.getLogger("keyvaultfs")

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class PriorityFormatter(logging.Formatter):
    """``<4>text``: what sd-daemon(3) reads as a priority. A record is one line, whatever it holds."""

    def format(self, record: logging.LogRecord) -> str:
        """Format without exception text: an exception may quote what it was given."""
        text = record.getMessage().encode("utf-8", "backslashreplace").decode()
        return f"<{_PRIORITY.get(record.levelno, 6)}>" + text.replace("\n", " | ")


class DescriptorHandler(logging.Handler):
    """Writes lines to a descriptor, be it a full or broken pipe: a line is lost rather than waited for."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.fd = fd
        self.lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, or count it as lost."""
        try:
            os.write(self.fd, self.format(record).encode() + b"\n")
        except OSError:
            self.lost += 1


class Causes:
    """Says each cause at its beginning and at its end, not once for each read that meets it.

    Args:
        clock: seconds, such as `trio.current_time`.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open: dict[str, tuple[float, int]] = {}

    def begin(self, cause: str, **facts: object) -> None:
        """Count `cause`; the first time it is logged with `facts`: names and numbers, never bodies."""
        since, times = self._open.get(cause, (self._clock(), 0))
        self._open[cause] = (since, times + 1)
        if times == 0:
            LOG.warning("%s%s", cause, "".join(f" {key}={value}" for key, value in facts.items()))

    def end(self, cause: str) -> None:
        """Log that `cause` ended, if it had begun."""
        if cause in self._open:
            since, times = self._open.pop(cause)
            LOG.info("%s ended times=%d seconds=%.0f", cause, times, self._clock() - since)

    def open(self) -> dict[str, int]:
        """The causes that have begun and not ended, and how often each was met."""
        return {cause: times for cause, (_, times) in self._open.items()}
