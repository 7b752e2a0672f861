"""A local HTTP secret agent: what programs ask over loopback instead of opening a file.

The cloud vendors' agents are one process that keeps values in memory and answers ``GET /secrets/NAME``. This one does
no more than that, on bare asyncio, so it is faster than an agent that also parses headers, checks a token or logs.

``python -m benchmarks.agent`` takes one JSON line on standard input (url, resource, ca_file, imds) and prints its port.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any
from urllib.parse import quote

import requests

_values: dict[str, bytes] = {}
_vault: dict[str, str] = {}
_session = requests.Session()


def _fetch(name: str) -> bytes:
    """The value, over the network."""
    if "Authorization" not in _session.headers:
        where = f"{_vault['imds']}/metadata/identity/oauth2/token?api-version=2018-02-01"
        found = requests.get(
            f"{where}&resource={quote(_vault['resource'], safe='')}", headers={"Metadata": "true"}, timeout=10
        )
        _session.headers["Authorization"] = f"Bearer {found.json()['access_token']}"
    answer = _session.get(
        f"{_vault['url']}/secrets/{name}?api-version=7.4", timeout=10, verify=_vault["ca_file"]
    )
    answer.raise_for_status()
    value: str = answer.json()["value"]
    return value.encode()


class Agent(asyncio.Protocol):
    """One connection, kept alive."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every whole request."""
        self._rest += data
        while b"\r\n\r\n" in self._rest:
            head, _, self._rest = self._rest.partition(b"\r\n\r\n")
            name = head.split(b" ", 2)[1].rpartition(b"/")[2].decode()
            if (value := _values.get(name)) is None:
                value = _values[name] = _fetch(name)
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b"
                % (len(value), value)
            )


async def serve() -> None:
    """Until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Agent, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    _session.trust_env = False
    _vault.update(json.loads(sys.stdin.readline()))
    asyncio.run(serve())
