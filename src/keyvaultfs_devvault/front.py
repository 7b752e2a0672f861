"""The listeners that clients meet: TLS, and connections that can be slowed, cut, silenced and refused.

The HTTP server stands behind, on a port of its own, and knows nothing of this: no HTTP library lets one reset
a connection, or send its headers a byte at a time.
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
import socket
import ssl
import struct
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from keyvaultfs_devvault.faults import Rule
    from keyvaultfs_devvault.state import State

_PIECES = 20  # a second, of a slow connection
_PIECES_OF_MIB = 16  # of 65,536 bytes
_CUTS = ("refuse", "reset")  # outages that end the connections that there are
_ENDS = (OSError, ssl.SSLError, trio.BrokenResourceError, trio.ClosedResourceError)


class Connection:
    """One client's connection, forwarded in both directions.

    Args:
        client: as the client sees it, after TLS.
        raw: the socket underneath.
        server: the connection to the HTTP server.
        front: knows whether all is silent.
    """

    def __init__(
        self, client: trio.abc.Stream, raw: trio.SocketStream, server: trio.SocketStream, front: Front
    ) -> None:
        self._client = client
        self._raw = raw
        self._server = server
        self._front = front
        self._rate = math.inf
        self._room = math.inf
        self._end = "reset"
        self._instead: bytes | None = None
        self._pad = 0
        self._scope = trio.CancelScope()

    def begin(self, rule: Rule | None) -> None:
        """A request has arrived: its rule holds for the bytes of its answer."""
        self._rate = math.inf if rule is None or rule.rate is None else rule.rate
        self._room = math.inf
        self._instead = None if rule is None else rule.framed()
        self._pad = 0 if rule is None else rule.pad or 0
        for end in ("reset", "close", "stall"):
            size = None if rule is None else getattr(rule, end)
            if size is not None:
                self._room, self._end = size, end

    def abort(self) -> None:
        """Reset the connection: the client sees ECONNRESET."""
        with contextlib.suppress(OSError):
            self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._scope.cancel()

    async def run(self) -> None:
        """Forward until one side ends."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._upwards, nursery.cancel_scope)
                await self._downwards()
                nursery.cancel_scope.cancel()

    async def _upwards(self, both: trio.CancelScope) -> None:
        with contextlib.suppress(*_ENDS):
            async for data in self._client:
                await self._front.audible()
                await self._server.send_all(data)
        both.cancel()

    async def _downwards(self) -> None:
        with contextlib.suppress(*_ENDS):
            async for data in self._server:
                await self._front.audible()
                if self._instead is not None:
                    await self._send_instead(self._instead)
                    return
                if not await self._forward(bytes(data)):
                    return

    async def _send_instead(self, response: bytes) -> None:
        """What the rule says in place of all that the HTTP server has answered, whose framing is always right."""
        await self._client.send_all(response)
        for _ in range(self._pad * _PIECES_OF_MIB):
            await self._client.send_all(b"a" * 65_536)

    async def _forward(self, data: bytes) -> bool:
        """Send within the rule's limits; False when the connection is to end."""
        while data:
            size = len(data) if self._rate == math.inf else max(1, int(self._rate / _PIECES))
            piece, data = data[: int(min(size, self._room))], data[int(min(size, self._room)) :]
            if piece:
                await self._client.send_all(piece)
            self._room -= len(piece)
            if self._room <= 0 and data:
                return await self._finish()
            if self._rate != math.inf:
                await trio.sleep(len(piece) / self._rate)
        return True

    async def _finish(self) -> bool:
        if self._end == "stall":
            await trio.sleep_forever()
        if self._end == "reset":
            self.abort()
        return False


class Front:
    """A listener on a fixed port, which it keeps while it refuses connections.

    Args:
        state: has the rules that say when it is out of order, and the journal that counts connections.
        which: "vault" or "imds".
        host: an address of this machine; whoever comes to it by another interface than ``lo`` is not heard.
        port: 0 for a free one.
        context: for TLS, or None for plain HTTP.
    """

    def __init__(
        self, state: State, which: str, host: str, port: int, context: ssl.SSLContext | None
    ) -> None:
        self._state = state
        self._which = which
        self._context = context
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._connections: dict[Any, Connection] = {}
        # A bound socket that never listens: the port stays ours while the listener is closed.
        self._holder = socket.socket(self._family)
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._only_lo = not ipaddress.ip_address(host).is_loopback
        self._holder.bind((host, port))
        self.address: tuple[str, int] = self._holder.getsockname()[:2]
        self._listening = trio.CancelScope()
        self._changed = trio.Event()
        self._settled = trio.Event()

    def find(self, peer: Any) -> Connection | None:
        """The connection that the HTTP server sees as coming from `peer`."""
        return self._connections.get(tuple(peer[:2]) if peer else None)

    async def serve(
        self, backend: tuple[str, int], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen and forward to `backend`, until cancelled."""
        with self._holder:
            async with trio.open_nursery() as nursery:
                while True:
                    listener = await self._listen()
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                    self._settled.set()
                    with trio.CancelScope() as self._listening:
                        handle = partial(self._handle, backend)
                        await trio.serve_listeners(handle, [listener], handler_nursery=nursery)
                    self._settled.set()
                    while self._outage() == "refuse":
                        await self._changed.wait()

    async def obey(self) -> None:
        """Take note of changed rules; when this returns, they hold for this listener."""
        self._changed.set()
        self._changed = trio.Event()
        wanted = self._outage()
        if wanted in _CUTS:
            for connection in list(self._connections.values()):
                connection.abort()
        if (wanted == "refuse") != self._listening.cancel_called:
            self._settled = trio.Event()
            if wanted == "refuse":
                self._listening.cancel()
            await self._settled.wait()

    async def audible(self) -> None:
        """Wait while the outage is of the silent kind."""
        while self._outage() == "silent":
            await self._changed.wait()

    def _outage(self) -> str | None:
        return self._state.rules.outage(self._which)

    async def _listen(self) -> trio.SocketListener:
        sock = trio.socket.socket(self._family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._only_lo:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        await sock.bind(self.address)
        sock.listen(512)
        return trio.SocketListener(sock)

    async def _handle(self, backend: tuple[str, int], raw: trio.SocketStream) -> None:
        self._state.journal.connected(self._which)
        try:
            if self._outage() == "reset":
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            await self.audible()
            client = await self._secure(raw)
            server = await trio.open_tcp_stream(*backend)
            async with server:
                await self._forward(Connection(client, raw, server, self), server)
        except _ENDS:
            pass  # the client went away, or does not trust us: its own affair
        finally:
            await trio.aclose_forcefully(raw)

    async def _forward(self, connection: Connection, server: trio.SocketStream) -> None:
        key = tuple(server.socket.getsockname()[:2])
        if self._outage() in _CUTS:  # which began during the handshake
            connection.abort()
        self._connections[key] = connection
        try:
            await connection.run()
        finally:
            del self._connections[key]

    async def _secure(self, raw: trio.SocketStream) -> trio.abc.Stream:
        if self._context is None:
            return raw
        stream = trio.SSLStream(raw, self._context, server_side=True, https_compatible=True)
        await stream.do_handshake()
        return stream
