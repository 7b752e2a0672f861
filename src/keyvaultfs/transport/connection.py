"""Sockets that can be shut down from another thread, under urllib3's pools. Works with urllib3 1.26 and 2."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from keyvaultfs.transport.attempt import Guard, here
from keyvaultfs.transport.bounded import BoundedResponse

if TYPE_CHECKING:
    import socket
    import ssl


def _bounded(*args: Any, **kwargs: Any) -> BoundedResponse:
    attempt = here()
    attempt.response = BoundedResponse(*args, wait=attempt.wait, **kwargs)
    return attempt.response


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

    def _get_conn(self, timeout: float | None = None) -> Any:
        conn: Any = super()._get_conn(timeout)  # type: ignore[misc]
        attempt = here()
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
            response = here().response
            if response is not None and response.overlong:
                conn.close()
        super()._put_conn(conn)  # type: ignore[misc]


class HTTPPool(_Choosy, HTTPConnectionPool):
    """Of plain connections, for `urllib3.PoolManager.pool_classes_by_scheme`."""

    ConnectionCls = _HTTP


class HTTPSPool(_Choosy, HTTPSConnectionPool):
    """Of TLS connections."""

    ConnectionCls = _HTTPS
