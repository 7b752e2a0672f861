"""A vault that is far away: ``python -m benchmarks.relay PORT SECONDS`` relays to a port of loopback.

SECONDS are the round trip. It does what distance does: a byte travels for half of it, and a new connection costs one
before its first byte. (The kernel's own netem would do it for all of loopback, so for everybody on the machine.)
"""

from __future__ import annotations

import asyncio
import selectors
import sys


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, half: float, first: float
) -> None:
    """Hand on what arrives, each piece so much later; in order, since all wait alike from their arrival on."""
    loop = asyncio.get_running_loop()
    earliest = loop.time() + first + half
    while piece := await reader.read(65_536):
        earliest = max(earliest, loop.time() + half)
        loop.call_at(earliest, writer.write, piece)
    loop.call_at(max(earliest, loop.time() + half), writer.close)


async def _serve(port: int, trip: float) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(
            _carry(reader, back, trip / 2, trip), _carry(there, writer, trip / 2, 0.0), return_exceptions=True
        )

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def _loop() -> asyncio.SelectorEventLoop:
    """By select(2), whose timeouts have microseconds: epoll's are rounded up to whole milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=_loop) as runner:
        runner.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
