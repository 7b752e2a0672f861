"""GET over HTTP(S) with a deadline, a size cap and retries. No redirect is followed, nothing is quoted.

The libraries that speak HTTP take a quarter of the time that a worker needs to start, and readers wait for a worker
that takes over. So they are imported by the first request, in a thread.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from keyvaultfs import threads
from keyvaultfs.errors import BadAnswer, Unavailable
from keyvaultfs.transport import retry
from keyvaultfs.transport.attempt import Attempt
from keyvaultfs.transport.throttle import Throttle

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping

    from keyvaultfs.metrics import TransportMetrics
    from keyvaultfs.model import SecretValue
    from keyvaultfs.transport.answer import Answer
    from keyvaultfs.transport.client import Client

T = TypeVar("T")

USER_AGENT = "keyvaultfs"
_HEADERS = {"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "identity"}
_PROBE_SLOTS = 1


def _not_ok(answer: Answer) -> bool:
    return answer.status != 200


class Transport:
    """Sends GETs to one peer from worker threads.

    Args:
        max_requests: how many may be in flight; one more is kept for `get` with ``probe``.
        context: see `tls_context`; or what makes one, called by the first request: to read the system's store takes a
            while.
        https_proxy: a proxy for https, or None.
        proxy_context: what its certificate is verified with, if it speaks TLS itself.
        throttle: asked before each attempt, told of each outcome.
        metrics: counted here.
        rng: for jitter.
        wall: Unix seconds, for a dated `Retry-After`.
        wrong_door: whether an answer tells that somebody else answers, or the peer by a way that it does not like.
            Connections are let go then, and the name's addresses asked for again.
    """

    def __init__(
        self,
        *,
        max_requests: int,
        context: ssl.SSLContext | Callable[[], ssl.SSLContext],
        metrics: TransportMetrics,
        https_proxy: str | None = None,
        proxy_context: ssl.SSLContext | None = None,
        throttle: Throttle | None = None,
        rng: random.Random | None = None,
        wall: Callable[[], float] = time.time,
        wrong_door: Callable[[Answer], bool] = _not_ok,
    ) -> None:
        self._wrong_door = wrong_door
        self.rng = rng or random.Random()  # noqa: S311 - spreads requests, guards nothing
        self.throttle = throttle or Throttle(self.rng, failures=1 << 30)
        self._metrics = metrics
        self._wall = wall
        self._lock = threading.Lock()
        self._most = max_requests
        self._slots = trio.CapacityLimiter(min(max_requests, self.throttle.room))
        self._limiter = trio.CapacityLimiter(max_requests)
        self._probe_limiter = trio.CapacityLimiter(_PROBE_SLOTS)
        self._context = context
        self._https_proxy = https_proxy
        self._proxy_context = proxy_context
        self._loading = threading.Lock()
        self._loaded: Client | None = None

    async def get(
        self, url: str, headers: Mapping[str, str], *, token: SecretValue | None = None, probe: bool = False
    ) -> Answer:
        """One GET, tried again after transient failures while the caller's deadline allows.

        Args:
            url: absolute.
            headers: of the request.
            token: sent as ``Authorization: Bearer``.
            probe: use the slot that is kept for probes, and do not try again.

        Raises:
            Unavailable: nobody answered, the circuit is open, or the throttle asks for too much patience.
            BadAnswer: the answer is too large, or compressed.
            trio.TooSlowError: raised by the caller's own deadline.
        """
        for attempt in range(1 << 30):
            failure: Unavailable | None = None
            answer: Answer | None = None
            if not probe:
                self._refuse_early()
            async with contextlib.nullcontext() if probe else threads.Slot(self._slots):
                if not probe:
                    await self._admit()
                try:
                    answer = await self._attempt(
                        url, headers, token, self._probe_limiter if probe else self._limiter
                    )
                except BadAnswer:
                    self._tell_throttle(self.throttle.answered)
                    raise
                except Unavailable as exc:
                    failure = exc
                except trio.Cancelled:
                    self._tell_throttle(self.throttle.failed)
                    raise
                pause = self._judge(answer, attempt)
            left = trio.current_effective_deadline() - trio.current_time()
            if pause is None or probe or pause >= left or (self.throttle.open and failure is not None):
                if answer is None:
                    raise failure or Unavailable("NoAnswer")
                return answer
            await trio.sleep(pause)
        raise AssertionError

    @property
    def _client(self) -> Client:
        with self._loading:
            if self._loaded is None:
                from keyvaultfs.transport.client import Client

                self._loaded = Client(
                    self._context() if callable(self._context) else self._context,
                    connections=self._most + _PROBE_SLOTS,
                    https_proxy=self._https_proxy,
                    proxy_context=self._proxy_context,
                )
            return self._loaded

    def _load(self, _end: float) -> Client:
        """In a worker thread."""
        return self._client

    def distrust(self) -> None:
        """Use no connection of before now again."""
        if self._loaded is not None:
            self._loaded.distrust()

    def tidy(self) -> None:
        """Let go of connections that nobody used for a while. To be called every few seconds; does not wait."""
        if self._loaded is not None:
            self._loaded.tidy()

    def close(self) -> None:
        """Let idle connections go."""
        if self._loaded is not None:
            self._loaded.close()

    def _refuse_early(self) -> None:
        """Let nobody queue for what will not be sent.

        Raises:
            Unavailable: the circuit is open, or the pause ends after the caller's deadline.
        """
        wait = self.throttle.left(trio.current_time())
        if wait and self.throttle.open:
            raise Unavailable("CircuitOpen", retry_after=wait)
        if trio.current_time() + wait >= trio.current_effective_deadline():
            raise Unavailable("Throttled", retry_after=wait)

    async def _admit(self) -> None:
        while wait := self.throttle.wait(trio.current_time()):
            self._refuse_early()
            self._metrics.throttled += 1
            await trio.sleep(wait)

    def _judge(self, answer: Answer | None, attempt: int) -> float | None:
        """Tell the throttle, and say after how many seconds to try again; None for never."""
        if answer is None:
            self._tell_throttle(self.throttle.failed)
            return retry.pause(attempt, self.rng)
        wish = retry.retry_after(answer.headers, self._wall()) if answer.status in retry.TRANSIENT else None
        if answer.status == 429 or wish is not None:
            return self._tell_throttle(partial(self.throttle.throttled, retry_after=wish))
        if answer.status in retry.TRANSIENT:
            self._tell_throttle(self.throttle.failed)
            return retry.pause(attempt, self.rng)
        self._tell_throttle(self.throttle.answered)
        return None

    def _tell_throttle(self, what: Callable[[float], T]) -> T:
        """Tell the throttle of an outcome now; it may leave fewer slots, or give them back."""
        said = what(trio.current_time())
        slots = self._most if self.throttle.free else min(self._most, self.throttle.room)
        if slots != self._slots.total_tokens:
            self._slots.total_tokens = slots
        return said

    async def _attempt(
        self, url: str, headers: Mapping[str, str], token: SecretValue | None, limiter: trio.CapacityLimiter
    ) -> Answer:
        outcome = "cancelled"
        client = self._loaded
        if client is None:
            client = await threads.run(self._load, limiter)
        attempt = Attempt(threads.end(), client.doors, self._count_stuck)
        sent = {**_HEADERS, **headers}
        if token is not None:
            sent["Authorization"] = "Bearer " + token.reveal().decode("ascii")
        try:
            answer = await self._answer(client, url, sent, attempt, limiter)
            outcome = str(answer.status)
        except trio.Cancelled:
            attempt.abort()
            raise
        except Unavailable as exc:
            outcome = exc.cause
            raise
        finally:
            self._metrics.requests[outcome] += 1
        return answer

    async def _answer(
        self,
        client: Client,
        url: str,
        sent: Mapping[str, str],
        attempt: Attempt,
        limiter: trio.CapacityLimiter,
    ) -> Answer:
        """On a kept connection, or in a thread on a new one."""

        async def in_thread(fn: Callable[[float], Answer]) -> Answer:
            # A thread left behind keeps its slot until it ends: a resolver that never answers is bounded.
            return await threads.run(fn, limiter)

        try:
            with self._in_flight():
                answer = await client.ask(url, sent, attempt, in_thread)
            if answer is None:
                answer = await in_thread(partial(self._send, client, url, sent, attempt))
        except BadAnswer:
            client.distrust()
            raise
        except client.failures as exc:
            cause = "Timeout" if _is_over(attempt) else client.word(exc)
        else:
            if self._wrong_door(answer):
                client.distrust()
            return answer
        # Not from within the clause: as its context that exception would keep the request's frames, with socket and
        # token, for as long as anybody remembers this one.
        raise Unavailable(cause)

    def _send(
        self, client: Client, url: str, sent: Mapping[str, str], attempt: Attempt, _end: float
    ) -> Answer:
        """In a worker thread, which ends soon after the attempt's end, whatever the peer does."""
        with self._in_flight():
            return client.get(url, sent, attempt)

    @contextlib.contextmanager
    def _in_flight(self) -> Iterator[None]:
        self._count_in_flight(1)
        try:
            yield
        finally:
            self._count_in_flight(-1)

    def _count_stuck(self, change: int) -> None:
        with self._lock:
            self._metrics.stuck_threads += change

    def _count_in_flight(self, change: int) -> None:
        with self._lock:
            self._metrics.in_flight += change
            self._metrics.in_flight_max = max(self._metrics.in_flight_max, self._metrics.in_flight)


def _is_over(attempt: Attempt) -> bool:
    try:
        attempt.left()
    except TimeoutError:
        return True
    return False
