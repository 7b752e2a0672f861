"""The control interface: faults, the request log, knobs and secrets, in plain HTTP and without a token.

Loopback only, and never part of the protocol. Every path begins with ``/_dev/``; bodies and answers are JSON;
a mistake is a 400 with ``{"error": "what is wrong"}``.
"""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse
from starlette.routing import Route, Router

from keyvaultfs_devvault.errors import VaultError
from keyvaultfs_devvault.faults import Rule
from keyvaultfs_devvault.seed import certified, parse_attributes, plant

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from keyvaultfs_devvault.certificates import Authority
    from keyvaultfs_devvault.front import Front
    from keyvaultfs_devvault.imds import ImdsApp
    from keyvaultfs_devvault.records import Secret
    from keyvaultfs_devvault.state import State

    Endpoint = Callable[[Request], Awaitable[Any]]


def control(state: State, imds: ImdsApp, fronts: Sequence[Front], authority: Authority) -> Router:
    """The ASGI application of the control interface."""
    return _Control(state, imds, fronts, authority).router


class _Control:
    def __init__(self, state: State, imds: ImdsApp, fronts: Sequence[Front], authority: Authority) -> None:
        self._state = state
        self._imds = imds
        self._fronts = fronts
        self._authority = authority
        table: list[tuple[str, str, Endpoint]] = [
            ("GET", "/_dev/faults", self._get_faults),
            ("POST", "/_dev/faults", self._add_faults),
            ("DELETE", "/_dev/faults", self._clear_faults),
            ("DELETE", "/_dev/faults/{id:int}", self._clear_faults),
            ("GET", "/_dev/requests", self._get_requests),
            ("DELETE", "/_dev/requests", self._reset_requests),
            ("GET", "/_dev/knobs", self._get_knobs),
            ("PATCH", "/_dev/knobs", self._turn_knobs),
            ("POST", "/_dev/tokens/revoke", self._revoke),
            ("POST", "/_dev/secrets", self._plant),
            ("DELETE", "/_dev/secrets", self._clear_secrets),
            ("GET", "/_dev/secrets/{name}", self._get_secret),
            ("PATCH", "/_dev/secrets/{name}", self._update),
            ("DELETE", "/_dev/secrets/{name}", self._delete),
            ("POST", "/_dev/secrets/{name}/recover", self._recover),
        ]
        self.router = Router([Route(path, _answered(run), methods=[method]) for method, path, run in table])

    async def _get_faults(self, request: Request) -> Any:
        del request
        return {"faults": self._state.rules.report()}

    async def _add_faults(self, request: Request) -> Any:
        body = await request.json()
        rules = [Rule.parse(raw) for raw in (body if isinstance(body, list) else [body])]
        ids = [self._state.rules.add(rule) for rule in rules]
        await self._obey()
        return {"ids": ids}

    async def _clear_faults(self, request: Request) -> Any:
        self._state.rules.clear(request.path_params.get("id"))
        await self._obey()
        return {}

    async def _obey(self) -> None:
        for front in self._fronts:
            await front.obey()

    async def _get_requests(self, request: Request) -> Any:
        del request
        return self._state.journal.report()

    async def _reset_requests(self, request: Request) -> Any:
        del request
        self._state.journal.reset()
        return {}

    async def _get_knobs(self, request: Request) -> Any:
        del request
        return asdict(self._state.knobs)

    async def _turn_knobs(self, request: Request) -> Any:
        self._state.turn(await _object(request))
        return asdict(self._state.knobs)

    async def _revoke(self, request: Request) -> Any:
        """Reject all tokens made so far; with ``{"keep": true}`` the token endpoint hands them out still."""
        body = await _object(request)
        self._state.tokens.revoke()
        if not body.get("keep", False):
            self._imds.forget()
        return {}

    async def _plant(self, request: Request) -> Any:
        """One entry, a list of them, or ``{"count": N, "prefix": "s", "size": bytes}`` for N made-up ones.

        An entry's `certificate` makes its value, as in a seed file.
        """
        body = await request.json()
        entries = _made_up(body) if isinstance(body, dict) and "count" in body else body
        entries = entries if isinstance(entries, list) else [entries]
        return {
            "versions": [plant(self._state.store, certified(entry, self._authority)) for entry in entries]
        }

    async def _clear_secrets(self, request: Request) -> Any:
        del request
        self._state.store.clear()
        return {}

    async def _get_secret(self, request: Request) -> Any:
        return _described(self._state.store.get(request.path_params["name"])[0])

    async def _update(self, request: Request) -> Any:
        """Change attributes of the current version or of ``?version=``; `updated` moves unless given."""
        name = request.path_params["name"]
        body = await _object(request)
        given = parse_attributes(name, body)
        secret, _ = self._state.store.update(name, request.query_params.get("version"), given)
        return _described(secret)

    async def _delete(self, request: Request) -> Any:
        """Soft-delete; with ``?erase=1`` leave no trace."""
        name = request.path_params["name"]
        if request.query_params.get("erase") == "1":
            return {"erased": self._state.store.erase(name)}
        self._state.store.delete(name)
        return {}

    async def _recover(self, request: Request) -> Any:
        return _described(self._state.store.recover(request.path_params["name"]))


def _described(secret: Secret) -> dict[str, Any]:
    """All about a secret but its values."""
    versions = []
    for version in secret.versions.values():
        fields = asdict(version)
        del fields["value"]
        versions.append(fields)
    return {"name": secret.name, "current": secret.current, "versions": versions}


def _made_up(body: dict[str, Any]) -> list[dict[str, Any]]:
    count, prefix, size = body["count"], body.get("prefix", "s"), body.get("size", 16)
    rest = {key: value for key, value in body.items() if key not in ("count", "prefix", "size")}
    width = len(str(count - 1))
    names = [f"{prefix}{number:0{width}}" for number in range(count)]
    return [{"name": name, "value": name.ljust(size, ".")[: max(size, 0)], **rest} for name in names]


async def _object(request: Request) -> dict[str, Any]:
    body = await request.json() if await request.body() else {}
    if not isinstance(body, dict):
        raise ValueError("wants a JSON object")  # noqa: TRY004 - the caller's mistake
    return body


def _answered(run: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    @functools.wraps(run)
    async def endpoint(request: Request) -> Response:
        try:
            return JSONResponse(await run(request))
        except VaultError as error:
            return JSONResponse({"error": error.message}, error.status)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)

    return endpoint
