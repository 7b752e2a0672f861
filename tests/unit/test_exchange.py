"""A kept connection is asked without a thread: what comes of it is what the library would have made of it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
import trio
import trustme

from keyvaultfs import threads
from keyvaultfs.errors import BadAnswer, Unavailable
from keyvaultfs.metrics import TransportMetrics
from keyvaultfs.transport import exchange
from keyvaultfs.transport.answer import Answer
from keyvaultfs.transport.session import Transport
from keyvaultfs.transport.tls import tls_context
from tests.support.peer import OK, Peer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTEXT = tls_context(None)


@pytest.fixture
def transport() -> Iterator[Transport]:
    made = Transport(max_requests=8, context=CONTEXT, metrics=TransportMetrics(), wrong_door=lambda _: False)
    yield made
    made.close()


async def ask(transport: Transport, url: str, seconds: float = 5.0) -> Answer | str:
    try:
        with trio.fail_after(seconds):
            return await transport.get(url, {}, probe=True)
    except (BadAnswer, Unavailable) as exc:
        return exc.cause


def says(*answers: tuple[bytes, ...]) -> Peer:
    """A peer that says these on each connection, piece by piece, and then is silent until it is left."""

    def behave(peer: Peer, connection: socket.socket) -> None:
        for pieces in answers:
            if not peer.request(connection):
                return
            for piece in pieces:
                connection.sendall(piece)
                peer.closing.wait(0.02 if len(pieces) > 1 else 0)
        peer.request(connection)
        peer.closing.wait()

    return Peer(behave)


HEAD = b"HTTP/1.1 200 OK\r\n"
ANSWERS = {
    "plain": (HEAD + b"Date: x\r\nContent-Length: 2\r\n\r\n{}",),
    "an error": (b"HTTP/1.1 403 Forbidden\r\nA: 1\r\nContent-Length: 2\r\n\r\n{}",),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n{}",),
    "in pieces": (b"HTTP/1.1 200 OK\r\nCon", b"tent-Length: 4\r\n\r", b"\n{", b'"}', b" "),
    "no body": (HEAD + b"Content-Length: 0\r\n\r\n",),
    "twice the same header": (HEAD + b"W: Bearer a\r\nW: Basic b\r\nContent-Length: 2\r\n\r\n{}",),
    "spaces": (HEAD + b"A: \t b c \t\r\nContent-Length:2\r\n\r\n{}",),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",),
    "chunks in pieces": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", b"1\r\n}\r\n0\r\n", b"\r\n"),
    "no letters": (HEAD + b"A: \xe9\r\nContent-Length: 2\r\n\r\n{}",),
    "an interim one": (b"HTTP/1.1 103 Early\r\nA: 1\r\n\r\n" + HEAD + b"Content-Length: 2\r\n\r\n{}",),
    "LF": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\n", b"{}"),
    "none to be read": (b"HTTP/1.1 204 No\r\nA: 1\r\n\r\n",),
    "folded": (HEAD + b"A: b\r\n c\r\nContent-Length: 2\r\n\r\n{}",),
    "lengths": (HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",),
    "compressed": (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",),
    "too large": (HEAD + b"Content-Length: 9999999\r\n\r\n" + b" " * (1 << 20),),
}


@pytest.mark.parametrize("pieces", ANSWERS.values(), ids=ANSWERS)
async def test_an_answer_is_the_same_on_a_kept_connection_as_on_a_new_one(
    transport: Transport, pieces: tuple[bytes, ...]
) -> None:
    with says(pieces) as peer:
        new = await ask(transport, peer.url())
    with says((OK,), pieces) as peer:
        assert isinstance(await ask(transport, peer.url()), Answer)
        kept = await ask(transport, peer.url())
        assert (peer.connections, len(peer.heard)) == (1, 2)
        assert kept == new


@pytest.mark.parametrize(
    ("pieces", "again"),
    [
        (ANSWERS["plain"], True),
        (ANSWERS["chunks"], True),
        ((HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}",), False),
        ((b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",), False),
        ((HEAD + b"Content-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",), False),
        ((HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\nHTTP/1.1 200",), False),
        (ANSWERS["compressed"], False),
    ],
    ids=["plain", "chunks", "close", "1.0", "more than was asked for", "more after chunks", "compressed"],
)
async def test_a_connection_serves_again_only_after_what_was_read_to_its_very_end(
    transport: Transport, pieces: tuple[bytes, ...], *, again: bool
) -> None:
    with says((OK,), pieces, (OK,)) as peer:
        for _ in range(3):
            await ask(transport, peer.url())
        assert peer.connections == (1 if again else 2)


@pytest.mark.parametrize(
    "pieces",
    [(), (b"HTTP/1.1 200 OK\r\nConte",), (HEAD + b"Content-Length: 5\r\n\r\n{}",)],
    ids=["no answer", "half a head", "half a body"],
)
async def test_an_answer_that_breaks_off_is_asked_for_anew(
    transport: Transport, pieces: tuple[bytes, ...]
) -> None:
    def breaks_off(peer: Peer, connection: socket.socket) -> None:
        peer.request(connection)
        connection.sendall(OK)
        peer.request(connection)
        for piece in pieces:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_RDWR)

    with Peer(breaks_off) as peer:
        assert [await ask(transport, peer.url()) for _ in range(2)] == [
            Answer(200, {"content-length": "2"}, b"{}")
        ] * 2
        assert (peer.connections, len(peer.heard)) == (2, 3)


async def test_a_kept_connection_needs_no_thread_and_says_the_same(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    with says((OK,), (OK,)) as peer:
        assert isinstance(await ask(transport, peer.url() + "secrets/a?b=c"), Answer)

        async def none(*_: object) -> None:
            raise AssertionError

        monkeypatch.setattr(threads, "run", none)
        assert isinstance(await ask(transport, peer.url() + "secrets/a?b=c"), Answer)
        first, second = (sorted(head.split(b"\r\n")) for head in peer.heard)
        assert first == second


@pytest.mark.parametrize(
    ("host", "target", "value"),
    [
        ("v.test", "/a b", "x"),
        ("v.test", "/a\r\nB: c", "x"),
        ("v.test", "/\u00e9", "x"),
        ("v.test", "/a", "x\r\nB: c"),
        ("v.test", "/a", "\u00e9"),
        ("user:password@v.test", "/a", "x"),
        ("v\u00e9.test", "/a", "x"),
        ("v.test", "a", "x"),
    ],
)
def test_what_is_not_plain_is_left_to_the_library(host: str, target: str, value: str) -> None:
    assert exchange.request("v.test", "/a", {"A": "x"}) == b"GET /a HTTP/1.1\r\nHost: v.test\r\nA: x\r\n\r\n"
    assert exchange.request(host, target, {"A": value}) is None


async def test_a_caller_who_gives_up_leaves_no_connection_that_is_in_use(transport: Transport) -> None:
    with says((OK,), (), (OK,)) as peer:
        assert isinstance(await ask(transport, peer.url()), Answer)
        with trio.move_on_after(5) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, transport, peer.url())
                while len(peer.heard) < 2:  # noqa: ASYNC110 - said by a thread
                    await trio.sleep(0.001)
                nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught
        assert isinstance(await ask(transport, peer.url()), Answer)
        assert peer.connections == 2


@contextlib.contextmanager
def openssl(certificate: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """OpenSSL's own server: what is written to it is said to the client, and a line ``k`` makes it change its keys."""
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", str(certificate), "-tls1_3"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        try:
            yield server
        finally:
            server.kill()


def until(server: subprocess.Popen[bytes], text: bytes) -> bytes:
    """What it tells until it tells this."""
    assert server.stdout is not None
    told = b""
    for line in server.stdout:
        told += line
        if text in line:
            return told
    raise AssertionError(told)


def say(server: subprocess.Popen[bytes], text: bytes) -> None:
    assert server.stdin is not None
    server.stdin.write(text)
    server.stdin.flush()


async def test_a_message_of_tls_itself_is_no_reason_to_leave_an_idle_connection(
    tmp_path: Path, free_port: int
) -> None:
    # As a ticket for another session, which a server may send at any time.
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    transport = Transport(
        max_requests=2, context=tls_context(str(tmp_path / "authority.pem")), metrics=TransportMetrics()
    )

    sessions = []

    def serve() -> None:
        sessions.append(until(server, b"GET /").count(b"BEGIN SSL SESSION"))
        say(server, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}\n")

    with openssl(tmp_path / "server.pem", free_port) as server:
        until(server, b"ACCEPT")
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, serve)
                answer = await ask(transport, f"https://127.0.0.1:{free_port}/")
                assert isinstance(answer, Answer)
                assert answer.body == b"{}\n"
            say(server, b"k\n")
            (pool,) = transport._client._adapter.pools()
            idle = next(conn for conn in pool.pool.queue if conn is not None)
            await trio.lowlevel.wait_readable(idle.sock)
        transport.close()
        assert sessions == [1, 0]
