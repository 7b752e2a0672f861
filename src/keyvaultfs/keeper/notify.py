"""sd_notify(3): a datagram to the socket that systemd names."""

from __future__ import annotations

import os
import socket
import time


class Notifier:
    """Sends states to systemd; does nothing where nobody listens."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")  # not for the worker
        self._last = ""
        self._next_status = 0.0
        period = os.environ.pop("WATCHDOG_USEC", "")
        pid = os.environ.pop("WATCHDOG_PID", "")
        mine = not pid or pid == str(os.getpid())
        self.watchdog_seconds = int(period) / 2e6 if period.isdigit() and mine and self._address else None

    def send(self, *states: str) -> None:
        """Send assignments such as ``READY=1``; a lost datagram is no failure of ours."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        lines = [state.replace("\n", " ") for state in states]  # one line is one assignment, such as MAINPID=
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto("\n".join(lines).encode(errors="backslashreplace"), address)
        except OSError:
            return

    def status(self, text: str) -> None:
        """One line for ``systemctl status``, sent when it changes, once a second at most."""
        now = time.monotonic()
        if text != self._last and now >= self._next_status:
            self._last, self._next_status = text, now + 1
            self.send(f"STATUS={text}")

    def reloading(self) -> None:
        """A reload began (``Type=notify-reload`` wants the time in microseconds, sd_notify(3))."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
