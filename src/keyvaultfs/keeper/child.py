"""A child that is forked from the keeper, without an exec, and talks to it through a socket. Standard library only."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

from keyvaultfs.keeper.spawn import high

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

_DESCRIPTORS = 1 << 16


def start(
    serve: Callable[[socket.socket], None], keep: Collection[int], ignore: Collection[signal.Signals]
) -> tuple[int, socket.socket]:
    """Fork a child that keeps a socket to us, and nothing else of ours but what is named.

    Args:
        serve: runs in the child, with its end of the socket; the child ends when this does.
        keep: descriptors that the child keeps.
        ignore: signals that the child ignores; it handles none that the keeper handles.

    Returns:
        Its process id, and our end of the socket, which never blocks.

    Raises:
        OSError: no process or no descriptor was to be had.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pid = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        try:
            _leave_the_keeper({theirs.fileno(), *keep}, ignore)
            serve(theirs)
        finally:
            os._exit(0)
    theirs.close()
    sock = socket.socket(fileno=high(ours.detach()))
    sock.setblocking(False)
    return pid, sock


def close_all_but(kept: Collection[int]) -> None:
    """Close every descriptor but the standard streams and these."""
    first = 3
    for fd in sorted(kept):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, _DESCRIPTORS)


def _leave_the_keeper(kept: Collection[int], ignore: Collection[signal.Signals]) -> None:
    signal.set_wakeup_fd(-1)
    for one in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(one, signal.SIG_DFL)
    for one in ignore:
        signal.signal(one, signal.SIG_IGN)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    close_all_but(kept)
