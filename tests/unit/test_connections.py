"""Kept connections that the network forgot, addresses that are dead, doors that are the wrong ones."""

from __future__ import annotations

import contextlib
import io
import resource
import socket
import ssl
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme
from hypothesis import given
from hypothesis import strategies as st

from keyvaultfs.errors import BadAnswer, Unavailable
from keyvaultfs.keyvault import door
from keyvaultfs.keyvault.origin import Origin
from keyvaultfs.metrics import TransportMetrics
from keyvaultfs.transport import addresses, doors
from keyvaultfs.transport.answer import Answer
from keyvaultfs.transport.client import Adapter
from keyvaultfs.transport.doors import Doors
from keyvaultfs.transport.session import Transport
from keyvaultfs.transport.tls import tls_context
from tests.support import peer
from tests.support.peer import OK, Peer
from tests.support.vault import VaultProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CONTEXT = tls_context(None)
NAME = "http://vault.test/"


@pytest.fixture
def transport() -> Iterator[Transport]:
    made = Transport(max_requests=8, context=CONTEXT, metrics=TransportMetrics())
    yield made
    made.close()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Ports on loopback that stand for the addresses of a name; a look-up is noted under ``asked``."""
    table: dict[str, list[int]] = {"asked": []}
    real = socket.getaddrinfo

    def resolve(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if host not in table:
            return real(host, port, *args, **kwargs)
        table["asked"].append(port)
        return [entry for number in table[host] for entry in real("127.0.0.1", number, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return table


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port on which nobody accepts: its queue is full, so that the kernel drops what comes, without a word."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def ask(transport: Transport, url: str, seconds: float = 8.0) -> object:
    """The status of one request that is not tried again, or what went wrong."""
    try:
        with trio.fail_after(seconds):
            return (await transport.get(url, {}, probe=True)).status
    except Unavailable as exc:
        return exc.cause
    except trio.TooSlowError:
        return trio.TooSlowError


# --- a kept connection ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lost",
    [
        lambda peer, _: peer.closing.wait(),
        lambda _, connection: connection.shutdown(socket.SHUT_RDWR),
        lambda peer, connection: peer.drip(connection, b"HTTP/1.1 200 OK\r\nConte") or peer.closing.wait(),
    ],
    ids=["silent", "closed when asked", "silent within its answer"],
)
async def test_a_kept_connection_that_is_dead_costs_a_part_of_the_deadline_and_a_fresh_one_answers(
    transport: Transport, lost: Callable[[Peer, socket.socket], object]
) -> None:
    def once(peer: Peer, connection: socket.socket) -> None:
        peer.request(connection)
        connection.sendall(OK)
        peer.request(connection)
        lost(peer, connection)

    with Peer(once) as vault:
        assert [await ask(transport, vault.url()) for _ in range(3)] == [200, 200, 200]
        assert vault.connections == 3


async def test_after_one_of_them_was_dead_no_other_kept_one_is_tried(transport: Transport) -> None:
    together = threading.Barrier(4)

    def once(peer: Peer, connection: socket.socket) -> None:
        peer.request(connection)
        if peer.connections <= 4:
            together.wait()
        connection.sendall(OK)
        if peer.request(connection):
            if peer.connections > 4:
                connection.sendall(OK)
            peer.closing.wait()

    with Peer(once) as vault:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(_within, transport, vault.url())
        assert vault.connections == 4
        assert await ask(transport, vault.url()) == 200
        assert vault.connections == 5
        assert await ask(transport, vault.url()) == 200
        asked_twice = len(vault.heard) - vault.connections
        assert asked_twice == 2, "the dead one, and the fresh one again: no other kept one was asked"


async def _within(transport: Transport, url: str) -> None:
    with trio.fail_after(10):
        await transport.get(url, {})


@given(
    left=st.floats(0.01, 1000),
    paces=st.lists(st.floats(0, 100), max_size=5),
)
def test_what_a_kept_connection_may_take_leaves_time_for_a_fresh_one(left: float, paces: list[float]) -> None:
    known = Doors()
    quiet = known.patience_with_kept(left)
    assert quiet <= min(1.5, left / 4)
    for pace in paces:
        known.answered(pace)
    assert quiet <= known.patience_with_kept(left) <= max(quiet, left / 2)


def test_a_vault_that_takes_its_time_is_not_called_silent_and_is_forgotten_to_be_slow() -> None:
    known = Doors()
    known.answered(2.0)
    assert known.patience_with_kept(10.0) == 4.0
    for _ in range(50):
        known.answered(0.01)
    assert known.patience_with_kept(10.0) == 1.25


async def test_a_slow_vault_is_asked_twice_once_and_not_each_time(transport: Transport) -> None:
    def slow(peer: Peer, connection: socket.socket) -> None:
        while peer.request(connection):
            if len(peer.heard) > 1:
                peer.closing.wait(1.2)
            connection.sendall(OK)

    with Peer(slow) as vault:
        for _ in range(4):
            assert await ask(transport, vault.url()) == 200
        assert len(vault.heard) <= 5


def test_a_connection_is_let_go_long_before_a_load_balancer_forgets_it() -> None:
    known = Doors()
    assert known.usable(0.0, 0.0, 50.0)
    assert not known.usable(0.0, 0.0, 100.0)
    assert known.usable(0.0, 190.0, 200.0)
    assert not known.usable(0.0, 290.0, 300.0), "in use or not: its name may have moved"
    known.distrust(200.0)
    assert not known.usable(199.0, 200.0, 200.5)
    assert known.usable(200.1, 200.2, 200.5)


def test_where_the_network_forgets_sooner_connections_are_let_go_sooner() -> None:
    known = Doors()
    known.lost(made=0.0, idle=40.0, now=100.0)
    assert known.idle_limit(101.0) == 75.0, "once is chance"
    for made in (50.0, 60.0):  # of the same time as the first
        known.lost(made, 40.0, 101.0)
    assert known.idle_limit(102.0) == 75.0
    known.lost(made=110.0, idle=30.0, now=160.0)
    assert known.idle_limit(161.0) == 20.0
    assert known.usable(162.0, 162.0, 181.0)
    assert not known.usable(162.0, 162.0, 183.0)
    assert known.idle_limit(1000.0) == 75.0, "it is tried again"


async def test_where_no_connection_serves_twice_none_is_kept(transport: Transport) -> None:
    def once(peer: Peer, connection: socket.socket) -> None:
        peer.request(connection)
        connection.sendall(OK)
        peer.request(connection)
        peer.closing.wait()

    with Peer(once) as vault:
        for _ in range(10):
            assert await ask(transport, vault.url()) == 200
        assert len(vault.heard) <= vault.connections + 2, "two were asked in vain"


async def test_after_a_suspend_no_connection_of_before_is_used(transport: Transport) -> None:
    with Peer(peer.says(OK, OK)) as vault:
        assert await ask(transport, vault.url()) == 200
        transport.distrust()
        assert await ask(transport, vault.url()) == 200
        assert vault.connections == 2


@contextlib.contextmanager
def relay(port: int, tls: ssl.SSLContext | None = None) -> Iterator[tuple[Peer, threading.Event]]:
    """A proxy that makes tunnels to a port of loopback; while the event is set, those that are there carry nothing."""
    deaf = threading.Event()

    def carry(source: socket.socket, sink: socket.socket, *, born_deaf: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if born_deaf or not deaf.is_set():
                    sink.sendall(data)

    def tunnel(peer: Peer, accepted: socket.socket) -> None:
        born_deaf = deaf.is_set()
        near = accepted if tls is None else tls.wrap_socket(accepted, server_side=True)
        with near, socket.create_connection(("127.0.0.1", port)) as far:
            peer.request(near)
            near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=partial(carry, far, near, born_deaf=born_deaf), daemon=True)
            back.start()
            carry(near, far, born_deaf=born_deaf)
            far.shutdown(socket.SHUT_RDWR)
            back.join()

    with Peer(tunnel) as proxy:
        yield proxy, deaf


def certified(authority: Path, name: str) -> ssl.SSLContext:
    """A server's context with a certificate of the embedded vault's authority."""
    text = authority.read_bytes()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA.from_pem(text, text).issue_cert(name).configure_cert(context)
    return context


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_tunnel_that_the_proxy_forgot_is_replaced(tmp_path: Path, scheme: str) -> None:
    authority = tmp_path / "authority.pem"
    with VaultProcess("--authority", str(authority)) as vault:
        tls = certified(authority, "127.0.0.1") if scheme == "https" else None
        with relay(int(vault.url.rpartition(":")[2]), tls) as (proxy, deaf):
            transport = Transport(
                max_requests=2,
                context=tls_context(vault.ca_file),
                metrics=TransportMetrics(),
                https_proxy=proxy.url(scheme),
                proxy_context=tls_context(vault.ca_file),
                wrong_door=lambda _: False,
            )
            url = f"{vault.url}/secrets?api-version=7.4"
            assert [await ask(transport, url, 9) for _ in range(3)] == [401, 401, 401]
            assert proxy.connections == 1
            deaf.set()
            assert [await ask(transport, url, 9) for _ in range(3)] == [401, 401, 401]
            assert proxy.connections == 2
            transport.close()


async def test_a_proxy_with_another_hosts_certificate_is_not_spoken_to(tmp_path: Path) -> None:
    authority = tmp_path / "authority.pem"
    with (
        VaultProcess("--authority", str(authority)) as vault,
        relay(1, certified(authority, "other.test")) as (proxy, _),
    ):
        transport = Transport(
            max_requests=2,
            context=tls_context(vault.ca_file),
            metrics=TransportMetrics(),
            https_proxy=proxy.url("https"),
            proxy_context=tls_context(vault.ca_file),
        )
        assert await ask(transport, f"{vault.url}/secrets?api-version=7.4", 5) == "CertificateError"
        transport.close()
        assert proxy.heard == []


async def test_idle_connections_are_closed_and_not_only_left_alone(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def until_closed(peer: Peer, connection: socket.socket) -> None:
        while peer.request(connection):
            connection.sendall(OK)
        ended.set()

    with Peer(until_closed) as vault:
        assert await ask(transport, vault.url()) == 200
        transport.tidy()
        assert await ask(transport, vault.url()) == 200
        assert vault.connections == 1
        monkeypatch.setattr(doors, "IDLE_SECONDS", 0.0)
        transport.tidy()
        assert await trio.to_thread.run_sync(ended.wait, 10)


async def test_the_kernel_watches_over_idle_connections(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[socket.socket] = []
    real = addresses.watch

    def watch(sock: socket.socket) -> None:
        real(sock)
        made.append(sock)

    monkeypatch.setattr(addresses, "watch", watch)
    with Peer(peer.says(OK)) as vault:
        assert await ask(transport, vault.url()) == 200
        (sock,) = made
        told = [
            sock.getsockopt(socket.IPPROTO_TCP, number)
            for number in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_USER_TIMEOUT)
        ]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert told == [20, 5, 15_000]


# --- several addresses ---------------------------------------------------------------------------------------


async def test_an_address_to_which_nothing_gets_through_costs_a_moment(
    transport: Transport, names: dict[str, list[int]]
) -> None:
    with black_hole() as dead, black_hole() as dead_too, Peer(peer.says(OK)) as alive:
        names["vault.test"] = [dead, dead_too, alive.port]
        assert await ask(transport, NAME, 5) == 200
        assert transport._client.doors.shunned(0.0) == {("127.0.0.1", dead), ("127.0.0.1", dead_too)}


async def test_an_address_that_refuses_costs_nothing(
    transport: Transport, names: dict[str, list[int]], free_port: int
) -> None:
    with Peer(peer.says(OK)) as alive:
        names["vault.test"] = [free_port, alive.port]
        assert await ask(transport, NAME, 5) == 200
        names["vault.test"] = [free_port]
        assert await ask(transport, NAME, 5) == "ConnectionRefusedError"
        names["vault.test"] = []
        assert await ask(transport, NAME, 5) == "OSError"


async def test_an_address_that_accepts_and_is_silent_leaves_time_for_another(
    transport: Transport, names: dict[str, list[int]]
) -> None:
    with Peer(peer.silent) as deaf, Peer(peer.says(OK)) as alive:
        names["vault.test"] = [deaf.port, alive.port]
        assert await ask(transport, NAME, 4) == 200
        assert deaf.connections == 1
        assert await ask(transport, NAME, 4) == 200
        assert deaf.connections == 1, "it is tried last for a while"


async def test_an_address_on_which_no_handshake_is_answered_leaves_time_for_another(
    vault: VaultProcess, names: dict[str, list[int]]
) -> None:
    transport = Transport(max_requests=2, context=tls_context(vault.ca_file), metrics=TransportMetrics())
    with Peer(peer.silent) as deaf, Peer(peer.half_a_handshake) as dripping:
        names["127.0.0.1"] = [deaf.port, dripping.port, int(vault.url.rpartition(":")[2])]
        assert await ask(transport, f"{vault.url}/secrets?api-version=7.4", 9) == 401
        assert (deaf.connections, dripping.connections) == (1, 1)
    transport.close()


async def test_the_only_address_has_the_whole_deadline(
    transport: Transport, names: dict[str, list[int]]
) -> None:
    def late(peer: Peer, connection: socket.socket) -> None:
        peer.request(connection)
        peer.closing.wait(3.2)
        connection.sendall(OK)

    with Peer(late) as slow:
        names["vault.test"] = [slow.port]
        assert await ask(transport, NAME, 5) == 200
        assert slow.connections == 1


async def test_an_address_with_another_hosts_certificate_leaves_the_others(
    vault: VaultProcess, names: dict[str, list[int]]
) -> None:
    transport = Transport(max_requests=2, context=tls_context(vault.ca_file), metrics=TransportMetrics())
    with Peer(peer.plain) as other:
        names["127.0.0.1"] = [other.port, int(vault.url.rpartition(":")[2])]
        assert await ask(transport, f"{vault.url}/secrets?api-version=7.4", 9) == 401
    transport.close()


async def test_the_proxys_addresses_are_raced_as_well(names: dict[str, list[int]]) -> None:
    no = b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n"
    with black_hole() as dead, Peer(peer.says(no)) as alive:
        names["proxy.test"] = [dead, alive.port]
        transport = Transport(
            max_requests=2, context=CONTEXT, metrics=TransportMetrics(), https_proxy="http://proxy.test:1"
        )
        assert await ask(transport, "https://vault.example/", 5) not in {200, trio.TooSlowError}
        assert alive.heard[0].startswith(b"CONNECT vault.example:443 ")
        transport.close()


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("", b""),
        ("joe@", b"am9lOg=="),
        ("joe:a%3Ab%2F@", b"am9lOmE6Yi8="),
        ("j%C3%B6:x@", b"asO2Ong="),
        ("j%F6:%D0%B6@", b"avY60LY="),
    ],
)
async def test_a_proxy_is_told_who_asks_if_its_url_says_so(user: str, said: bytes) -> None:
    with Peer(peer.says(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")) as proxy:
        transport = Transport(
            max_requests=2,
            context=CONTEXT,
            metrics=TransportMetrics(),
            https_proxy=f"http://{user}127.0.0.1:{proxy.port}",
        )
        assert await ask(transport, "https://vault.example/", 5) not in {200, trio.TooSlowError}
        sent = [line for line in proxy.heard[0].split(b"\r\n") if line.lower().startswith(b"proxy-auth")]
        assert [line.rpartition(b" ")[2] for line in sent] == ([said] if said else [])
        transport.close()


def test_families_take_turns_each_address_comes_once_and_there_are_not_a_thousand() -> None:
    def entry(family: int, host: str) -> Any:
        return (family, socket.SOCK_STREAM, 6, "", (host, 443))

    six = [entry(socket.AF_INET6, f"fd00::{number:x}") for number in range(1000)]
    four = [entry(socket.AF_INET, f"192.0.2.{number}") for number in range(3)]
    found = addresses.ordered([*six, *six, *four], {("fd00::0", 443)})
    hosts = [one[4][0] for one in found]
    assert hosts[:6] == ["192.0.2.0", "fd00::1", "192.0.2.1", "fd00::2", "192.0.2.2", "fd00::3"]
    assert len(hosts) == len(set(hosts)) == addresses.MOST
    assert addresses.ordered(six[:1], {("fd00::0", 443)}) == six[:1]
    assert addresses.ordered([], ()) == []


@pytest.mark.parametrize("silent", [False, True], ids=["refuse", "are silent"])
async def test_of_a_name_with_many_addresses_those_behind_the_dead_ones_have_their_turn(
    transport: Transport, names: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch, *, silent: bool
) -> None:
    monkeypatch.setattr(addresses, "MOST", 3)
    with contextlib.ExitStack() as stack:
        dead = [stack.enter_context(black_hole()) for _ in range(4)]
        if not silent:
            stack.close()
        alive = stack.enter_context(Peer(peer.says(OK)))
        names["vault.test"] = [*dead, alive.port]
        with trio.fail_after(60):
            while await ask(transport, NAME, 1.5) != 200:
                pass


def test_however_often_a_vault_spells_its_origin_anew_few_spellings_are_kept() -> None:
    kept = Adapter(CONTEXT, 2, None, None)
    spellings = ["https://v.test", *(f"https://v.test:{'0' * number}443" for number in range(200))]
    assert len({id(kept.pool(one)) for one in spellings}) == len(kept.pools()) == 1
    for one in spellings:
        kept.host(one)
        kept.pool(one)
    assert len(kept._spelt) <= 16
    assert len(kept._hosts) <= 17


def test_shunned_addresses_are_few_and_come_back() -> None:
    known = Doors()
    for number in range(1000):
        known.shun(number, 0.0)
    assert 0 < len(known.shunned(1.0)) <= 64
    assert not known.shunned(100.0)


async def test_a_deadline_that_ends_just_after_the_connection_stands_leaves_no_socket(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(_: socket.socket) -> None:
        raise TimeoutError

    monkeypatch.setattr(addresses, "watch", late)
    with Peer(peer.says(OK)) as vault:
        before = list(peer.descriptors())
        assert await ask(transport, vault.url(), 60) == "TimeoutError"
        assert len(list(peer.descriptors())) <= len(before) + 1, "the peer's own end"


# --- wrong doors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [403, 404, 421, 500, 302])
async def test_an_answer_from_the_wrong_door_closes_it_and_the_name_is_asked_for_again(
    transport: Transport, names: dict[str, list[int]], status: int
) -> None:
    body = b'{"error":{"code":"Forbidden","innererror":{"code":"ForbiddenByConnection"}}}'
    no = f"HTTP/1.1 {status} No\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    with Peer(peer.says(OK, no, no, no)) as old, Peer(peer.says(OK, OK)) as new:
        names["vault.test"] = [old.port]
        assert [await ask(transport, NAME) for _ in range(2)] == [200, status]
        assert len(names["asked"]) == 1
        names["vault.test"] = [new.port]
        assert [await ask(transport, NAME) for _ in range(2)] == [200, 200]
        assert (len(names["asked"]), old.connections, new.connections) == (2, 1, 1)


ORIGIN = Origin.parse("https://v.vault.azure.net")


def _answer(status: int, body: bytes, resource: str = "https://vault.azure.net") -> Answer:
    return Answer(
        status, {"www-authenticate": f'Bearer authorization="https://x", resource="{resource}"'}, body
    )


RIGHT = [
    (200, b'{"value": []}'),
    (200, b'\xef\xbb\xbf {"value": "x"}'),
    (401, b'{"error":{"code":"Unauthorized"}}'),
    (403, b'{"error":{"code":"Forbidden","innererror":{"code":"SecretDisabled"}}}'),
    (403, b'{"error":{"code":"Forbidden","innererror":{"code":"ForbiddenByRbac"}}}'),
    (404, b'{"error":{"code":"SecretNotFound"}}'),
    (429, b'{"error":{"code":"Throttled"}}'),
    (500, b'{"error":{"code":"InternalServerError"}}'),
]
WRONG = [
    (200, b"<html>please log in</html>"),
    (200, b""),
    (200, b"{}"),
    (200, b'{"status": "please log in"}'),
    (403, b'{"error":{"code":"Forbidden","innererror":{"code":"ForbiddenByConnection"}}}'),
    (403, b'{"error":{"code":"Forbidden","innererror":{"code":"ForbiddenByFirewall"}}}'),
    (403, b'{"error":{"code":"Forbidden"}}'),
    (403, b"<html>"),
    (404, b'{"error":{"code":"NotFound"}}'),
    (421, b'{"error":{"code":"Misdirected"}}'),
    (502, b"Bad gateway"),
    (503, b""),
    (302, b""),
    (101, b""),
]


@pytest.mark.parametrize(("status", "body"), RIGHT)
def test_the_vaults_own_words_close_no_door(status: int, body: bytes) -> None:
    assert not door.is_wrong(ORIGIN, _answer(status, body))


@pytest.mark.parametrize(("status", "body"), WRONG)
def test_a_stranger_or_a_way_that_is_closed_is_a_wrong_door(status: int, body: bytes) -> None:
    assert door.is_wrong(ORIGIN, _answer(status, body))


@pytest.mark.parametrize("resource", ["https://evil.example", "https://vault.azure.cn", ""])
def test_a_challenge_for_another_vaults_tokens_is_a_wrong_door(resource: str) -> None:
    assert door.is_wrong(ORIGIN, _answer(401, b'{"error":{"code":"Unauthorized"}}', resource))


# --- without end ---------------------------------------------------------------------------------------------

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "a chunk of size -1": (CHUNKED + b"-1\r\n", b"x" * 65536),
    "a chunk of a very negative size": (CHUNKED + b"-ffffffffff\r\n", b"x" * 65536),
    "chunks of a byte": (CHUNKED, b"1\r\nx\r\n" * 10_000),
    "chunk extensions": (CHUNKED, b"1;" + b"e" * 60_000 + b"\r\nx\r\n"),
    "trailers": (CHUNKED + b"0\r\n", b"X-Trailer: y\r\n" * 5000),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 3000),
    "early hints": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 2000),
    "interim answers with many headers": (
        b"HTTP/1.1 100 Continue\r\n",
        b"X: y\r\n" * 90 + b"\r\nHTTP/1.1 100 C\r\n",
    ),
    "a status line": (b"HTTP/1.1 200 ", b"O" * 65536),
    "no length, and the connection kept": (
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\n",
        b"x" * 65536,
    ),
    "a length of -1": (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", b"x" * 65536),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 9, 9999999999\r\n\r\n", b"x" * 65536),
}


@pytest.mark.parametrize(("head", "more"), ENDLESS.values(), ids=ENDLESS)
async def test_whatever_the_framing_no_more_than_a_mebibyte_is_read(
    transport: Transport, head: bytes, more: bytes
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Peer(peer.endless(head, more)) as bad:
        assert await ask(transport, bad.url(), 30) not in {200, trio.TooSlowError}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 << 10  # KiB


async def test_a_tunnel_whose_head_has_no_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with Peer(peer.endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 5000)) as proxy:
        transport = Transport(
            max_requests=2, context=CONTEXT, metrics=TransportMetrics(), https_proxy=proxy.url()
        )
        assert await ask(transport, "https://vault.example/", 30) not in {200, trio.TooSlowError}
        transport.close()


async def test_interim_answers_are_skipped(transport: Transport) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    with Peer(peer.says(hints + OK, OK)) as vault:
        assert [await ask(transport, vault.url()) for _ in range(2)] == [200, 200]
        assert vault.connections == 1


async def test_what_follows_an_answer_is_no_answer_to_the_next_request(transport: Transport) -> None:
    """A peer that sends two answers at once would be one answer ahead for ever: a secret for another's name."""
    forged = OK.replace(b"200", b"299")
    with Peer(peer.says(OK + forged, OK + forged)) as vault:
        for _ in range(3):
            assert await ask(transport, vault.url()) == 200
        assert vault.connections == 3


def of_size(size: int, *, chunked: bool) -> bytes:
    """An answer of so many bytes, head and framing included."""
    if not chunked:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %05d\r\n\r\n"
        return head % (size - len(head % 0)) + b" " * (size - len(head % 0))
    head, end = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"\r\n0\r\n\r\n"
    length = size - len(head) - len(b"0000\r\n") - len(end)
    return head + b"%04x\r\n" % length + b" " * length + end


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
@pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
async def test_what_follows_an_answer_in_its_last_record_of_tls_is_no_answer_either(
    tmp_path: Path, *, kept: bool, chunked: bool
) -> None:
    """The record is off the socket, and the answer ends where a buffer of the library's does: nobody sees the rest."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    two = of_size(io.DEFAULT_BUFFER_SIZE, chunked=chunked) + OK.replace(b"200", b"299")

    def behave(peer: Peer, connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as spoken:
            if kept and peer.request(spoken):
                spoken.sendall(OK)
            while peer.request(spoken):
                spoken.sendall(two)

    trusted = tls_context(str(tmp_path / "authority.pem"))
    transport = Transport(max_requests=8, context=trusted, metrics=TransportMetrics())
    with Peer(behave) as vault:
        for _ in range(4):
            assert await ask(transport, vault.url("https"), 10) == 200
        assert vault.connections == (2 if kept else 4)
        transport.close()


@pytest.mark.parametrize(
    ("lines", "name", "value"),
    [
        ("WWW-Authenticate: Bearer a=b\r\nwww-authenticate: NTLM", "www-authenticate", "Bearer a=b, NTLM"),
        (
            "WWW-Authenticate: Negotiate\r\nWww-Authenticate: X\r\nX: y\r\nWWW-AUTHENTICATE: Bearer a=b",
            "www-authenticate",
            "Negotiate, X, Bearer a=b",
        ),
        ("Retry-After: 3\r\nRetry-After: 3", "retry-after", "3"),
    ],
)
async def test_lines_of_one_header_are_one_list(
    transport: Transport, lines: str, name: str, value: str
) -> None:
    head = f"HTTP/1.1 401 Unauthorized\r\n{lines}\r\nContent-Length: 2\r\n\r\n{{}}"
    with Peer(peer.says(head.encode())) as vault, trio.fail_after(10):
        assert (await transport.get(vault.url(), {})).headers[name] == value


async def test_an_encoding_in_any_of_several_lines_is_an_encoding(transport: Transport) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}"
    with Peer(peer.says(head)) as vault:
        assert await ask(transport, vault.url(), 10) == "Compressed"


async def test_an_answer_just_below_the_limit_is_read(transport: Transport) -> None:
    size = (1 << 20) - 200
    body = b"{" + b" " * (size - 2) + b"}"
    with Peer(peer.says(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode() + body)) as vault:
        with trio.fail_after(10):
            assert len((await transport.get(vault.url(), {})).body) == size


async def test_too_large_an_answer_says_so(transport: Transport) -> None:
    with (
        Peer(peer.endless(CHUNKED + b"-1\r\n", b"x" * 65536)) as bad,
        pytest.raises(BadAnswer, match="TooLarge"),
    ):
        with trio.fail_after(10):
            await transport.get(bad.url(), {})
