"""From the addresses of a name to one connected socket. Raced, so that a dead one costs a moment (RFC 8305)."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import chain, takewhile, zip_longest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    Address = tuple[Any, ...]
    """As `getaddrinfo` gives one: family, type, protocol, canonical name, and the address itself."""

STAGGER_SECONDS = 0.25
"""The next address is tried when the one before has not answered for so long (RFC 8305 §5)."""

MOST = 16
"""Addresses of a name that are tried. Azure's names have a few; one with a thousand shall not cost as many sockets."""

_KEEP_ALIVE_SECONDS = 20
_KEEP_ALIVE_PAUSE_SECONDS = 5
_KEEP_ALIVES = 3
_UNACKNOWLEDGED_MS = 15_000


def ordered(found: Iterable[Address], last: Collection[Any]) -> list[Address]:
    """The order in which to try: families in turn (RFC 8305 §4), those in `last` behind the others; each once."""
    unique = list({entry[4]: entry for entry in found}.values())
    first = unique[0][0] if unique else socket.AF_INET6
    families = ([entry for entry in unique if (entry[0] == first) is same] for same in (True, False))
    mixed = [entry for entry in chain.from_iterable(zip_longest(*families)) if entry is not None]
    return sorted(mixed, key=lambda entry: entry[4] in last)[:MOST]


@dataclass(slots=True, eq=False)
class Race:
    """Connects to one of several addresses, whichever answers first.

    Args:
        candidates: in the order in which they are tried.
        left: seconds to the end; raises TimeoutError when there are none, which ends the race.
    """

    candidates: Iterable[Address]
    left: Callable[[], float]
    failed: set[Any] = field(default_factory=set)
    """Addresses that refused."""
    outrun: set[Any] = field(default_factory=set)
    """Addresses that had not answered when one that was tried later did, or when the time was over."""
    _running: dict[int, tuple[socket.socket, Address]] = field(default_factory=dict)
    _error: OSError = field(default_factory=lambda: OSError("the name has no address"))

    def run(self) -> tuple[socket.socket, Any]:
        """The first socket that is connected, and its address.

        Raises:
            OSError: no address answered; TimeoutError: as `left`.
        """
        poll = select.poll()
        waiting = deque(self.candidates)
        start_at = 0.0
        try:
            while waiting or self._running:
                now = time.monotonic()
                if waiting and (now >= start_at or not self._running):
                    start_at = now + min(STAGGER_SECONDS, self.left() / 4)
                    self._start(waiting.popleft(), poll)
                    continue
                # Never longer than this: `left` also tells that the attempt was ended from outside.
                pause = min(self.left(), max(0.0, start_at - now) if waiting else STAGGER_SECONDS)
                for descriptor, _ in poll.poll(pause * 1000):
                    earlier = takewhile(descriptor.__ne__, tuple(self._running))
                    sock, (*_, address) = self._running.pop(descriptor)
                    poll.unregister(descriptor)
                    if not (number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                        self.outrun = {self._running[one][1][4] for one in earlier}
                        return sock, address
                    self._lost(sock, address, number)
                    start_at = 0.0
        except TimeoutError:
            silent = tuple(self._running.values())[:-1]  # the last had less time
            self.outrun = {entry[4] for _, entry in silent}
            raise
        finally:
            for sock, _ in self._running.values():
                sock.close()
        raise self._error

    def _start(self, candidate: Address, poll: select.poll) -> None:
        family, kind, protocol, _, address = candidate
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as exc:  # this machine has no such family
            self.failed.add(address)
            self._error = exc
            return
        sock.setblocking(False)
        number = sock.connect_ex(address)
        if number not in {0, errno.EINPROGRESS}:
            self._lost(sock, address, number)
            return
        self._running[sock.fileno()] = sock, candidate
        poll.register(sock, select.POLLOUT)

    def _lost(self, sock: socket.socket, address: Any, number: int) -> None:
        sock.close()
        self.failed.add(address)
        self._error = OSError(number, os.strerror(number))


def watch(sock: socket.socket) -> None:
    """Have the kernel find out whether the peer is still there, while nobody waits for it."""
    for level, option, value in (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEP_ALIVE_SECONDS),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEP_ALIVE_PAUSE_SECONDS),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEP_ALIVES),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS),
    ):
        sock.setsockopt(level, option, value)
