"""Starts the process of a worker: with what it is to serve, or ahead of that.

Imports are most of a start, and need nothing of what is mounted. So the first worker of a mount starts before the
command line is read, and is handed everything with its charge (`WorkerProcess`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket

from keyvaultfs import descriptors, isolation

# Not typing's: to import that is a fifth of all that comes before the first worker starts.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Mapping

_ABOVE_FIXED = 16
_SO_PASSRIGHTS = 83  # include/uapi/asm-generic/socket.h, since Linux 6.16
_OF_THE_KEEPER = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "INVOCATION_ID", "JOURNAL_STREAM"}


class Begun:
    """A process that imports, and waits for its charge.

    Args:
        pid: a child of this process.
        channel: our end of the socket pair.
        log: our end of the pipe that it logs to.
    """

    __slots__ = ("channel", "log", "pid")

    def __init__(self, pid: int, channel: int, log: int) -> None:
        self.pid = pid
        self.channel = channel
        self.log = log

    def give_up(self) -> None:
        """End it; nothing has been handed to it."""
        os.close(self.channel)
        os.close(self.log)
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def high(fd: int) -> int:
    """A duplicate above the numbers that a worker is given, closed on exec; `fd` itself is closed."""
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE_FIXED)
    finally:
        os.close(fd)


def refuse_descriptors(sock: socket.socket) -> bool:
    """Have whoever sends descriptors to this socket be refused; False where the kernel cannot (before 6.16)."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
        return True
    return False


def spawn(handed: Mapping[int, int], name: str, environment: Mapping[str, str]) -> Begun:
    """Start a worker.

    Args:
        handed: descriptors by the number that the worker is to find them at; /dev/null is at the others.
        name: for people who look at the list of processes.
        environment: of a keeper.

    Raises:
        OSError: no process, no descriptor or no memory was to be had; nothing of it is left.
    """
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:

        def own(fd: int, stack: contextlib.ExitStack) -> int:
            raised = high(fd)
            stack.callback(os.close, raised)
            return raised

        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel, channel_end = own(pair[0].detach(), ours), own(pair[1].detach(), theirs)
        log_read, log_write = os.pipe()
        log, log_end = own(log_read, ours), own(log_write, theirs)
        os.set_blocking(log, False)
        null = own(os.open(os.devnull, os.O_RDWR), theirs)
        wanted = dict.fromkeys(range(descriptors.FIRST_FREE_FD), null) | dict(handed)
        wanted |= {descriptors.LOG_FD: log_end, descriptors.CHANNEL_FD: channel_end}
        command = isolation.command("keyvaultfs.worker", name)
        pid = os.posix_spawn(
            command[0],
            command,
            {key: value for key, value in environment.items() if key not in _OF_THE_KEEPER},
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in wanted.items()],
            setsid=True,  # Ctrl-C in a terminal is for the keeper
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE],
            setsigmask=[],
        )
        ours.pop_all()
        return Begun(pid, channel, log)
    raise AssertionError  # ExitStack swallows nothing


def ahead(name: str) -> Begun | None:
    """Start a worker before it is known what it is to serve; None if there is no process or memory for it now.

    Args:
        name: as of `spawn`.
    """
    environment = isolation.environment(azure=False, developer=isolation.from_source())
    with contextlib.suppress(OSError):
        return spawn({}, name, environment)
    return None
