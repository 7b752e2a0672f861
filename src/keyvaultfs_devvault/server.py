"""The three listeners of the dev vault in one trio run: vault (HTTPS), token endpoint and control (HTTP)."""

from __future__ import annotations

import ipaddress
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from wsgiref.handlers import format_date_time

import hypercorn.trio
import trio
from hypercorn.config import Config

from keyvaultfs_devvault.app import VaultApp
from keyvaultfs_devvault.certificates import Authority
from keyvaultfs_devvault.control import control
from keyvaultfs_devvault.front import Front
from keyvaultfs_devvault.gate import Gate
from keyvaultfs_devvault.imds import ImdsApp
from keyvaultfs_devvault.request import IMDS, VAULT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from keyvaultfs_devvault.state import State

_KEEP_ALIVE = 300  # seconds
_FOREVER = 10**9  # requests per connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where everything is.

    Args:
        url: of the vault.
        imds: base URL of the token endpoint.
        resource: whom a token for `url` must be for.
        admin: base URL of the control interface.
        ca_file: the authority that vouches for `url`.
    """

    url: str
    imds: str
    resource: str
    admin: str
    ca_file: str


def check_host(host: str) -> str:
    """The address itself.

    Raises:
        ValueError: when it is not on loopback: the token endpoint gives tokens to everybody who asks.
    """
    if not ipaddress.ip_address(host).is_loopback:
        raise ValueError(f"{host} is no loopback address, and this vault lets everybody in")
    return host


async def serve(
    state: State,
    *,
    authority: Authority,
    ca_file: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    imds_host: str | None = None,
    imds_port: int = 0,
    admin_port: int = 0,
    hosts: tuple[str, ...] = (),
    task_status: trio.TaskStatus[Addresses] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; started with the `Addresses`, when all answers.

    Args:
        state: the vault.
        authority: signs the vault's certificate.
        ca_file: written here.
        host: a loopback address.
        port: of the vault; 0 for a free one, as for the others.
        imds_host: another address for the token endpoint, which is heard on the interface ``lo`` alone.
        imds_port: of the token endpoint.
        admin_port: of the control interface.
        hosts: further names for the vault's certificate.
        task_status: told the addresses.

    Raises:
        OSError: when a port is taken.
    """
    authority.write(ca_file)
    vault_front = Front(state, VAULT, host, port, authority.server_context(hosts))
    imds_front = Front(state, IMDS, imds_host or host, imds_port, None)
    vault, imds = VaultApp(state, vault_front.address[1], hosts), ImdsApp(state)
    gates = [
        (vault_front, Gate(vault, state, vault_front.find, lambda: state.knobs.latency)),
        (imds_front, Gate(imds, state, imds_front.find)),
    ]
    async with trio.open_nursery() as nursery:
        for front, gate in gates:
            backend = await nursery.start(_serve_http, gate, state.now, "127.0.0.1", 0)
            await nursery.start(front.serve, backend)
        admin = await nursery.start(
            _serve_http,
            control(state, imds, (vault_front, imds_front), authority),
            time.time,
            host,
            admin_port,
        )
        task_status.started(
            Addresses(
                url=vault.origin(),
                imds=f"http://{_joined(imds_front.address)}",
                resource=vault.resource(),
                admin=f"http://{_joined(admin)}",
                ca_file=str(ca_file),
            )
        )


class _Config(Config):
    """Hypercorn dates answers by this machine's clock; Debian 12's has no setting that leaves the date out."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self._now = now

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        """By the vault's own clock, which may differ."""
        del protocol
        return [(b"date", format_date_time(self._now()).encode())]


async def _serve_http(
    app: Any,
    now: Callable[[], float],
    host: str,
    port: int,
    *,
    task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    config = _Config(now)
    config.bind = [_joined((host, port))]
    config.keep_alive_timeout = _KEEP_ALIVE
    config.keep_alive_max_requests = _FOREVER  # Debian 12's hypercorn knows no such limit, and ignores this
    config.loglevel = "WARNING"
    async with trio.open_nursery() as nursery:
        [url] = await nursery.start(hypercorn.trio.serve, app, config)
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        task_status.started((parts.hostname, parts.port))


def _joined(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
