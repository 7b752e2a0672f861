"""Sockets that can be shut down from another thread, under urllib3's pools. Works with urllib3 1.26 and 2."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from keyvaultfs.transport import addresses
from keyvaultfs.transport.bounded import BoundedResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
            self._doors.distrust(now)
        elif self._address is not None:
            self._tried.add(self._address)
            self._doors.shun(self._address, now)
        other_way = self.kept or self._others
        self._kept_allowed = self.kept = self._others = False
        self._address = None
        self._patience = math.inf
        return other_way and not self._aborted and now < self.end

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
        sock, self._address = race.run()
        for slower in race.failed | race.outrun:
            self._doors.shun(slower, time.monotonic())
        self._others = bool({one[4] for one in found} - self._tried - race.failed - {self._address})
        if self._others:
            self._patience = self._doors.patience_with_handshake(self.left())
        sock.settimeout(self.wait())
        addresses.watch(sock)
        return sock


_here = threading.local()


def _bounded(*args: Any, **kwargs: Any) -> BoundedResponse:
    attempt: Attempt = _here.attempt
    attempt.response = BoundedResponse(*args, wait=attempt.wait, **kwargs)
    return attempt.response


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


class _Guarded:
    """Mixed into urllib3's connections. `_new_conn` is where both 1.26 and 2 make their socket."""

    guard: Guard | None = None
    made = used = -math.inf
    """Seconds of `time.monotonic`."""

    def _new_conn(self) -> socket.socket:
        attempt: Attempt = _here.attempt
        sock = attempt.connect(self.host.strip("[]"), self.port)  # type: ignore[attr-defined]
        self.made = time.monotonic()
        self.guard = Guard(sock)
        attempt.use(self.guard)
        return sock

    def putrequest(self, *args: Any, **kwargs: Any) -> Any:
        attempt: Attempt = _here.attempt
        sock = getattr(self, "sock", None)
        if sock is not None:  # one of a pool, or one with TLS
            attempt.use(self.guard)
            sock.settimeout(attempt.wait())
        return super().putrequest(*args, **kwargs)  # type: ignore[misc]

    def getresponse(self) -> Any:
        attempt: Attempt = _here.attempt
        with attempt.answering():
            return super().getresponse()  # type: ignore[misc]

    def close(self) -> None:
        if self.guard is not None:
            self.guard.close()
            self.guard = None
        super().close()  # type: ignore[misc]


class _HTTP(_Guarded, HTTPConnection):
    response_class = staticmethod(_bounded)  # type: ignore[assignment]


class _HTTPS(_Guarded, HTTPSConnection):
    response_class = staticmethod(_bounded)  # type: ignore[assignment]


class _Choosy:
    """Mixed into urllib3's pools: a kept connection is used only where the attempt takes it."""

    def _get_conn(self, timeout: float | None = None) -> Any:
        conn: Any = super()._get_conn(timeout)  # type: ignore[misc]
        attempt: Attempt = _here.attempt
        if conn.sock is not None and not attempt.takes(conn.made, conn.used):
            conn.close()
            if not getattr(
                conn, "auto_open", 1
            ):  # 1.26: one that went through a proxy cannot be opened again
                return self._new_conn()  # type: ignore[attr-defined]
        return conn

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.used = time.monotonic()
            response = _here.attempt.response
            if response is not None and response.overlong:
                conn.close()
        super()._put_conn(conn)  # type: ignore[misc]


class HTTPPool(_Choosy, HTTPConnectionPool):
    """Of plain connections, for `urllib3.PoolManager.pool_classes_by_scheme`."""

    ConnectionCls = _HTTP


class HTTPSPool(_Choosy, HTTPSConnectionPool):
    """Of TLS connections."""

    ConnectionCls = _HTTPS
