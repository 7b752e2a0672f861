"""Sockets that can be shut down from another thread, under urllib3's pools. Works with urllib3 1.26 and 2."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping


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
    """One try of one request, in one thread, which another thread may end.

    Args:
        end: seconds of `time.monotonic`.
        stuck: called with +1 when it was ended while it resolved a name, which nothing can end; with -1 later.
    """

    def __init__(self, end: float, stuck: Callable[[int], None]) -> None:
        self.end = end
        self._stuck = stuck
        self._lock = threading.Lock()
        self._guard: Guard | None = None
        self._aborted = False
        self._resolving = False

    def left(self) -> float:
        """Seconds to the end.

        Raises:
            TimeoutError: there are none, or the attempt was ended.
        """
        left = self.end - time.monotonic()
        if left <= 0 or self._aborted:
            raise TimeoutError("the deadline is over")
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
        """A connected socket: all addresses of the host share the deadline.

        Raises:
            OSError: none of them answered.
        """
        last: OSError = OSError("the name has no address")
        for family, kind, protocol, _, address in self.resolve(host, port):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(self.left())
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.connect(address)
            except OSError as exc:
                last = exc
                sock.close()
            else:
                return sock
        raise last


_here = threading.local()


@contextlib.contextmanager
def current(attempt: Attempt) -> Iterator[None]:
    """Connections that this thread makes or takes from a pool meanwhile belong to `attempt`."""
    _here.attempt = attempt
    try:
        yield
    finally:
        attempt.use(None)
        _here.attempt = None


class _Guarded:
    """Mixed into urllib3's connections. `_new_conn` is where both 1.26 and 2 make their socket."""

    guard: Guard | None = None

    def _new_conn(self) -> socket.socket:
        attempt: Attempt = _here.attempt
        sock = attempt.connect(self.host.strip("[]"), self.port)  # type: ignore[attr-defined]
        self.guard = Guard(sock)
        attempt.use(self.guard)
        return sock

    def putrequest(self, *args: Any, **kwargs: Any) -> Any:
        attempt: Attempt = _here.attempt
        sock = getattr(self, "sock", None)
        if sock is not None:  # one of a pool
            attempt.use(self.guard)
            sock.settimeout(attempt.left())
        return super().putrequest(*args, **kwargs)  # type: ignore[misc]

    def close(self) -> None:
        if self.guard is not None:
            self.guard.close()
            self.guard = None
        super().close()  # type: ignore[misc]


class _HTTP(_Guarded, HTTPConnection):
    pass


class _HTTPS(_Guarded, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTP


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPS


_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}


class Adapter(HTTPAdapter):
    """requests over guarded connections, verified with one TLS context and with nothing that requests brings.

    Args:
        context: what certificates are verified with.
        connections: how many are kept.
    """

    def __init__(self, context: ssl.SSLContext, connections: int) -> None:
        self._context = context
        super().__init__(pool_connections=2, pool_maxsize=connections, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Called by requests."""
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        """Called by requests for a proxy."""
        manager = super().proxy_manager_for(proxy, ssl_context=self._context, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:  # noqa: ARG002
        """Called by requests, which would add the authorities of certifi."""
        conn.cert_reqs = "CERT_REQUIRED"

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:  # noqa: ARG002
        """Called by requests 2.32 and later, which would add the same."""
        parts = urlsplit(request.url)
        return {"scheme": parts.scheme, "host": parts.hostname, "port": parts.port}, {
            "cert_reqs": "CERT_REQUIRED"
        }


class Client:
    """GETs over requests' adapter, without a session: no cookies, no redirects, nothing of the environment.

    (A netrc would replace the token.) A session would also merge settings and hooks that we do not have, for a quarter
    of a request's processor time.

    Args:
        context: what certificates are verified with.
        connections: how many are kept.
        https_proxy: a proxy for https, or None.
    """

    def __init__(self, context: ssl.SSLContext, *, connections: int, https_proxy: str | None) -> None:
        self._adapter = Adapter(context, connections)
        self._proxies = {} if https_proxy is None else {"https": https_proxy}

    def get(self, url: str, headers: Mapping[str, str], seconds: float) -> requests.Response:
        """An answer whose body is still to be read, and which is to be closed.

        Args:
            url: absolute.
            headers: all of them.
            seconds: for each wait; the whole is the caller's to bound.

        Raises:
            requests.RequestException, OSError, ValueError: see requests.
        """
        request = requests.PreparedRequest()
        request.method = "GET"
        request.prepare_url(url, None)
        request.headers = CaseInsensitiveDict(headers)
        return self._adapter.send(request, stream=True, timeout=(seconds, seconds), proxies=self._proxies)

    def close(self) -> None:
        """Let idle connections go."""
        self._adapter.close()
