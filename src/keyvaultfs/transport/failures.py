"""What goes wrong on a network, as the libraries raise it, and the word for it in `causes`."""

from __future__ import annotations

import errno
import http.client
import socket

import urllib3

FAILURES = (OSError, ValueError, urllib3.exceptions.HTTPError, http.client.HTTPException)
"""What urllib3 and the libraries below it raise where no answer came; a UnicodeError is a ValueError."""

_NUMBERS = {
    number: errno.errorcode[number]
    for number in (
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.EADDRNOTAVAIL,
        errno.EMFILE,
        errno.ENFILE,
    )
}
_RESOLVERS = {
    socket.EAI_NONAME: "NoSuchName",
    socket.EAI_NODATA: "NoSuchName",
    socket.EAI_AGAIN: "NameServerSilent",
}


def word(exc: BaseException) -> str:
    """A word for the log: the innermost exception tells a refused connection from a bad certificate."""
    seen: BaseException | None = exc
    last, names = exc, [type(exc).__name__]
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
        last = seen
        names.append(type(seen).__name__)
    if "SSLCertVerificationError" in names:
        return "CertificateError"
    found = _word(last)
    return "ProxyError" if found == "OSError" and "ProxyError" in names else found


def _word(exc: BaseException) -> str:
    """The class, or what the number says where the class says little."""
    number = exc.errno if isinstance(exc, OSError) else None
    if isinstance(exc, socket.gaierror) and number is not None:
        return _RESOLVERS.get(number, "gaierror")
    return _NUMBERS.get(number or 0, type(exc).__name__)
