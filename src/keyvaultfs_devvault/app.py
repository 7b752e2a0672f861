"""The routes of Key Vault's secrets (PROTOCOL §3), from request to answer."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.datastructures import Headers, QueryParams
from starlette.routing import Match, Route

from keyvaultfs_devvault import errors, paging, wire
from keyvaultfs_devvault.records import VERSION
from keyvaultfs_devvault.request import VAULT, Answer, Call
from keyvaultfs_devvault.store import check_name
from keyvaultfs_devvault.tokens import challenge

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from keyvaultfs_devvault.faults import Rule
    from keyvaultfs_devvault.state import State

CLAIMS = "eyJhY2Nlc3NfdG9rZW4iOnsibmJmIjp7ImVzc2VudGlhbCI6dHJ1ZSwidmFsdWUiOiIxIn19fQ=="

_HEADERS = {
    "cache-control": "no-cache",
    "pragma": "no-cache",
    "expires": "-1",
    "x-ms-keyvault-region": "westeurope",
    "x-ms-keyvault-service-version": "1.9.538.1",
    "x-ms-keyvault-network-info": "conn_type=Ipv4;addr=127.0.0.1;act_addr_fam=InterNetwork;",
    "x-content-type-options": "nosniff",
    "strict-transport-security": "max-age=31536000;includeSubDomains",
}


class VaultApp:
    """Answers requests; precedence is 401, then api-version and name, then existence, then disabled.

    Args:
        state: what it shows and changes.
        port: of its own https origin.
        hosts: further names that it goes by.
    """

    def __init__(self, state: State, port: int, hosts: Collection[str] = ()) -> None:
        self._state = state
        self._port = "" if port == 443 else f":{port}"
        self._hosts = {host.lower() for host in hosts}
        self._routes = [
            Route("/secrets", self._list, methods=["GET"], name="list"),
            Route("/secrets/restore", self._restore, methods=["POST"], name="restore"),
            Route("/secrets/{name}", self._get, methods=["GET"], name="get"),
            Route("/secrets/{name}", self._set, methods=["PUT"], name="set"),
            Route("/secrets/{name}", self._update, methods=["PATCH"], name="update"),
            Route("/secrets/{name}", self._delete, methods=["DELETE"], name="delete"),
            Route("/secrets/{name}/versions", self._versions, methods=["GET"], name="versions"),
            Route("/secrets/{name}/backup", self._backup, methods=["POST"], name="backup"),
            Route("/secrets/{name}/{version}", self._get, methods=["GET"], name="version"),
            Route("/secrets/{name}/{version}", self._update, methods=["PATCH"], name="update"),
            Route("/deletedsecrets", self._list_deleted, methods=["GET"], name="list_deleted"),
            Route("/deletedsecrets/{name}", self._get_deleted, methods=["GET"], name="get_deleted"),
            Route("/deletedsecrets/{name}", self._purge, methods=["DELETE"], name="purge"),
            Route("/deletedsecrets/{name}/recover", self._recover, methods=["POST"], name="recover"),
        ]
        self._handlers: dict[str, Callable[[Call, wire.Render], Answer]] = {
            route.name: route.endpoint for route in self._routes
        }

    def call(self, scope: dict[str, Any], body: bytes) -> Call:
        """What an ASGI request is about. A trailing slash means the current version."""
        path = scope["path"].rstrip("/")
        op, found = "unknown", {}
        if scope["method"] != "HEAD":  # Starlette would take it for GET
            for route in self._routes:
                match, child = route.matches({**scope, "path": path, "root_path": ""})
                if match is Match.FULL:
                    op, found = route.name, child["path_params"]
                    break
        return Call(
            which=VAULT,
            method=scope["method"],
            path=path,
            op=op,
            name=found.get("name"),
            version=found.get("version"),
            query=QueryParams(scope["query_string"]),
            headers=Headers(scope=scope),
            body=body,
        )

    def answer(self, call: Call, rule: Rule | None = None) -> Answer:  # noqa: ARG002 - as ImdsApp's
        """The answer when nothing misbehaves.

        Raises:
            VaultError: any error of the protocol.
        """
        host = call.headers.get("host", "")
        self._state.tokens.check(call.headers.get("authorization"), (self.resource(host), self.resource("")))
        version = wire.check_api_version(call.parameter("api-version"))
        if call.op == "unknown":
            raise errors.bad_operation(call.method, call.path.rpartition("/")[2])
        if call.name is not None:
            check_name(call.name)
        if call.version is not None and VERSION.fullmatch(call.version.lower()) is None:
            raise errors.bad_operation(call.method, call.version)
        knobs = self._state.knobs
        render = wire.Render(
            self.origin(host), version, knobs.retention, purgeable=not knobs.purge_protection
        )
        return self._handlers[call.op](call, render)

    def error(self, call: Call, error: errors.VaultError, rule: Rule | None = None) -> Answer:
        """An error's answer; every 401 has a challenge, unless a rule says another or none."""
        answer = Answer.json(error.status, error.body())
        if error.status == 401:
            whom = self.resource(call.headers.get("host", ""))
            claims = None
            if rule is not None:
                whom = whom if rule.challenge is None else rule.challenge
                claims = CLAIMS if rule.reject == "claims" else None
            if whom:
                answer.headers["www-authenticate"] = challenge(whom, claims, self._state.knobs.tenant)
        return answer

    def dress(self, call: Call, answer: Answer) -> Answer:
        """Add the headers that every answer of Key Vault has (PROTOCOL §2)."""
        headers = {**_HEADERS, "x-ms-request-id": str(uuid.uuid4())}
        if (echo := call.headers.get("x-ms-client-request-id")) is not None:
            headers["x-ms-client-request-id"] = echo
        answer.headers = {**headers, **answer.headers}
        return answer

    def origin(self, host: str = "") -> str:
        """The origin for ids: the name that was asked, if it is one of ours."""
        name = _name(host)
        if name == "localhost" or name.endswith(".localhost") or name in self._hosts:
            return f"https://{name}{self._port}"
        return f"https://127.0.0.1{self._port}"

    def resource(self, host: str = "") -> str:
        """Whom a token must be for: the host less its first label, as Microsoft's clients check it (§8)."""
        origin = self.origin(host).removeprefix("https://")
        return "https://" + (origin.partition(".")[2] or origin)

    # --- operations --------------------------------------------------------------------------------------

    def _get(self, call: Call, render: wire.Render) -> Answer:
        """The current version or a named one, with its value."""
        secret, version = self._state.store.get(_named(call), call.version)
        if not version.enabled:
            raise errors.disabled()
        return Answer.json(200, render.bundle(secret, version, value=True))

    def _list(self, call: Call, render: wire.Render) -> Answer:
        """A page of secrets."""
        store = self._state.store
        return self._page(call, render, store.order(), lambda key: render.item(store.by_key(key)))

    def _versions(self, call: Call, render: wire.Render) -> Answer:
        """A page of versions; an unknown name has none."""
        secret = self._state.store.find(_named(call))
        if secret is None:
            return self._page(call, render, [], lambda _: {})
        keys = {f"{secret.name.upper()}/{version.upper()}": version for version in secret.versions}
        return self._page(
            call,
            render,
            sorted(keys),
            lambda key: render.version_item(secret, secret.versions[keys[key]]),
        )

    def _list_deleted(self, call: Call, render: wire.Render) -> Answer:
        """A page of deleted secrets."""
        store = self._state.store
        return self._page(
            call, render, store.deleted_order(), lambda key: render.deleted_item(store.deleted_by_key(key))
        )

    def _set(self, call: Call, render: wire.Render) -> Answer:
        """A new version."""
        body = wire.parse_body(call.body)
        value, given = wire.check_value(body), wire.parse_attributes(body)
        secret, version = self._state.store.set(_named(call), value, given)
        return Answer.json(200, render.bundle(secret, version, value=True))

    def _update(self, call: Call, render: wire.Render) -> Answer:
        """Another description of a version."""
        given = wire.parse_attributes(wire.parse_body(call.body))
        secret, version = self._state.store.update(_named(call), call.version, given)
        return Answer.json(200, render.bundle(secret, version, value=False))

    def _delete(self, call: Call, render: wire.Render) -> Answer:
        """Soft deletion."""
        return Answer.json(200, render.deleted(self._state.store.delete(_named(call))))

    def _get_deleted(self, call: Call, render: wire.Render) -> Answer:
        """A deleted secret; a disabled one is refused, as recorded."""
        gone = self._state.store.deleted(_named(call))
        if not gone.secret.now.enabled:
            raise errors.disabled()
        return Answer.json(200, render.deleted(gone))

    def _recover(self, call: Call, render: wire.Render) -> Answer:
        """Back from deletion."""
        secret = self._state.store.recover(_named(call))
        return Answer.json(200, render.bundle(secret, secret.now, value=False))

    def _purge(self, call: Call, render: wire.Render) -> Answer:  # noqa: ARG002 - one signature for all
        """For good."""
        self._state.store.deleted(_named(call))
        if self._state.knobs.purge_protection:
            raise errors.purge_protected()
        self._state.store.purge(_named(call))
        return Answer(204)

    def _backup(self, call: Call, render: wire.Render) -> Answer:  # noqa: ARG002 - one signature for all
        """All versions in a sealed blob."""
        secret, _ = self._state.store.get(_named(call))
        return Answer.json(200, {"value": self._state.sealer.seal(secret)})

    def _restore(self, call: Call, render: wire.Render) -> Answer:
        """What a blob holds, in its place."""
        secret = self._state.sealer.open(wire.parse_body(call.body).get("value"))
        self._state.store.restore(secret)
        return Answer.json(200, render.bundle(secret, secret.now, value=False))

    def _page(
        self, call: Call, render: wire.Render, order: Sequence[str], show: Callable[[str], dict[str, Any]]
    ) -> Answer:
        asked = wire.check_maxresults(call.parameter("maxresults"))
        size = min(asked or paging.MAXIMUM, self._state.knobs.page_size)
        token = call.parameter("$skiptoken")
        start = None if token is None else paging.decode(token)[0]
        keys, following = paging.page(order, start, size)
        link = None if following is None else next_link(call, render.origin, paging.encode(following))
        return Answer.json(200, {"value": [show(key) for key in keys], "nextLink": link})


def next_link(call: Call, origin: str, token: str) -> str:
    """The URL of another page of a list: the request's api-version and maxresults, `$` unencoded."""
    asked = call.parameter("maxresults")
    version = quote(call.parameter("api-version") or "")
    tail = "" if asked is None else f"&maxresults={quote(asked)}"
    return f"{origin}{call.path}?api-version={version}&$skiptoken={token}{tail}"


def _name(host: str) -> str:
    name, _, port = host.rpartition(":")
    return (name if port.isdigit() else host).lower()


def _named(call: Call) -> str:
    assert call.name is not None  # the route has it
    return call.name
