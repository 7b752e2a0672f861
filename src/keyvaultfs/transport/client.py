"""GETs over requests' adapter, on connections that are guarded, chosen and let go by our own rules."""

from __future__ import annotations

import logging
import re
import time
from base64 import b64encode
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes, urlsplit

import urllib3
from requests.adapters import HTTPAdapter

from keyvaultfs.transport import exchange
from keyvaultfs.transport.answer import Answer, read
from keyvaultfs.transport.attempt import Attempt, current
from keyvaultfs.transport.connection import HTTPPool, HTTPSPool
from keyvaultfs.transport.doors import Doors
from keyvaultfs.transport.failures import FAILURES, word

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Mapping

# Its warnings quote what the network sent, with a traceback, once for each answer.
logging.getLogger("urllib3").setLevel(logging.CRITICAL)

_URL = re.compile("(https?://[^/?#]+)(/[^#]*)")
_ONCE = urllib3.Retry(False, redirect=False)
_MOST_SPELLINGS = 16
"""Of origins, that are kept: a link to a next page spells the vault's own as it likes, with ``:443`` or ``:0443``."""

_PORTS = {"http": 80, "https": 443}
_POOLS = {"http": HTTPPool, "https": HTTPSPool}


class Adapter(HTTPAdapter):
    """requests' pools of connections, guarded, verified with one TLS context and with nothing that requests brings.

    Args:
        context: what certificates are verified with.
        connections: how many are kept.
        https_proxy: a proxy for https, or None.
        proxy_context: what the proxy's certificate is verified with, if it speaks TLS itself.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        connections: int,
        https_proxy: str | None,
        proxy_context: ssl.SSLContext | None,
    ) -> None:
        self._proxy_context = proxy_context
        self._context = context
        self._https_proxy = https_proxy
        self._pools: dict[tuple[str, str | None, int], Any] = {}
        self._spelt: dict[str, Any] = {}
        self._hosts: dict[str, str] = {}
        super().__init__(pool_connections=2, pool_maxsize=connections, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Called by requests."""
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        """Called by requests for a proxy."""
        manager = super().proxy_manager_for(
            proxy, ssl_context=self._context, proxy_ssl_context=self._proxy_context, **kwargs
        )
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def proxy_headers(self, proxy: Any) -> dict[str, str]:
        """Called by requests: the headers of a CONNECT, which say who we are if the proxy's URL does.

        The bytes that the URL names, as curl sends them. requests would leave out a user without a password, and can
        send no letter that Latin-1 has not.
        """
        parts = urlsplit(proxy)
        if not parts.username:
            return {}
        who = unquote_to_bytes(parts.username) + b":" + unquote_to_bytes(parts.password or "")
        return {"Proxy-Authorization": f"Basic {b64encode(who).decode()}"}

    def pool(self, origin: str) -> Any:
        """urllib3's pool of an origin, such as ``https://host:8443``; the same one however it is spelt."""
        known = self._spelt.get(origin)
        if known is None:
            parts = urlsplit(origin)
            meant = parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme]
            known = self._pools.get(meant)
            if known is None:
                known = self._pools[meant] = self._new(*meant)
            if len(self._spelt) >= _MOST_SPELLINGS:
                self._spelt.clear()
                self._hosts.clear()
            self._spelt[origin] = known
        return known

    def _new(self, scheme: str, host: str | None, port: int) -> Any:
        proxied = self._https_proxy is not None and scheme == "https"
        manager = self.proxy_manager_for(self._https_proxy) if proxied else self.poolmanager
        # Said, and not left to a default of the library.
        verified = {"cert_reqs": "CERT_REQUIRED"} if scheme == "https" else None
        return manager.connection_from_host(host, port, scheme, pool_kwargs=verified)

    def host(self, origin: str) -> str:
        """What the header of that name says: an origin's host, and its port if that is not the scheme's own."""
        known = self._hosts.get(origin)
        if known is None:
            scheme, _, rest = origin.partition("://")
            known = self._hosts[origin] = rest.removesuffix(f":{_PORTS[scheme]}")
        return known

    def pools(self) -> tuple[Any, ...]:
        """All of them."""
        return tuple(self._pools.values())

    def close(self) -> None:
        """Let idle connections go."""
        for pool in self.pools():
            pool.close()
        super().close()


class Client:
    """GETs over requests' pools, and nothing else of requests: no cookies, no redirects, nothing of the environment.

    (A netrc would replace the token.) A session and its adapter would also prepare, merge and wrap what is one URL and
    five headers, for a third of a request's processor time.

    Args:
        context: what certificates are verified with.
        connections: how many are kept.
        https_proxy: a proxy for https, or None.
        proxy_context: what the proxy's certificate is verified with, if it speaks TLS itself.
    """

    failures = FAILURES
    word = staticmethod(word)

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        connections: int,
        https_proxy: str | None,
        proxy_context: ssl.SSLContext | None,
    ) -> None:
        if str(urllib3.__version__).startswith("1."):  # type: ignore[attr-defined]
            # It hands no host name to ssl for an IP address, and compares the certificate's names itself in every case,
            # except for a proxy.
            context.check_hostname = False
        self.doors = Doors()
        self._adapter = Adapter(context, connections, https_proxy, proxy_context)

    def get(self, url: str, headers: Mapping[str, str], attempt: Attempt) -> Answer:
        """An answer; tried in as many ways as there are, while the attempt has time.

        Args:
            url: absolute.
            headers: all of them.
            attempt: with `doors` of this client.

        Raises:
            OSError, ValueError, urllib3.exceptions.HTTPError, http.client.HTTPException: nobody answered.
            BadAnswer: the answer has more bytes than anybody needs, or is compressed.
        """
        failure: Exception | None = None
        try:
            while True:
                try:
                    with current(attempt):
                        return self._try(url, headers, attempt)
                except FAILURES as exc:
                    # The clearest: that a name's other addresses are silent does not tell what is wrong with the first.
                    if failure is None or word(failure).endswith("TimeoutError"):
                        failure = exc
                kept = attempt.kept
                if not attempt.again():
                    raise failure
                if kept:
                    failure = None
        finally:
            failure = None  # its frames are these: a circle, with sockets in it

    async def ask(
        self,
        url: str,
        headers: Mapping[str, str],
        attempt: Attempt,
        in_thread: Callable[[Callable[[float], Answer]], Awaitable[Answer]],
    ) -> Answer | None:
        """As `get`, on a kept connection alone, without a thread; None where `get` must see to it.

        Args:
            url, headers, attempt: as of `get`.
            in_thread: runs what blocks.

        Raises:
            one of `FAILURES`: there is no other way, or no time.
            BadAnswer: as `get`.
        """
        parts = _URL.fullmatch(url)
        if parts is None:
            return None
        said = exchange.request(self._adapter.host(parts[1]), parts[2], headers)
        if said is None:
            return None
        pool = self._adapter.pool(parts[1])
        conn = pool.kept(attempt)
        if conn is None:
            return None
        try:
            found = await exchange.ask(conn, said, attempt)
            if isinstance(found, bytes):
                return await in_thread(lambda _: exchange.read_on(conn, found, attempt))
            return found  # noqa: TRY300
        except FAILURES:
            if not attempt.again():
                raise
            return None
        finally:
            pool.put(conn, attempt)

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

    def _try(self, url: str, headers: Mapping[str, str], attempt: Attempt) -> Answer:
        parts = _URL.fullmatch(url)
        if parts is None:
            raise ValueError("no URL of ours")
        response = self._adapter.pool(parts[1]).urlopen(
            "GET",
            parts[2],
            headers=headers,
            timeout=attempt.left(),
            retries=_ONCE,
            redirect=False,
            assert_same_host=False,
            preload_content=False,
            decode_content=False,
        )
        try:
            return read(response)
        finally:
            response.close()  # and its connection, unless it was read to its end
