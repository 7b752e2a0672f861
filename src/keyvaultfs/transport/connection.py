"""Sockets that can be shut down from another thread, under urllib3's pools. Works with urllib3 1.26 and 2."""

from __future__ import annotations

import math
import queue
import socket
import ssl
import time
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ClosedPoolError
from urllib3.util.wait import wait_for_read

from keyvaultfs.transport.attempt import Attempt, Guard, here
from keyvaultfs.transport.bounded import BoundedResponse


def _bounded(*args: Any, **kwargs: Any) -> BoundedResponse:
    attempt = here()
    attempt.response = BoundedResponse(*args, wait=attempt.wait, **kwargs)
    return attempt.response


def dropped(sock: socket.socket) -> bool:
    """Whether the peer has ended a connection that nobody uses, or says what nobody asked for. Does not wait.

    TLS 1.3 has messages of its own that may come at any time, such as a ticket for another session: they are taken in.
    What came in the last record that was read is no longer on the socket: TLS itself has it.
    """
    if isinstance(sock, ssl.SSLSocket) and sock.pending():
        return True
    if not wait_for_read(sock, timeout=0.0):
        return False
    if not isinstance(sock, ssl.SSLSocket):
        return True
    try:
        sock.settimeout(0.0)
        sock.recv(1)
    except ssl.SSLWantReadError:
        return False
    except OSError:
        pass
    return True


class _Guarded:
    """Mixed into urllib3's connections. `_new_conn` is where both 1.26 and 2 make their socket."""

    guard: Guard | None = None
    made = used = -math.inf
    """Seconds of `time.monotonic`."""

    def _new_conn(self) -> socket.socket:
        attempt = here()
        sock = attempt.connect(self.host.strip("[]"), self.port)  # type: ignore[attr-defined]
        self.made = time.monotonic()
        try:
            self.guard = Guard(sock)
        except OSError:  # no descriptor is left
            sock.close()
            raise
        attempt.use(self.guard)
        return sock

    def putrequest(self, *args: Any, **kwargs: Any) -> Any:
        attempt = here()
        sock = getattr(self, "sock", None)
        if sock is not None:  # one of a pool, or one with TLS
            attempt.use(self.guard)
            sock.settimeout(attempt.wait())
        return super().putrequest(*args, **kwargs)  # type: ignore[misc]

    def getresponse(self) -> Any:
        attempt = here()
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

    def _connect_tls_proxy(self, hostname: str, sock: socket.socket) -> ssl.SSLSocket:
        """1.26 does not compare the names of a proxy's certificate where it is given a context."""
        assert self.proxy_config is not None
        context = self.proxy_config.ssl_context
        if context is None:
            raise ValueError("no context for the proxy")
        wrapped = context.wrap_socket(sock, server_hostname=hostname)
        self.proxy_is_verified = True
        return wrapped


class _Choosy:
    """Mixed into urllib3's pools: a kept connection is used only where the attempt takes it."""

    def _get_conn(self, timeout: float | None = None) -> Any:  # noqa: ARG002 - urllib3 hands it over
        conn = self._take()
        if conn is not None and conn.sock is not None:
            if self._takes(conn, here()):
                return conn
            conn.close()
        # 1.26: one that went through a proxy cannot be opened again.
        if conn is None or not getattr(conn, "auto_open", 1):
            return self._new_conn()  # type: ignore[attr-defined]
        return conn

    def _put_conn(self, conn: Any) -> None:
        self._put(conn, here())

    def kept(self, attempt: Attempt) -> Any:
        """A connection that can be used at once, to be given to `put` afterwards; None if there is none."""
        conn = self._take()
        if conn is None:
            return None
        if isinstance(conn.sock, socket.socket):  # TLS within TLS is none
            if self._takes(conn, attempt):
                return conn
            conn.close()
        super()._put_conn(conn)  # type: ignore[misc]
        return None

    def put(self, conn: Any, attempt: Attempt) -> None:
        """Take it back; it may be closed."""
        self._put(conn if conn.sock is not None else None, attempt)

    def _take(self) -> Any:
        try:
            return self.pool.get(block=False)  # type: ignore[attr-defined]
        except AttributeError:
            raise ClosedPoolError(self, "closed") from None  # type: ignore[arg-type]
        except queue.Empty:
            return None

    def _takes(self, conn: Any, attempt: Attempt) -> bool:
        return not dropped(conn.sock) and attempt.takes(conn.made, conn.used)

    def _put(self, conn: Any, attempt: Attempt) -> None:
        if conn is not None:
            conn.used = time.monotonic()
            if attempt.response is not None and attempt.response.overlong:
                conn.close()
        super()._put_conn(conn)  # type: ignore[misc]


class HTTPPool(_Choosy, HTTPConnectionPool):
    """Of plain connections, for `urllib3.PoolManager.pool_classes_by_scheme`."""

    ConnectionCls = _HTTP


class HTTPSPool(_Choosy, HTTPSConnectionPool):
    """Of TLS connections, verified with the context that they are given and with nothing else."""

    ConnectionCls = _HTTPS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Debian 12's urllib3 adds the system's store to any context, for each connection, which takes 25 ms besides.
        self.ca_certs = self.ca_cert_dir = None
