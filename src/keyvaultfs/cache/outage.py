"""Whether anybody answers: one log line when an outage begins and one when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyvaultfs.errors import BadAnswer, NotFound, facts

if TYPE_CHECKING:
    from keyvaultfs.log import Causes

_UNREACHABLE = "vault unreachable"
_NO_ANSWER = "no good answer for {}"
_REFUSED = "vault refuses {}"
_FOLLOWS = {"CircuitOpen"}


class Outage:
    """True while nobody answers. Each answer, and each failure to get one, is reported to it."""

    def __init__(self, causes: Causes) -> None:
        self._causes = causes
        self.last_answer = float("-inf")
        """when the vault last answered, by the clock of `sent` and `now` below"""
        self._on = False

    def __bool__(self) -> bool:
        return self._on

    def failed(self, what: str, exc: Exception, sent: float) -> None:
        """A request sent at `sent` got no answer of the vault's. If a later one did, only `what` is in trouble."""
        if isinstance(exc, BadAnswer) or self.last_answer >= sent:
            self._causes.begin(_NO_ANSWER, what, **facts(exc))
            return
        # That it is not even asked follows from what it was in trouble for: that stays what is told of it.
        told = {} if self._on and getattr(exc, "cause", "") in _FOLLOWS else facts(exc)
        self._on = True
        self._causes.begin(_UNREACHABLE, **told)

    def refused(self, what: str, exc: Exception, now: float) -> None:
        """The vault answered no."""
        self._answer(now)
        self._causes.end(_NO_ANSWER, what)
        if isinstance(exc, NotFound):
            self._causes.end(_REFUSED, what)
        else:
            self._causes.begin(_REFUSED, what, **facts(exc))

    def recalled(self, what: str, exc: Exception) -> None:
        """A no of before of which nobody was told matters to somebody now."""
        self._causes.begin(_REFUSED, what, **facts(exc))

    def answered(self, what: str, now: float) -> None:
        """The vault answered with what was wanted."""
        self._answer(now)
        self._causes.end(_NO_ANSWER, what)
        self._causes.end(_REFUSED, what)

    def _answer(self, now: float) -> None:
        self.last_answer = now
        if self._on:
            self._on = False
            self._causes.end(_UNREACHABLE)
