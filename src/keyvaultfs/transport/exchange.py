"""A request and its answer on a connection that is kept, in as few steps as they take: in the event loop, unblocking.

A thread's way there and back, and a pool's, take a millisecond more. To make a connection blocks, and so does to read
what is not as plain as a vault's answers are: both are left to the libraries, in threads.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import ssl
from typing import TYPE_CHECKING, Any

import trio

from keyvaultfs.transport.answer import Answer, joined, read
from keyvaultfs.transport.attempt import current
from keyvaultfs.transport.bounded import LARGEST, BoundedResponse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keyvaultfs.transport.attempt import Attempt

_RECEIVED_AT_ONCE = 1 << 16
_LONGEST_HEAD = 1 << 15
_END = re.compile(rb"\n\r?\n")
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]+")
_TARGET = re.compile("/[!-~]*")
_VALUE = re.compile(r"[\t -~]*")
_HEAD = re.compile(
    rb"HTTP/1\.1 ([2-5][0-9]{2})(?: [\t -~]*)?\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*\r\n)+)\r\n"
)
_LENGTH = re.compile("[0-9]{1,7}")
_WITHOUT_BODY = frozenset({204, 205, 304})
_ODD = frozenset({"transfer-encoding", "connection", "content-encoding", "upgrade", "trailer"})
"""Headers that say how an answer is to be read, or that the connection ends with it."""


def request(host: str, target: str, headers: Mapping[str, str]) -> bytes | None:
    """The bytes of a GET, or None for one that is not plain.

    Args:
        host: as it is written in the header of that name.
        target: path and query.
        headers: all others.
    """
    plain = (
        _HOST.fullmatch(host) and _TARGET.fullmatch(target) and all(map(_VALUE.fullmatch, headers.values()))
    )
    if not plain:
        return None
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n".encode("ascii")


async def ask(conn: Any, said: bytes, attempt: Attempt) -> Answer | bytes:
    """Send a request and receive its answer, without a thread; or as much of it as tells that it is not plain.

    Args:
        conn: one of ours, connected and with no request under way. It is closed unless it can serve again.
        said: see `request`.
        attempt: bounds each wait.

    Raises:
        OSError, http.client.HTTPException: there is no whole answer.
    """
    sock = conn.sock
    try:
        sock.settimeout(0.0)
        sock.sendall(said)  # a connection that nobody uses has room for it
        with trio.CancelScope() as scope:
            with attempt.answering():
                heard = await _head(sock, attempt, scope)
            found = _plain(heard)
            if found is None:
                return heard
            status, headers, begin, length = found
            while len(heard) < begin + length:
                heard += await _received(sock, attempt, scope) or _broken(heard[begin:])
            if len(heard) > begin + length:  # what comes next on this connection is anybody's guess
                conn.close()
            return Answer(status, headers, heard[begin : begin + length])
        return _silent()
    except BaseException:
        conn.close()
        raise


def read_on(conn: Any, heard: bytes, attempt: Attempt) -> Answer:
    """Have the rest of an answer read that is not plain. In a worker thread; raises as `ask`, and BadAnswer."""
    try:
        with current(attempt):
            attempt.use(conn.guard)
            response = attempt.response = BoundedResponse(
                conn.sock, method="GET", wait=attempt.wait, heard=heard
            )
            response.begin()
            found = read(response)
            if response.will_close or response.overlong or not response.isclosed():
                conn.close()
            return found
    except BaseException:
        conn.close()
        raise


async def _head(sock: Any, attempt: Attempt, scope: trio.CancelScope) -> bytes:
    """What was received when a head was whole, or is longer than any plain one."""
    heard = b""
    while not _END.search(heard) and len(heard) < _LONGEST_HEAD:
        more = await _received(sock, attempt, scope)
        if not more:
            raise http.client.RemoteDisconnected("without an answer")
        heard += more
    return heard


async def _received(sock: Any, attempt: Attempt, scope: trio.CancelScope) -> bytes:
    while True:
        scope.deadline = trio.current_time() + attempt.wait()
        await trio.lowlevel.wait_readable(sock)
        with contextlib.suppress(ssl.SSLWantReadError, BlockingIOError):
            found: bytes = sock.recv(_RECEIVED_AT_ONCE)
            return found


def _silent() -> bytes:
    raise TimeoutError("the peer is silent")


def _broken(body: bytes) -> bytes:
    raise http.client.IncompleteRead(body)


def _plain(heard: bytes) -> tuple[int, dict[str, str], int, int] | None:
    """Status, headers, where the body begins and how long it is; None where any of it is odd."""
    head = _HEAD.match(heard)
    if head is None:
        return None
    lines = head[2].decode("ascii").split("\r\n")[:-1]
    headers = joined((name, value) for name, _, value in (line.partition(":") for line in lines))
    length = headers.get("content-length", "")
    status, begin = int(head[1]), head.end()
    if status in _WITHOUT_BODY or not _ODD.isdisjoint(headers) or not _LENGTH.fullmatch(length):
        return None
    return (status, headers, begin, int(length)) if begin + int(length) <= LARGEST else None
