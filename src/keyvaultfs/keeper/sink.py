"""Where log lines go: standard error in the foreground, the journal or syslog in the background."""

from __future__ import annotations

import os
import socket

IDENTIFIER = "keyvaultfs"
_JOURNAL = "/run/systemd/journal/socket"
_SYSLOG = "/dev/log"
_DAEMON_FACILITY = 3 << 3
_STDERR = 2


class Sink:
    """Takes lines with an sd-daemon(3) prefix such as ``<4>``. A line that nobody takes is lost, never waited for."""

    def __init__(self, *, foreground: bool) -> None:
        self._keep_prefix = bool(os.environ.get("JOURNAL_STREAM"))
        self._path = "" if foreground else next((p for p in (_JOURNAL, _SYSLOG) if os.path.exists(p)), "")  # noqa: PTH110
        self._sock = None
        if self._path:
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._sock.setblocking(False)

    @property
    def on_stderr(self) -> bool:
        """Whether who started us reads along, and need not be told twice."""
        return self._sock is None

    def say(self, priority: int, text: str) -> None:
        """Log a line of the keeper's own."""
        self.line(f"<{priority}>{text}")

    def line(self, line: str) -> None:
        """Log a line that may have a prefix."""
        priority, text = 6, line
        if len(line) > 3 and line[0] == "<" and line[1].isdigit() and line[2] == ">":
            priority, text = int(line[1]), line[3:]
        try:
            if self._sock is None:
                shown = f"<{priority}>{text}" if self._keep_prefix else f"{IDENTIFIER}: {text}"
                os.write(_STDERR, shown.encode() + b"\n")
            elif self._path == _JOURNAL:
                fields = f"MESSAGE={text}\nPRIORITY={priority}\nSYSLOG_IDENTIFIER={IDENTIFIER}\n"
                self._sock.sendto(fields.encode(), _JOURNAL)
            else:
                record = f"<{_DAEMON_FACILITY | priority}>{IDENTIFIER}[{os.getpid()}]: {text}"
                self._sock.sendto(record.encode(), _SYSLOG)
        except OSError:
            return
