"""Fixtures for every layer, and the rules that hold for each test."""

from __future__ import annotations

import os
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

settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(autouse=True)
def _loopback_only() -> None:
    """A test that would ask anything but loopback fails."""
    socket_allow_hosts(["127.0.0.1", "127.0.0.2", "::1"], allow_unix_socket=True)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


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
