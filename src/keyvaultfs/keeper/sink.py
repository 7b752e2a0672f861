"""Where log lines go: standard error in the foreground, the journal or syslog in the background."""

from __future__ import annotations

import os
import socket

from keyvaultfs import ipc
from keyvaultfs.keeper.stderr import Stderr

IDENTIFIER = "keyvaultfs"
_JOURNAL = "/run/systemd/journal/socket"
_SYSLOG = "/dev/log"
_DAEMON_FACILITY = 3 << 3
_LONGEST = 3000
_ERR, _INFO = 3, 6
_STDERR = 2


def _is_the_journal(fd: int) -> bool:
    """Whether a descriptor is the stream that systemd made to its journal, which reads priorities (systemd.exec(5))."""
    found = os.fstat(fd)
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class Sink:
    """Takes lines with an sd-daemon(3) prefix such as ``<4>``. A line that nobody takes is lost, never waited for."""

    def __init__(self, *, foreground: bool) -> None:
        self._keep_prefix = _is_the_journal(_STDERR)
        self._foreground = foreground
        self._path = "" if foreground else next((p for p in (_JOURNAL, _SYSLOG) if os.path.exists(p)), "")  # noqa: PTH110
        self._sock = None
        self._stderr = None
        if self._path:
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._sock.setblocking(False)
        else:
            self._stderr = Stderr(_STDERR)

    @property
    def on_stderr(self) -> bool:
        """Whether log lines go to the standard error of whoever started us, who then needs no second message."""
        return self._sock is None

    def say(self, priority: int, text: str) -> None:
        """Log a line of the keeper's own."""
        self._put(priority, text)

    def line(self, line: str) -> None:
        """Log a line of a worker's, which may have a prefix.

        Nothing more urgent than an error: the journal shows emergencies on every terminal of the machine. Where nobody
        keeps a log, standard error is that of the command that mounts: it shows what becomes of the mount, in a line of
        the keeper's, and not also what a worker met on the way there.
        """
        priority, text = _INFO, line
        if line[:1] == "<" and line[1:2] in tuple("01234567") and line[2:3] == ">":
            priority, text = max(_ERR, int(line[1])), line[3:]
        if self._foreground or not self.on_stderr or priority == _ERR:
            self._put(priority, text)

    def flush(self) -> None:
        """Write what a slow reader of standard error has left over."""
        if self._stderr is not None:
            self._stderr.flush()

    def let_stderr_go(self) -> None:
        """Close standard error, once the result was told: whoever started a background mount may wait for that."""
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = Stderr(_STDERR)  # /dev/null by now

    def close(self) -> None:
        """Let what was opened go."""
        if self._stderr is not None:
            self._stderr.close()
        if self._sock is not None:
            self._sock.close()

    def _put(self, priority: int, text: str) -> None:
        text = ipc.one_line(text, _LONGEST)
        if self._stderr is not None:
            shown = f"<{priority}>{text}" if self._keep_prefix else f"{IDENTIFIER}: {text}"
            self._stderr.write(shown.encode())
            return
        if self._path == _JOURNAL:
            record = f"MESSAGE={text}\nPRIORITY={priority}\nSYSLOG_IDENTIFIER={IDENTIFIER}\n"
        else:
            record = f"<{_DAEMON_FACILITY | priority}>{IDENTIFIER}[{os.getpid()}]: {text}"
        assert self._sock is not None
        try:
            self._sock.sendto(record.encode(), self._path)
        except OSError:
            return
