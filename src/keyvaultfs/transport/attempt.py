"""One request in one thread, which another thread may end; by as many ways as it takes, within one deadline."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from keyvaultfs.transport import addresses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keyvaultfs.transport.bounded import BoundedResponse
    from keyvaultfs.transport.doors import Doors


class Guard:
    """A second descriptor of a connection's socket: TLS takes the first one away from its owner.

    Held by the connection and by the attempt: http.client closes a connection whose answer ends with it before that
    answer is read.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._lock = threading.Lock()
        self._holders = 1
        self._sock: socket.socket | None = socket.socket(fileno=os.dup(sock.fileno()))

    def shut_down(self) -> None:
        """End every wait on the socket. From any thread."""
        with self._lock, contextlib.suppress(OSError):
            if self._sock is not None:
                self._sock.shutdown(socket.SHUT_RDWR)

    def hold(self) -> None:
        """One holder more."""
        with self._lock:
            self._holders += 1

    def close(self) -> None:
        """One holder less; the last one lets the descriptor go."""
        with self._lock:
            self._holders -= 1
            if self._sock is not None and not self._holders:
                self._sock.close()
                self._sock = None


class Attempt:
    """One request in one thread, which another thread may end: as many tries as it takes, within one deadline.

    The first try may be on a kept connection, which gets a small share of the time, since the network may have
    forgotten it. Each later one makes a connection, to an address that was not tried yet.

    Args:
        end: seconds of `time.monotonic`.
        doors: what is known of the peer's connections and addresses.
        stuck: called with +1 when it was ended while it resolved a name, which nothing can end; with -1 later.

    Attributes:
        response: the answer that is being read, if one came.
        kept: whether the try is on a connection that was kept.
    """

    def __init__(self, end: float, doors: Doors, stuck: Callable[[int], None]) -> None:
        self.end = end
        self.response: BoundedResponse | None = None
        self._doors = doors
        self._stuck = stuck
        self._lock = threading.Lock()
        self._guard: Guard | None = None
        self._aborted = False
        self._resolving = False
        self._kept_allowed = True
        self.kept = False
        self._taken = self._made = self._idle = 0.0
        self._address: Any = None
        self._others = False
        self._tried: set[Any] = set()
        self._patience = math.inf

    def left(self) -> float:
        """Seconds to the end.

        Raises:
            TimeoutError: there are none, or the attempt was ended.
        """
        left = self.end - time.monotonic()
        if left <= 0 or self._aborted:
            raise TimeoutError("the deadline is over")
        return left

    def wait(self) -> float:
        """Seconds that the next wait for the peer may take; raises as `left`."""
        return min(self.left(), self._patience)

    def takes(self, made: float, used: float) -> bool:
        """Whether to use a kept connection, made and last used at these moments."""
        now = time.monotonic()
        if not self._kept_allowed or not self._doors.usable(made, used, now):
            return False
        self.kept = True
        self._taken, self._made, self._idle = now, made, now - used
        self._patience = self._doors.patience_with_kept(self.left())
        return True

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Meanwhile an answer to what was sent is waited for."""
        began = time.monotonic()
        if not self.kept:
            self._patience = self._doors.patience_with_answer(self.left()) if self._others else math.inf
        yield
        self._doors.answered(time.monotonic() - began)

    def again(self) -> bool:
        """Whether to try once more, after a failure: there is time, and another way."""
        now = time.monotonic()
        if self.kept:
            self._let_go(now)
        elif self._address is not None:
            self._tried.add(self._address)
            self._doors.shun(self._address, now)
        other_way = self.kept or self._others
        self._kept_allowed = self.kept = self._others = False
        self._address = None
        self._patience = math.inf
        return other_way and not self._aborted and now < self.end

    def _let_go(self, now: float) -> None:
        """A kept connection failed."""
        if now - self._taken < self._patience:
            self._doors.distrust(now)  # it was closed, or reset: no wonder, but what of the others?
        else:
            self._doors.lost(self._made, self._idle, now)

    def _left_for_others(self) -> Callable[[], float]:
        """As `left`, for the name's other addresses: once one of them answered, be it badly, not all that is left."""
        until = time.monotonic() + self._doors.patience_with_handshake(self.left())

        def left() -> float:
            if (seconds := until - time.monotonic()) <= 0:
                raise TimeoutError("no other address answered")
            return min(seconds, self.left())

        return left

    def use(self, guard: Guard | None) -> None:
        """From now on this is the socket that the attempt waits on."""
        if guard is not None:
            guard.hold()
        with self._lock:
            before, self._guard = self._guard, guard
            aborted = self._aborted
        if before is not None:
            before.close()
        if aborted and guard is not None:
            guard.shut_down()

    def abort(self) -> None:
        """End it: its socket is shut down, so that its thread ends."""
        with self._lock:
            self._aborted = True
            guard = self._guard
            if self._resolving:
                self._stuck(1)
        if guard is not None:
            guard.shut_down()

    def resolve(self, host: str, port: int) -> list[tuple[Any, ...]]:
        """Addresses of a host; may outlast the deadline."""
        with self._lock:
            self._resolving = True
        try:
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        finally:
            with self._lock:
                self._resolving = False
                if self._aborted:
                    self._stuck(-1)

    def connect(self, host: str, port: int) -> socket.socket:
        """A connected socket. The name is asked for anew each time: it may have moved.

        Raises:
            OSError: no address answered.
        """
        found = addresses.ordered(self.resolve(host, port), self._doors.shunned(time.monotonic()))
        untried = [one for one in found if one[4] not in self._tried]
        race = addresses.Race(untried or found, self._left_for_others() if self._tried else self.left)
        try:
            sock, self._address = race.run()
        finally:  # also where none answered: of a name with many addresses the others come first next time
            for slower in race.failed | race.outrun:
                self._doors.shun(slower, time.monotonic())
        try:
            self._others = bool({one[4] for one in found} - self._tried - race.failed - {self._address})
            if self._others:
                self._patience = self._doors.patience_with_handshake(self.left())
            sock.settimeout(self.wait())
            addresses.watch(sock)
        except OSError:  # the deadline is one
            sock.close()
            raise
        return sock


_here = threading.local()


@contextlib.contextmanager
def current(attempt: Attempt) -> Iterator[None]:
    """Connections that this thread makes or takes from a pool meanwhile belong to `attempt`."""
    _here.attempt = attempt
    try:
        yield
    finally:
        attempt.use(None)
        if attempt.response is not None:
            attempt.response.close()  # http.client before Python 3.12 leaves that of a refused tunnel open
            attempt.response = None
        _here.attempt = None


def here() -> Attempt:
    """The attempt of this thread."""
    attempt: Attempt = _here.attempt
    return attempt
