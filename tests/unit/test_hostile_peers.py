"""The transport on real sockets: a peer that is silent, slow or lies costs its deadline, and nothing stays behind."""

from __future__ import annotations

import gc
import gzip
import resource
import socket
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio._core import _thread_cache

from keyvaultfs.errors import BadAnswer, Unavailable
from keyvaultfs.metrics import TransportMetrics
from keyvaultfs.model import SecretValue
from keyvaultfs.transport.session import Transport
from keyvaultfs.transport.tls import tls_context
from tests.support import peer
from tests.support.peer import OK, Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.vault import VaultProcess

# Python's ssl, up to 3.12 at least, leaves a socket to the collector that was shut down before its handshake began, as
# on a busy machine. What stays behind is counted by the tests themselves.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")

SHORT = 0.2
setattr(_thread_cache, "IDLE_TIMEOUT", 0.05)  # noqa: B010 - trio keeps idle threads for 10 s, and tests here count threads
CONTEXT = tls_context(None)


@pytest.fixture
def transport() -> Iterator[Transport]:
    made = Transport(max_requests=8, context=CONTEXT, metrics=TransportMetrics())
    yield made
    made.close()


async def ask(transport: Transport, url: str, seconds: float = SHORT, **kwargs: Any) -> object:
    """The status, or what went wrong."""
    try:
        with trio.fail_after(seconds):
            return (await transport.get(url, {}, **kwargs)).status
    except BadAnswer as exc:
        return exc.cause
    except Unavailable:
        return Unavailable
    except trio.TooSlowError:
        return trio.TooSlowError


def threads_and_sockets() -> tuple[int, int]:
    return threading.active_count(), sum(link.startswith("socket:") for link in peer.descriptors())


async def settle(holds: Callable[[], bool], what: str) -> None:
    """Wait for threads of the kernel's time, not of trio's."""
    for _ in range(1000):
        if holds():
            return
        await trio.sleep(0.01)
    raise AssertionError(f"in vain: {what}")


SLOW = {
    "accepts and is silent": ("http", peer.silent),
    "a TLS handshake that nobody answers": ("https", peer.silent),
    "a TLS handshake at a byte at a time": ("https", peer.half_a_handshake),
    "headers at a byte at a time": ("http", peer.dripping_head),
    "a body at a byte at a time": ("http", peer.dripping_body),
    "a body without length at a byte at a time": ("http", peer.dripping_last_words),
    "chunks at a byte at a time": ("http", peer.dripping_chunks),
    "interim answers without end": ("http", peer.for_ever_100),
}


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "behave"), SLOW.values(), ids=SLOW)
async def test_after_a_hundred_requests_in_vain_threads_and_sockets_are_what_they_were(
    scheme: str, behave: Callable[[Peer, socket.socket], None]
) -> None:
    await settle(lambda: threading.active_count() == 1, "threads of other tests to end")
    before = threads_and_sockets()
    metrics = TransportMetrics()
    transport = Transport(max_requests=8, context=CONTEXT, metrics=metrics)
    with Peer(behave) as bad:
        while bad.connections < 100:  # on a busy machine the deadline of some is over before they connect
            async with trio.open_nursery() as nursery:
                outcomes: list[object] = []

                async def one(outcomes: list[object] = outcomes) -> None:
                    outcomes.append(await ask(transport, bad.url(scheme)))

                for _ in range(8):
                    nursery.start_soon(one)
            assert set(outcomes) <= {trio.TooSlowError, Unavailable}
    await settle(lambda: metrics.in_flight == 0, "the threads to leave their requests")
    transport.close()
    assert metrics.stuck_threads == 0
    gc.collect()
    await settle(lambda: threads_and_sockets() <= before, "threads and sockets to go")


async def test_the_deadline_is_for_the_whole_answer_and_not_for_each_byte(transport: Transport) -> None:
    """`requests`' own time-out starts anew with each byte: this answer would take a hundred seconds."""
    with Peer(peer.dripping_body) as bad:
        with trio.move_on_after(60) as patience:
            assert await ask(transport, bad.url()) is trio.TooSlowError
        assert not patience.cancelled_caught


async def test_a_resolver_that_never_answers_is_bounded_counted_and_leaves_the_probe_its_slot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await settle(lambda: threading.active_count() == 1, "threads of other tests to end")
    metrics = TransportMetrics()
    transport = Transport(max_requests=8, context=CONTEXT, metrics=metrics)
    answers = threading.Event()
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
        if host == "stuck.test":
            answers.wait()
            raise socket.gaierror
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    before = threads_and_sockets()
    try:
        with Peer(peer.says(OK)) as good:
            for _ in range(5):  # who gave up has left his thread behind
                async with trio.open_nursery() as nursery:
                    for _ in range(20):
                        nursery.start_soon(ask, transport, "http://stuck.test/")
            # Nothing can end such a thread: they are as many as there are slots, and no more.
            assert metrics.stuck_threads == 8
            assert sum("trio" in thread.name.lower() for thread in threading.enumerate()) <= 9
            assert await ask(transport, good.url(), 10, probe=True) == 200
    finally:
        answers.set()
    await settle(lambda: metrics.stuck_threads == 0, "the threads to come back")
    transport.close()
    await settle(lambda: threads_and_sockets() <= before, "threads and sockets to go")


async def test_the_slots_are_free_again_when_the_resolver_answers(
    monkeypatch: pytest.MonkeyPatch, transport: Transport
) -> None:
    answers = threading.Event()
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: answers.wait() and real(*a, **k))
    with Peer(peer.says(OK)) as good:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(ask, transport, good.url())
        answers.set()
        assert await ask(transport, good.url(), 10) == 200


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(transport: Transport, status: int) -> None:
    with Peer(peer.says(OK)) as other:
        where = f"HTTP/1.1 {status} Go\r\nLocation: {other.url()}\r\nContent-Length: 0\r\n\r\n".encode()
        with Peer(peer.says(where)) as first:
            assert await ask(transport, first.url(), 10, token=SecretValue(b"canary")) == status
        assert other.connections == 0


async def test_a_compressed_answer_is_refused_unread(transport: Transport) -> None:
    bomb = gzip.compress(bytes(50 << 20))
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n".encode()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Peer(peer.says(head + bomb)) as bad:
        assert await ask(transport, bad.url(), 10) == "Compressed"
        assert b"accept-encoding: identity" in bad.heard[0].lower()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 << 10  # KiB


GIGABYTES = {
    "without a length": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
    "with a length": b"HTTP/1.1 200 OK\r\nContent-Length: 8000000000\r\n\r\n",
    "in one huge chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n",
}


@pytest.mark.parametrize("head", GIGABYTES.values(), ids=GIGABYTES)
async def test_a_body_of_gigabytes_is_given_up_after_one_mebibyte(transport: Transport, head: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Peer(peer.endless(head, b"x" * 65536)) as bad:
        assert await ask(transport, bad.url(), 30) == "TooLarge"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 << 10  # KiB


NONSENSE = {
    "headers without end": peer.endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000),
    "one header without end": peer.endless(b"HTTP/1.1 200 OK\r\nX: ", b"y" * 65536),
    "no HTTP at all": peer.says(b"220 mail.example ESMTP\r\n"),
    "nothing": peer.says(b""),
    "half a body": peer.says(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}"),
    "chunks that are none": peer.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n"),
    "a chunk of a negative size": peer.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n{}"),
    "an odd status": peer.says(b"HTTP/1.1 abc OK\r\n\r\n"),
    "another protocol's version": peer.says(b"HTTP/3.0 200 OK\r\n\r\n"),
}


@pytest.mark.parametrize("behave", NONSENSE.values(), ids=NONSENSE)
async def test_whatever_is_no_http_is_nobodys_answer(
    transport: Transport, behave: Callable[[Peer, socket.socket], None]
) -> None:
    with Peer(behave) as bad:
        assert await ask(transport, bad.url(), 5, probe=True) is Unavailable


async def test_the_network_writes_no_log(transport: Transport, caplog: pytest.LogCaptureFixture) -> None:
    """urllib3 logs header lines that it cannot parse, with what they say and a traceback: a line for each answer."""
    odd = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nno header: but\nword of the network\r\n\r\n{}"
    with Peer(peer.says(odd)) as bad, caplog.at_level("DEBUG"):
        await ask(transport, bad.url(), 5, probe=True)
    assert [record for record in caplog.records if not record.name.startswith("keyvaultfs")] == []


async def test_where_tls_is_wanted_plain_text_is_no_answer(transport: Transport) -> None:
    with Peer(peer.plain) as bad:
        assert await ask(transport, bad.url("https"), 5, probe=True) is Unavailable


async def test_proxies_of_the_environment_are_not_used(
    monkeypatch: pytest.MonkeyPatch, transport: Transport
) -> None:
    with Peer(peer.says(OK)) as proxy, Peer(peer.says(OK)) as vault:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url())
            monkeypatch.setenv(name.upper(), proxy.url())
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert await ask(transport, vault.url(), 10) == 200
        assert (proxy.connections, vault.connections) == (0, 1)


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning"
)  # http.client before 3.12 leaves a refused tunnel to gc
async def test_a_proxy_that_was_asked_for_is_used_and_never_sees_the_token() -> None:
    with Peer(peer.says(b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n")) as proxy:
        transport = Transport(
            max_requests=2, context=CONTEXT, metrics=TransportMetrics(), https_proxy=proxy.url()
        )
        token = SecretValue(b"canary-token")
        url = "https://vault.example/secrets"
        assert await ask(transport, url, 5, token=token, probe=True) is Unavailable
        transport.close()
        assert proxy.heard[0].startswith(b"CONNECT vault.example:443 ")
        assert b"canary" not in b"".join(proxy.heard)
    gc.collect()


async def test_a_netrc_does_not_replace_the_token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, transport: Transport
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login intruder password other\ndefault login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    with Peer(peer.says(OK, OK)) as vault:
        assert await ask(transport, vault.url(), 10, token=SecretValue(b"token-of-mine")) == 200
        assert await ask(transport, vault.url(), 10) == 200
        first, second = vault.heard
    assert b"authorization: bearer token-of-mine\r\n" in first.lower()
    assert b"authorization" not in second.lower()


async def test_authorities_of_the_environment_are_not_trusted(
    monkeypatch: pytest.MonkeyPatch, vault: VaultProcess
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, vault.ca_file)
    transport = Transport(max_requests=2, context=tls_context(None), metrics=TransportMetrics())
    with trio.fail_after(10), pytest.raises(Unavailable) as caught:
        await transport.get(f"{vault.url}/secrets?api-version=7.4", {}, probe=True)
    transport.close()
    assert caught.value.cause == "CertificateError"


async def test_cookies_are_not_sent_back(transport: Transport) -> None:
    biscuit = OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: track=me; Path=/\r\n\r\n")
    with Peer(peer.says(biscuit, OK)) as vault:
        for _ in range(2):
            assert await ask(transport, vault.url(), 10) == 200
        assert b"cookie" not in vault.heard[1].lower()
        assert vault.connections == 1


async def test_a_failure_that_is_remembered_keeps_nothing_of_its_request(
    transport: Transport, free_port: int
) -> None:
    with trio.fail_after(10), pytest.raises(Unavailable) as caught:
        await transport.get(f"http://127.0.0.1:{free_port}/", {}, token=SecretValue(b"x"), probe=True)
    assert caught.value.cause == "ConnectionRefusedError"
    assert caught.value.__context__ is None


async def test_a_connection_that_the_peer_closed_meanwhile_is_replaced(transport: Transport) -> None:
    with Peer(peer.says(OK)) as vault:  # one answer a connection
        for _ in range(5):
            assert await ask(transport, vault.url(), 10) == 200
        assert vault.connections == 5


async def test_ended_attempts_leave_their_slots_to_others(transport: Transport) -> None:
    """Twenty times as many hanging requests as slots, and then one to somebody who answers."""
    with Peer(peer.silent) as bad, Peer(peer.says(OK)) as good:
        async with trio.open_nursery() as nursery:
            for _ in range(160):
                nursery.start_soon(partial(ask, transport, bad.url()))
        assert await ask(transport, good.url(), 20) == 200
