"""Whether anybody answers: one log line when an outage begins and one when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyvaultfs.errors import BadAnswer, Disabled, KeyVaultFSError, NotFound

if TYPE_CHECKING:
    from keyvaultfs.log import Causes

_UNREACHABLE = "vault unreachable"


class Outage:
    """Told of each answer and of each failure to get one. True while nobody answers anything."""

    def __init__(self, causes: Causes) -> None:
        self._causes = causes
        self._since_answer = float("-inf")
        self._on = False
        self._of_one: dict[str, str] = {}

    def __bool__(self) -> bool:
        return self._on

    def failed(self, what: str, exc: Exception, sent: float) -> None:
        """Nobody answered a request of the time `sent`; if others were answered meanwhile, it is about `what` alone."""
        error = exc.cause if isinstance(exc, KeyVaultFSError) else "Timeout"
        hint = repr(exc.hint) if isinstance(exc, KeyVaultFSError) and exc.hint else None
        facts = {"error": error} | ({"hint": hint} if hint else {})
        if isinstance(exc, BadAnswer) or self._since_answer >= sent:
            self._begin(what, f"no good answer for {what}", facts)
            return
        self._on = True
        self._causes.begin(_UNREACHABLE, **facts)

    def refused(self, what: str, exc: Exception, now: float) -> None:
        """The vault answered no."""
        self._answer(now)
        if isinstance(exc, NotFound) or not isinstance(exc, KeyVaultFSError):
            self._end(what)
            return
        facts = {"error": exc.cause} | ({"hint": repr(exc.hint)} if exc.hint else {})
        about = (
            f"vault refuses {what}"
            if isinstance(exc, Disabled) or what == "the listing"
            else "vault refuses the identity"
        )
        self._begin(what, about, facts)

    def answered(self, what: str, now: float) -> None:
        """The vault answered with what was wanted."""
        self._answer(now)
        self._end(what)

    def _answer(self, now: float) -> None:
        self._since_answer = now
        if self._on:
            self._on = False
            self._causes.end(_UNREACHABLE)

    def _begin(self, what: str, cause: str, facts: dict[str, str]) -> None:
        if self._of_one.get(what) != cause:
            self._end(what)
        self._of_one[what] = cause
        self._causes.begin(cause, **facts)

    def _end(self, what: str) -> None:
        cause = self._of_one.pop(what, None)
        if cause is not None:
            self._causes.end(cause)
