"""Names, connections and certificates, each by itself, so that the report names the very step that fails."""

from __future__ import annotations

import base64
import contextlib
import errno
import http.client
import ipaddress
import re
import signal
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FORBIDDEN = frozenset(
    {errno.EACCES, errno.EPERM, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EINVAL, errno.ENETDOWN}
)
"""What connect(2) says of a route that forbids, leads nowhere or is missing, and of a firewall that rejects."""

_HANDSHAKE_SECONDS = 10.0
_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})
# In a certificate the issuer's names stand before the dates, and the subject's after them (RFC 5280 §4.1).
_NAME_OR_DATE = re.compile(
    rb"\x06\x03\x55\x04([\x03\x0a])[\x0c\x13\x16](.)|[\x17\x18][\x0d\x0f]\d", re.DOTALL
)


class Trouble(Exception):
    """Why a step failed: a code, without the name of who was asked, and what was seen."""

    def __init__(self, code: str, seen: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.seen = seen


def addresses(host: str, port: int, seconds: float) -> list[str]:
    """What DNS says of a name.

    Raises:
        Trouble: ``NoSuchName`` or ``NameServerSilent``.
    """
    found: list[str] = []
    failure: list[socket.gaierror] = []

    def ask() -> None:
        try:
            found.extend(str(row[4][0]) for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except socket.gaierror as exc:
            failure.append(exc)
        except (OSError, UnicodeError):
            failure.append(socket.gaierror(socket.EAI_NONAME, ""))

    # A name server that never answers is waited for by a thread that nobody waits for.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    if found:
        return list(dict.fromkeys(found))
    if failure and failure[0].errno in _NO_SUCH_NAME:
        raise Trouble("NoSuchName", host)
    raise Trouble("NameServerSilent", host)


def kind(address: str) -> str:
    """What sort of address it is, for people."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if found.is_loopback:
        return f"{address}, this machine"
    return f"{address}, {'private' if found.is_private else 'public'}"


def connect(found: list[str], port: int, seconds: float) -> tuple[socket.socket, str, float]:
    """Connect to the first address that takes it, each with a share of the time.

    Returns:
        The connection, its address, and how many milliseconds that took.

    Raises:
        Trouble: ``Prohibited``, ``Refused`` or ``Silent``: what the last address did.
    """
    trouble = Trouble("Silent")
    for address in found[:4]:
        begin = time.monotonic()
        try:
            connection = socket.create_connection((address, port), timeout=seconds / min(4, len(found)))
        except TimeoutError:
            trouble = Trouble("Silent", f"{address} port {port}")
        except OSError as exc:
            code = "Prohibited" if exc.errno in _FORBIDDEN else "Refused"
            trouble = Trouble(code, f"{address} port {port}: {exc.strerror}")
        else:
            return connection, address, 1000 * (time.monotonic() - begin)
    raise trouble


def opened(address: str, port: int, seconds: float) -> socket.socket:
    """Another connection to an address that took one."""
    return socket.create_connection((address, port), timeout=seconds)


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Bound what waits for bytes one at a time, which a socket's own time-out does not. Main thread only."""

    def end(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def certificate(host: str, opened: Callable[[], socket.socket], context: ssl.SSLContext) -> str:
    """Verify who is there; returns who issued the certificate.

    Raises:
        Trouble: ``CertificateError``, with the issuer and what does not verify, or ``NoTLS``.
    """
    # The context of old urllib3 leaves names to that library.
    context.check_hostname = True
    try:
        with (
            _within(_HANDSHAKE_SECONDS),
            opened() as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            return issuer(connection.getpeercert(binary_form=True) or b"")
    except ssl.SSLCertVerificationError as exc:
        reason = exc.verify_message
    except (OSError, ValueError) as exc:
        raise Trouble("NoTLS", type(exc).__name__) from None
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE  # only to say whose it is: nothing is sent
    issued_by = ""
    try:
        with (
            _within(_HANDSHAKE_SECONDS),
            opened() as plain,
            unverified.wrap_socket(plain, server_hostname=host) as connection,
        ):
            issued_by = issuer(connection.getpeercert(binary_form=True) or b"")
    except (OSError, ValueError):
        issued_by = ""
    raise Trouble("CertificateError", f"{reason}; issued by {issued_by or 'nobody who says so'}")


def _handshake(host: str, opened: Callable[[], socket.socket], context: ssl.SSLContext) -> bytes:
    """The certificate of who is there, in DER."""
    with (
        _within(_HANDSHAKE_SECONDS),
        opened() as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        return connection.getpeercert(binary_form=True) or b""


def issuer(der: bytes) -> str:
    """The common name, or the organization, of a certificate's issuer."""
    names: dict[bytes, str] = {}
    for found in _NAME_OR_DATE.finditer(der):
        if found[1] is None:
            break
        raw = der[found.end() : found.end() + found[2][0]]
        text = raw.decode("utf-8", "replace")
        if text.isprintable():
            names.setdefault(found[1], text)
    return names.get(b"\x03") or names.get(b"\x0a") or ""


def tunnel(proxy: str, host: str, port: int, seconds: float) -> socket.socket:
    """A connection through a proxy.

    Raises:
        Trouble: ``Proxy``: it does not let us through.
    """
    parts = urlsplit(proxy)
    headers = {}
    if parts.username:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=seconds)
    connection.set_tunnel(host, port, headers)
    try:
        with _within(_HANDSHAKE_SECONDS):
            connection.connect()
    except (OSError, http.client.HTTPException) as exc:
        connection.close()
        status = re.search(r"\b[1-5]\d\d\b", str(exc))
        raise Trouble("ProxyError", f"it answered {status[0]}" if status else type(exc).__name__) from None
    taken, connection.sock = connection.sock, None
    return taken
