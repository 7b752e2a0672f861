"""Networks as they are: idle connections forgotten, dead addresses, names that move, peers without end."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import peer
from tests.support.network import NETWORK, OTHER, VAULT, NetworkMount
from tests.support.peer import Peer
from tests.support.vault import VaultProcess

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from tests.support.mount import Mount

    Networked = Callable[..., NetworkMount]
    Mounter = Callable[..., Mount]

COLD = [f"cold-{number}" for number in range(6)]


@pytest.fixture
def networked() -> Iterator[Networked]:
    """Starts a vault and its mount in a network of their own; nothing of it is left after the test."""
    folder = Path(tempfile.mkdtemp(prefix="keyvaultfs-test-"))
    folder.chmod(0o755)
    authority = folder / "authority.pem"
    arguments = ("--host", VAULT, "--authority", str(authority), "--name", "vault.test")
    started: list[NetworkMount] = []
    with VaultProcess(*arguments, network=NETWORK) as vault:

        def start(*options: str, **names: tuple[str, ...]) -> NetworkMount:
            made = NetworkMount(vault, folder, *options, authority=authority)
            started.append(made)
            made.names(**({"vault": (VAULT,)} | names))
            return made

        try:
            yield start
            for one in started:
                one.stop()
        finally:
            for one in started:
                one.destroy()
    shutil.rmtree(folder)


def port(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_after_the_network_forgot_the_idle_connections_the_next_read_is_fresh(networked: Networked) -> None:
    kv = networked("ttl=2")
    kv.vault.bulk([{"name": name, "value": name} for name in ("pw", *COLD)])
    kv.start()
    assert kv.cat("pw") == ["pw"]
    assert kv.forget() > 0
    kv.vault.rotate("pw", "new")
    time.sleep(2.5)  # the kernel's own clock keeps the entry for ttl
    begin = time.monotonic()
    assert kv.cat("pw") == ["new"]
    print(f"first read after ttl: {time.monotonic() - begin:.2f} s")


def test_six_cold_names_at_once_on_forgotten_connections_are_read(networked: Networked) -> None:
    kv = networked("timeout=12")
    kv.vault.bulk([{"name": name, "value": name} for name in ("pw", "other", *COLD)])
    kv.start()
    assert kv.cat("pw", "other") == ["pw", "other"]
    assert kv.forget() > 0
    begin = time.monotonic()
    assert kv.cat(*COLD) == COLD
    print(f"six cold names: {time.monotonic() - begin:.2f} s")


@pytest.mark.slow
def test_a_hundred_names_due_after_an_idle_cut(
    networked: Networked, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prints how long the first read after `ttl` takes, and cached ones before and meanwhile."""

    def cached() -> float:
        """Microseconds, at the median."""
        took = []
        for _ in range(50):
            begin = time.monotonic()
            assert (kv / "cached").read_text() == "old"
            took.append(time.monotonic() - begin)
        return sorted(took)[25] * 1e6

    kv = networked("ttl=5", "timeout=30")
    names = [f"name-{number:03}" for number in range(100)]
    kv.vault.bulk([{"name": name, "value": "old"} for name in (*names, "cached")])
    kv.start()
    assert len(os.listdir(kv.where)) == 101  # names that no listing has shown are looked up at a limited rate
    assert set(kv.cat(*names, "cached")) == {"old"}
    quiet = cached()
    kv.vault.bulk([{"name": name, "value": "new"} for name in names])
    assert kv.forget() > 0
    time.sleep(5.5)
    begin = time.monotonic()
    assert kv.cat(names[50]) == ["new"]
    first = time.monotonic() - begin
    meanwhile = cached()
    begin = time.monotonic()
    assert set(kv.cat(*names)) == {"new"}
    rest = time.monotonic() - begin
    with capsys.disabled():
        print(
            f"\nafter an idle cut, with 100 names due: the first read {first:.2f} s, all {rest:.2f} s;"
            f" cached ones {meanwhile:.0f} us, {quiet:.0f} us before"
        )


def test_an_address_to_which_packets_vanish_does_not_use_up_the_deadline(networked: Networked) -> None:
    kv = networked("timeout=12", vault=(OTHER, VAULT), imds=(OTHER, VAULT))
    kv.vault.set("pw", "here")
    kv.options += (f"imds_endpoint=http://imds.test:{port(kv.vault.imds)}",)
    for url in (kv.vault.url, kv.vault.imds):
        kv.vanish(f"ip daddr {OTHER} tcp dport {port(url)}")
    kv.start()
    begin = time.monotonic()
    assert kv.cat("pw") == ["here"]
    print(f"with an address that is dead: {time.monotonic() - begin:.2f} s")


def test_an_address_that_accepts_and_then_is_silent_does_not_use_up_the_deadline(
    networked: Networked,
) -> None:
    kv = networked("timeout=12", vault=(OTHER, VAULT), imds=(OTHER, VAULT))
    kv.vault.set("pw", "here")
    kv.options += (f"imds_endpoint=http://imds.test:{port(kv.vault.imds)}",)
    with (
        kv.peer(peer.silent, OTHER, port(kv.vault.url)),
        kv.peer(peer.silent, OTHER, port(kv.vault.imds)),
    ):
        kv.start()
        assert kv.cat("pw") == ["here"]


def test_a_name_that_leads_to_a_closed_door_is_followed_when_it_moves(networked: Networked) -> None:
    """A private endpoint, whose name leads to the vault's public address until its DNS zone is linked."""
    kv = networked(vault=(OTHER,))
    kv.vault.set("pw", "here")
    body = b'{"error":{"code":"Forbidden","message":"","innererror":{"code":"ForbiddenByConnection"}}}'
    answer = f"HTTP/1.1 403 Forbidden\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    context = kv.tls()

    def public(peer: Peer, connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as spoken:
            while peer.request(spoken):
                spoken.sendall(answer)

    with kv.peer(public, OTHER, port(kv.vault.url)):
        kv.start()
        assert "Input/output error" in kv.cat("pw")[0]
        kv.says("ForbiddenByConnection")
        kv.names(vault=(VAULT,))
        kv.wait_until_reads("pw", "here", seconds=15)


def test_a_token_endpoint_that_sends_without_end_costs_little_memory(
    vault: VaultProcess, mount: Mounter
) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n"
    vault.set("pw", "here")
    with Peer(peer.endless(head, b"x" * 65536)) as endless:
        kv = mount("timeout=2", f"imds_endpoint=http://127.0.0.1:{endless.port}")
        status = Path(f"/proc/{kv.worker()}/status")

        def most() -> int:
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
            return int(lines["VmHWM"].split()[0])

        before = most()
        with pytest.raises(OSError, match=r"error|timed out|denied"):
            (kv / "pw").read_text()
        kv.says("TooLarge")
        assert most() - before < 32 << 10  # KiB
