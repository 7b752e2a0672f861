"""One exception for each cause. None of them ever carries a value, a token or a server's words."""

from __future__ import annotations

from typing import TypeVar

from keyvaultfs import causes

E = TypeVar("E", bound=Exception)


class KeyVaultFSError(Exception):
    """Base of all of ours. `cause` is a short fixed word for the log, such as ``SecretNotFound``.

    Args:
        cause: letters, digits and ``_ - . :`` only; never text that the network sent.
        hint: a sentence for people that says what is wrong; when it is not given, that of the table of causes.
    """

    def __init__(self, cause: str = "", hint: str = "") -> None:
        hint = hint or causes.find(cause).sentence
        self._text = f"{cause}: {hint}" if cause and hint else cause or hint
        super().__init__(self._text)
        self.cause = cause or type(self).__name__
        self.hint = hint

    def __str__(self) -> str:
        return self._text  # `copy` makes one anew of the text alone, and then gives it these attributes


class NotFound(KeyVaultFSError):
    """The vault says that there is no such secret or version."""


class Refused(KeyVaultFSError):
    """The vault answered and said no: it wins over what is cached. Nobody else's no does, nor the token endpoint's."""


class Disabled(Refused):
    """The secret's current version is disabled: about this one secret, not about the identity."""


class Unavailable(KeyVaultFSError):
    """Nobody answered in Key Vault's words: the last good value may still be served.

    Args:
        retry_after: seconds from now that the server asked for, or None.
    """

    def __init__(self, cause: str = "", hint: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(cause, hint)
        self.retry_after = retry_after


class NotYetKnown(Unavailable):
    """Nothing is known yet, and who asks may wait no longer."""


class Busy(Unavailable):
    """The vault was not asked, since it is asked too often already; another time may be better."""


class BadAnswer(Unavailable):
    """An answer that is not the protocol's: wrong shape, too large, not JSON, a foreign link."""


class CannotMake(KeyVaultFSError):
    """A file's bytes cannot be made of its secrets; `hint` is the reason, in words that quote no value."""

    def __init__(self, reason: str) -> None:
        super().__init__("CannotMake", reason)


class UsageError(KeyVaultFSError):
    """What the user wrote is wrong; the text names the thing and the mend."""

    def __init__(self, hint: str) -> None:
        super().__init__("", hint)


def facts(exc: Exception) -> dict[str, str]:
    """What a log line says of why nothing came: a code, and a hint where there is one."""
    if not isinstance(exc, KeyVaultFSError):
        return {"error": "Timeout"}
    return {"error": exc.cause} | ({"hint": repr(exc.hint)} if exc.hint else {})


def bare(exc: E) -> E:
    """An exception that is to be remembered, without its traceback and context: their frames hold values and tokens."""
    exc.__context__ = None
    return exc.with_traceback(None)
