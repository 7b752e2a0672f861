"""The ASGI application around the vault and the token endpoint: log, rules, and the way to the client."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Router

from keyvaultfs_devvault import mangle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from keyvaultfs_devvault.faults import Rule
    from keyvaultfs_devvault.front import Connection
    from keyvaultfs_devvault.request import Answer, Call
    from keyvaultfs_devvault.state import State

    Scope = dict[str, Any]
    Receive = Callable[[], Awaitable[Any]]
    Send = Callable[[Any], Awaitable[None]]

MAX_BODY = 16 << 20  # bytes
_PIECES = 20  # a second, of a slow body


class Gate:
    """Every request passes here once.

    Args:
        app: the vault or the token endpoint.
        state: has the rules, the journal and the knobs.
        find: the front's connection for a peer's address; a request from elsewhere came past the front.
        base_latency: seconds before every answer.
    """

    def __init__(
        self,
        app: mangle.App,
        state: State,
        find: Callable[[Any], Connection | None],
        base_latency: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._app = app
        self._state = state
        self._find = find
        self._base_latency = base_latency

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await Router().lifespan(scope, receive, send)
            return
        connection = self._find(scope.get("client"))
        body = await read_body(Request(scope, receive)) if scope["type"] == "http" else None
        if connection is None or body is None:
            await Response(status_code=400, headers={"connection": "close"})(scope, receive, send)
            return
        call = self._app.call(scope, body)
        entry = self._state.journal.begin(call)
        status: int | None = None
        try:
            rule = self._state.rules.take(call)
            entry["fault"] = None if rule is None else rule.id
            connection.begin(rule)
            status = await self._serve(call, rule, connection, receive, send)
        finally:
            self._state.journal.end(entry, status)

    async def _serve(
        self, call: Call, rule: Rule | None, connection: Connection, receive: Receive, send: Send
    ) -> int | None:
        latency = self._base_latency() + ((rule.latency or 0.0) if rule else 0.0)
        if rule is not None and rule.hang:
            latency = math.inf
        if not await _pause(latency, receive):
            return None
        if rule is not None and rule.reset == 0:
            connection.abort()
            return None
        answer = mangle.answer(self._app, call, rule)
        if rule is None or not (rule.delay or rule.huge or rule.body_rate or rule.rate):
            await _send_whole(answer, send)
            return answer.status
        if not await _pause(rule.delay or 0.0, receive):
            return None
        return await _send_slowly(answer, rule, receive, send)


async def read_body(request: Request) -> bytes | None:
    """The whole body, or None if there is none to be had, or too much."""
    body = b""
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > MAX_BODY:
                return None
    except ClientDisconnect:
        return None
    return body


async def _send_whole(answer: Answer, send: Send) -> None:
    headers = dict(answer.headers)
    if answer.status != 204:
        headers["content-length"] = str(len(answer.body))
    await _start(send, answer.status, headers)
    await send({"type": "http.response.body", "body": answer.body})


async def _send_slowly(answer: Answer, rule: Rule, receive: Receive, send: Send) -> int | None:
    """Send in pieces, and stop when the client has gone: the server itself would take no notice."""

    async def pour() -> None:
        headers = dict(answer.headers)
        if not rule.huge:
            headers["content-length"] = str(len(answer.body))
        await _start(send, answer.status, headers)
        if rule.huge:
            for piece in _huge(rule.huge):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        else:
            async for piece in _drip(answer.body, rule.body_rate or math.inf):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return answer.status if await _unless_gone(pour, receive) else None


def _huge(mebibytes: int) -> Iterator[bytes]:
    yield b'{"value":"'
    for _ in range(mebibytes * 16):
        yield b"a" * 65_536
    yield b'"}'


async def _drip(body: bytes, rate: float) -> AsyncIterator[bytes]:
    size = len(body) if rate == math.inf else max(1, int(rate / _PIECES))
    for start in range(0, len(body), max(1, size)):
        yield body[start : start + size]
        await trio.sleep(size / rate)


async def _pause(seconds: float, receive: Receive) -> bool:
    """Wait; False if the client went away meanwhile."""
    if seconds <= 0:
        return True
    return await _unless_gone(partial(trio.sleep, seconds), receive)


async def _unless_gone(work: Callable[[], Awaitable[None]], receive: Receive) -> bool:
    done = False

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await work()
        done = True
        nursery.cancel_scope.cancel()
    return done


async def _start(send: Send, status: int, headers: dict[str, str]) -> None:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
