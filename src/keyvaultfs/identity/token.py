"""One access token for all requests, renewed ahead of its end."""

from __future__ import annotations

import copy
import math
import random
from typing import TYPE_CHECKING, NamedTuple, Protocol

import trio

from keyvaultfs.errors import BadAnswer, KeyVaultFSError, Unavailable, bare, facts
from keyvaultfs.transport import retry

if TYPE_CHECKING:
    from keyvaultfs.log import Causes
    from keyvaultfs.metrics import IdentityMetrics
    from keyvaultfs.model import SecretValue

IN_HAND_SECONDS = 300.0
"""A token is renewed at the latest so long before its end (as MSAL does, PROTOCOL §7)."""

_HALF_LIFE_FROM_SECONDS = 7200.0
_SAME_AGAIN_SECONDS = 5.0
_DECLINED_SECONDS = 10.0
_FIRST_SECONDS = 0.8
_LONGEST_PAUSE_SECONDS = 15.0
_LONGEST_WISH_SECONDS = 60.0
_CAUSE = "no token from the identity endpoint"


class AccessToken(NamedTuple):
    """A token and its times, in seconds of trio's clock. Never shown.

    Attributes:
        obtained: when it arrived.
        expires: when it ends.
    """

    text: SecretValue
    obtained: float
    expires: float

    def __repr__(self) -> str:
        return "<AccessToken>"

    def due(self) -> float:
        """When it is to be renewed: at half its life if that is long, always with some minutes in hand."""
        life = self.expires - self.obtained
        if life >= _HALF_LIFE_FROM_SECONDS:
            return self.obtained + life / 2
        return self.expires - min(IN_HAND_SECONDS, life / 2)


class Declined(Unavailable):
    """The source answered, and gives no token: asking again in a moment will not help, but later it may (PROTOCOL §7).

    Never `Refused`: that is the vault's word about a secret, and takes it away.
    """


class TokenSource(Protocol):
    """Where tokens come from."""

    async def fetch(self) -> AccessToken:
        """Ask once, within the caller's deadline.

        Raises:
            Unavailable: nobody answered; worth asking again soon.
            Declined, BadAnswer: there is no such identity, or the like; asked again later all the same.
        """


class SharedToken:
    """Hands out the token, and has one renewal under way at most.

    `run` must be running: renewals belong to it, not to the reader who came first.

    Args:
        attempt_seconds: what one question to the source may take.
    """

    def __init__(
        self,
        source: TokenSource,
        *,
        metrics: IdentityMetrics,
        causes: Causes,
        rng: random.Random,
        attempt_seconds: float = 10.0,
    ) -> None:
        self.source = source
        self._metrics = metrics
        self._causes = causes
        self._rng = rng
        self._attempt_seconds = attempt_seconds
        self._token: AccessToken | None = None
        self._failure: Unavailable | None = None
        self._next_try = -math.inf
        self._wanted = trio.Event()
        self._settled = trio.Event()
        self._same_until = -math.inf

    @property
    def last(self) -> AccessToken | None:
        """The last one that was got, whether it still holds or not."""
        return self._token

    async def current(self) -> AccessToken:
        """A token that has not ended; waits for one within the caller's deadline.

        Raises:
            Declined, BadAnswer: the source gave none, a moment ago.
        """
        while True:
            now = trio.current_time()
            if self._token is not None and now < self._token.expires:
                return self._token
            if isinstance(self._failure, _DEFINITE) and now < self._next_try:
                raise copy.copy(self._failure) from None
            self._wanted.set()
            await self._settled.wait()

    async def rejected(self, token: AccessToken) -> AccessToken | None:
        """The vault took `token` for invalid: a newer one, or None when the source has nothing newer.

        A failure of the source that may be over soon is waited out, as long as its next try is before the caller's
        deadline.

        Raises:
            Unavailable: as the source; trio.TooSlowError is the caller's own.
        """
        while True:
            if self._token is not None and self._token is not token:
                return self._token
            if trio.current_time() < self._same_until:
                return None
            before = self._settled
            self._wanted.set()
            await before.wait()
            if self._failure is None:
                break
            definite = isinstance(self._failure, _DEFINITE)
            if definite or self._next_try >= trio.current_effective_deadline():
                raise copy.copy(self._failure) from None
        if self._token is None or self._token.text.reveal() == token.text.reveal():
            # IMDS hands out a token that it caches itself: there is no way to make it give another.
            self._same_until = trio.current_time() + _SAME_AGAIN_SECONDS
            return None
        return self._token

    def renew(self) -> None:
        """Ask for a token now, as after a suspended machine woke; the old one is used until then."""
        self._wanted.set()

    def left(self) -> float:
        """Seconds until the token ends; 0 without one."""
        return 0.0 if self._token is None else self._token.expires - trio.current_time()

    def status(self) -> dict[str, object]:
        """For the file ``status``."""
        if self._token is None:
            return {"state": "none", "error": "" if self._failure is None else self._failure.cause}
        left = self._token.expires - trio.current_time()
        return {"state": "valid" if left > 0 else "ended", "seconds_left": round(left)}

    async def run(self) -> None:
        """Renew ahead, and go on trying after failures. Runs until cancelled."""
        failures = 0
        while True:
            if not failures:
                due = math.inf if self._token is None else self._token.due() - trio.current_time()
                with trio.move_on_after(max(0.0, due)):
                    await self._wanted.wait()
            await self._renew()
            failures = 0 if self._failure is None else failures + 1
            if self._failure is not None:
                pause = self._pause(self._failure, failures)
                self._next_try = trio.current_time() + pause
                await trio.sleep(pause)

    def _pause(self, failure: Unavailable, failures: int) -> float:
        """Seconds until the next try, after so many failures in a row."""
        first = _DECLINED_SECONDS if isinstance(failure, _DEFINITE) else _FIRST_SECONDS
        pause = retry.pause(failures, self._rng, first=first / 2, longest=_LONGEST_PAUSE_SECONDS)
        return max(0.1, pause, min(_LONGEST_WISH_SECONDS, failure.retry_after or 0.0))

    async def _renew(self) -> None:
        self._metrics.requests += 1
        try:
            with trio.fail_after(self._attempt_seconds):
                self._token = await self.source.fetch()
        except (KeyVaultFSError, trio.TooSlowError) as exc:
            self._metrics.failures += 1
            self._failure = _as_failure(exc)
            self._causes.begin(_CAUSE, **facts(self._failure))
        else:
            self._failure = None
            self._causes.end(_CAUSE)
        self._wanted = trio.Event()  # who asked meanwhile has his answer
        settled, self._settled = self._settled, trio.Event()
        settled.set()


_DEFINITE = (Declined, BadAnswer)


def _as_failure(exc: Exception) -> Unavailable:
    """What is remembered, and told to readers: whatever the source says, it is not the vault that says it."""
    if isinstance(exc, Unavailable):
        return bare(exc)
    return Declined(exc.cause, exc.hint) if isinstance(exc, KeyVaultFSError) else Unavailable("TokenTimeout")
