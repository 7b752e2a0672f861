"""Fixtures for every layer, and the rules that hold for each test."""

from __future__ import annotations

import os
import random
import shutil
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from pytest_socket import socket_allow_hosts

from tests.support.mount import Mount, mounts_below
from tests.support.vault import VaultProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Nothing is said of how long an example takes: the machine may have other work.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(autouse=True)
def _loopback_only() -> None:
    """A test that would ask anything but loopback fails."""
    socket_allow_hosts(["127.0.0.1", "127.0.0.2", "::1"], allow_unix_socket=True)


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port of loopback on which nobody listens, for a program that the test starts.

    It is none of those that the kernel gives to whoever asks for any, and another run of these tests, in the same
    network, has others: a name in the abstract namespace of sockets says which are taken.
    """
    end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = list(range(10_000, end))
    random.SystemRandom().shuffle(ports)
    for port in ports:
        with socket.socket(socket.AF_UNIX) as taken, socket.socket() as sock:
            try:
                taken.bind(f"\0keyvaultfs-test-port-{port}")
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            sock.close()
            yield port
            return
    raise AssertionError("all ports are in use")


@pytest.fixture
def vault() -> Iterator[VaultProcess]:
    with VaultProcess() as running:
        yield running


@pytest.fixture
def mount(vault: VaultProcess) -> Iterator[Callable[..., Mount]]:
    """Mounts the vault; every mount is gone after the test, and one that is still busy fails it."""
    mounts: list[Mount] = []
    folder = Path(tempfile.mkdtemp(prefix="keyvaultfs-test-"))
    folder.chmod(0o755)  # pytest's own folders are root's alone

    def start(*options: str, **kwargs: object) -> Mount:
        where = folder / f"kv{len(mounts)}"
        where.mkdir()
        one = Mount(vault, where, options, **kwargs)  # type: ignore[arg-type]
        mounts.append(one)
        one.start()
        return one

    try:
        yield start
        for one in mounts:
            one.stop()
    finally:
        for one in mounts:
            one.destroy()
        assert not mounts_below(folder), "a mount was left behind"
        shutil.rmtree(folder)
