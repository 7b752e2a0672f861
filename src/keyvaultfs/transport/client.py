"""GETs over requests' adapter, on connections that are guarded, chosen and let go by our own rules."""

from __future__ import annotations

import http.client
import time
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict

from keyvaultfs.transport.connection import Attempt, HTTPPool, HTTPSPool, current
from keyvaultfs.transport.doors import Doors

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping

T = TypeVar("T")

FAILURES = (OSError, ValueError, urllib3.exceptions.HTTPError, http.client.HTTPException)
"""What requests and the libraries below it raise where no answer came: requests' own are OSErrors, and a UnicodeError
is a ValueError."""

_POOLS = {"http": HTTPPool, "https": HTTPSPool}


def innermost(exc: BaseException) -> str:
    """A word for the log: the innermost exception tells a refused connection from a bad certificate."""
    seen: BaseException | None = exc
    names = [type(exc).__name__]
    for _ in range(8):
        inner = getattr(seen, "reason", None)
        args = seen.args if seen is not None else ()
        seen = (
            inner
            if isinstance(inner, BaseException)
            else next((a for a in args if isinstance(a, BaseException)), None)
        )
        if seen is None:
            break
        names.append(type(seen).__name__)
    return "CertificateError" if "SSLCertVerificationError" in names else names[-1]


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

    def pools(self) -> Iterator[Any]:
        """All of urllib3's pools."""
        for manager in (self.poolmanager, *tuple(self.proxy_manager.values())):
            for key in manager.pools.keys():  # noqa: SIM118 - cannot be iterated itself, since threads share it
                yield manager.pools[key]


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
        self.doors = Doors()
        self._adapter = Adapter(context, connections)
        self._proxies = {} if https_proxy is None else {"https": https_proxy}

    def get(
        self,
        url: str,
        headers: Mapping[str, str],
        attempt: Attempt,
        read: Callable[[requests.Response], T],
    ) -> T:
        """What `read` makes of an answer; tried in as many ways as there are, while the attempt has time.

        Args:
            url: absolute.
            headers: all of them.
            attempt: with `doors` of this client.
            read: reads the body; may raise one of `FAILURES`, after which another way is tried.

        Raises:
            OSError, ValueError, urllib3.exceptions.HTTPError, http.client.HTTPException: nobody answered.
            BadAnswer: the answer has more bytes than anybody needs.
        """
        failure: Exception | None = None
        while True:
            try:
                with current(attempt):
                    return self._try(url, headers, attempt, read)
            except FAILURES as exc:
                # The clearest: that a name's other addresses are silent does not tell what is wrong with the first.
                if failure is None or innermost(failure) == "TimeoutError":
                    failure = exc
            kept = attempt.kept
            if not attempt.again():
                raise failure
            if kept:
                failure = None

    def distrust(self) -> None:
        """Whoever answers is not who was meant: ask for the name's addresses again, on new connections."""
        self.doors.distrust(time.monotonic())
        self.tidy()

    def tidy(self) -> None:
        """Let go of connections that will not be used again. To be called now and then; does not wait."""
        now = time.monotonic()
        for pool in self._adapter.pools():
            kept = pool.pool  # a LifoQueue, full: None stands for a connection that is not made yet
            if kept is None:
                continue
            with kept.mutex:
                idle = [conn for conn in kept.queue if conn is not None and conn.sock is not None]
                over = [conn for conn in idle if not self.doors.usable(conn.made, conn.used, now)]
                left = [None if conn in over else conn for conn in kept.queue]
                kept.queue.clear()
                kept.queue.extend(left)
            for conn in over:
                conn.close()

    def close(self) -> None:
        """Let idle connections go."""
        self._adapter.close()

    def _try(
        self, url: str, headers: Mapping[str, str], attempt: Attempt, read: Callable[[requests.Response], T]
    ) -> T:
        request = requests.PreparedRequest()
        request.method = "GET"
        request.prepare_url(url, None)
        request.headers = CaseInsensitiveDict(headers)
        left = attempt.left()
        with self._adapter.send(
            request, stream=True, timeout=(left, left), proxies=self._proxies
        ) as response:
            return read(response)
