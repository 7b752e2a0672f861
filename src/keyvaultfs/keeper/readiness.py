"""When a mount counts as mounted. Pure: it is told the time.

It does when the file system has answered a statfs, and the first look at the vault (a token, and one request without
it) has come to an end or to the end of our patience. What that look finds is a warning, and with the option `strict` it
decides. In the foreground nobody waits for it: the log says what it found, and a service manager's boot goes on.
"""

from __future__ import annotations

from typing import NamedTuple

_PROBE_SECONDS = 2.0
_STRICT_EXTRA_SECONDS = 2.0


class Verdict(NamedTuple):
    """Mounted, or not.

    Attributes:
        mounted: whether the mount stays.
        words: for people: why not, or what else they should know; "" for nothing.
    """

    mounted: bool
    words: str


class Readiness:
    """Whether the mount counts as mounted.

    Args:
        strict: whether a vault that cannot be read fails the mount.
        foreground: whether the process that was started stays.
        timeout: how long the first look at the vault may take with `strict`, in seconds.
    """

    def __init__(self, *, strict: bool, foreground: bool, timeout: float) -> None:
        self._strict = strict
        self._waits = strict or not foreground
        self._patience = timeout + _STRICT_EXTRA_SECONDS if strict else _PROBE_SECONDS
        self._due: float | None = None
        self._answered = False
        self._probed: str | None = None
        self._decided = False

    @property
    def open(self) -> bool:
        """Whether a worker serves and it is not decided yet: somebody should ask the mount for its statfs."""
        return self._due is not None and not self._answered and not self._decided

    def serving(self, now: float) -> None:
        """The first worker serves."""
        if self._due is None:
            self._due = now + self._patience

    def answered(self) -> None:
        """A statfs of the mount came back."""
        self._answered = True

    def probed(self, words: str) -> str:
        """The vault was looked at: `words` say why it cannot be read, "" that it can.

        Returns:
            A warning for the log, "" for none.
        """
        if self._probed is not None:
            return ""
        self._probed = words
        return "" if self._strict else self._warning()

    def _warning(self) -> str:
        return f"mounted, but the vault cannot be read yet: {self._probed}" if self._probed else ""

    def verdict(self, now: float) -> Verdict | None:
        """The decision, given once; None while there is none."""
        verdict = None if self._decided else self._verdict(now)
        self._decided = self._decided or verdict is not None
        return verdict

    def _verdict(self, now: float) -> Verdict | None:
        if self._due is None:
            return None
        if self._strict and self._probed:
            words = "not mounted, since the option strict asks for a vault that answers: "
            return Verdict(mounted=False, words=words + self._probed)
        if not self._answered or (self._waits and self._probed is None and now < self._due):
            return None
        if self._strict and self._probed is None:
            return Verdict(
                mounted=False, words="not mounted: the vault did not answer, and the option strict is set"
            )
        return Verdict(mounted=True, words=self._warning())
