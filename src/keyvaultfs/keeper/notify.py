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
        period = os.environ.pop("WATCHDOG_USEC", "")
        pid = os.environ.pop("WATCHDOG_PID", "")
        mine = not pid or pid == str(os.getpid())
        self.watchdog_seconds = int(period) / 2e6 if period.isdigit() and mine and self._address else None

    def send(self, *states: str) -> None:
        """Send assignments such as ``READY=1``; a lost datagram is no failure of ours."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            try:
                sock.sendto("\n".join(states).encode(), address)
            except OSError:
                return

    def status(self, text: str) -> None:
        """One line for ``systemctl status``, sent when it changes."""
        if text != self._last:
            self._last = text
            self.send(f"STATUS={text}")

    def reloading(self) -> None:
        """A reload began (``Type=notify-reload`` wants the time in microseconds, sd_notify(3))."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
