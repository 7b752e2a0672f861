"""Signals as bytes of a socket, so that the loop hears of them where it hears of everything else."""

from __future__ import annotations

import signal
import socket

from keyvaultfs.keeper.spawn import high

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_HEARD = (*STOPS, signal.SIGHUP, signal.SIGCHLD, signal.SIGALRM)
_IGNORED = (signal.SIGPIPE, signal.SIGUSR1, signal.SIGUSR2, signal.SIGVTALRM, signal.SIGPROF)
_INTERRUPT_SECONDS = 1.0


def interrupt_waits() -> None:
    """From now on no wait in the kernel that a signal can interrupt lasts longer than a second.

    Whoever drops the last reference to a socket that has data to send, and SO_LINGER set, waits for the other side. A
    worker may attach such a one to a message, and the keeper drops it.
    """
    if signal.getitimer(signal.ITIMER_REAL)[1] == 0:
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, _INTERRUPT_SECONDS, _INTERRUPT_SECONDS)


class Signals:
    """Takes them over, whatever who started us has blocked or ignored."""

    def __init__(self) -> None:
        reading, writing = socket.socketpair()
        reading.setblocking(False)
        writing.setblocking(False)
        self._reading = socket.socket(fileno=high(reading.detach()))
        self._writing = socket.socket(fileno=high(writing.detach()))
        signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        for number in _HEARD:
            signal.signal(number, lambda *_: None)
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    def fileno(self) -> int:
        """Readable when there is one."""
        return self._reading.fileno()

    def received(self) -> list[int]:
        """Those that came since the last call."""
        return list(self._reading.recv(4096))
