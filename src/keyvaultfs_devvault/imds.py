"""The token endpoint of a virtual machine, or of a server with Azure Arc's agent (PROTOCOL §7)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, QueryParams

from keyvaultfs_devvault.arc import KeyFiles, KeyWanted
from keyvaultfs_devvault.errors import TokenError, VaultError
from keyvaultfs_devvault.request import IMDS, Answer, Call
from keyvaultfs_devvault.tokens import CLIENT_ID

if TYPE_CHECKING:
    from keyvaultfs_devvault.faults import Rule
    from keyvaultfs_devvault.state import State
    from keyvaultfs_devvault.tokens import Issued

PATH = "/metadata/identity/oauth2/token"
_VERSIONS = ["2020-10-01", "2020-09-01", "2020-07-15"]


class ImdsApp:
    """Hands out tokens for any resource, and the same one again until it ends, as IMDS does."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._cache: dict[tuple[str, str], Issued] = {}
        self._keys = KeyFiles()

    def call(self, scope: dict[str, Any], body: bytes) -> Call:
        """What an ASGI request is about."""
        path = scope["path"].rstrip("/")
        op = "token" if path == PATH and scope["method"] == "GET" else "unknown"
        return Call(
            which=IMDS,
            method=scope["method"],
            path=path,
            op=op,
            query=QueryParams(scope["query_string"]),
            headers=Headers(scope=scope),
            body=body,
        )

    def answer(self, call: Call, rule: Rule | None = None) -> Answer:
        """A token, shorter-lived than usual if a rule says so.

        Raises:
            VaultError: any error of the protocol.
        """
        if call.path != PATH:
            return Answer(404, {"content-type": "text/html"}, b"<h1>404 Not Found</h1>")
        if call.method != "GET":
            return Answer(405, {"allow": "GET"})
        self._check(call)
        if self._state.knobs.arc is not None:
            self._keys.check(call.headers.get("authorization"), Path(self._state.knobs.arc))
        resource, identity = call.parameter("resource") or "", self._identity(call)
        lifetime = None if rule is None else rule.lifetime
        issued = self._issue(resource, identity, lifetime)
        left = issued.expires - int(self._state.now())
        if rule is not None and rule.claimed is not None:
            left = int(rule.claimed)
        return Answer.json(
            200,
            {
                "access_token": issued.token,
                "client_id": identity or CLIENT_ID,
                "expires_in": str(left),
                "expires_on": str(int(self._state.now()) + left),
                "ext_expires_in": str(left),
                "not_before": str(issued.not_before),
                "resource": resource,
                "token_type": "Bearer",
            },
        )

    def error(self, call: Call, error: VaultError, rule: Rule | None = None) -> Answer:  # noqa: ARG002 - as VaultApp's
        """An error's answer; a key file that is to be read is named in its challenge."""
        answer = Answer.json(error.status, error.body())
        if isinstance(error, KeyWanted):
            answer.headers["www-authenticate"] = f"Basic realm={error.file}"
        return answer

    def dress(self, call: Call, answer: Answer) -> Answer:  # noqa: ARG002 - as VaultApp's
        """Add the header that IMDS sends; Arc's agent sends none."""
        if self._state.knobs.arc is None:
            answer.headers = {"server": "IMDS/150.870.65.1253", **answer.headers}
        return answer

    def forget(self) -> None:
        """Make new tokens from now on."""
        self._cache.clear()

    def _check(self, call: Call) -> None:
        if call.headers.get("metadata") != "true":
            raise TokenError("invalid_request", "Required metadata header not specified")
        if "x-forwarded-for" in call.headers:
            raise TokenError("invalid_request", "Request with X-Forwarded-For header is not allowed")
        if not call.parameter("api-version"):
            raise _ApiVersion
        names = [name for name, _ in call.query.multi_items()]
        if len(names) != len(set(names)):
            raise TokenError("invalid_request", "Duplicated query parameters are not allowed")
        if not call.parameter("resource"):
            raise TokenError("invalid_request", "Required audience parameter not specified")

    def _identity(self, call: Call) -> str | None:
        named = next((v for k in ("client_id", "object_id", "msi_res_id") if (v := call.parameter(k))), None)
        known = self._state.knobs.identities
        if known is None:
            return named
        if named is not None and named in known:
            return named
        if named is None and len(known) > 1:
            raise TokenError(
                "invalid_request",
                "Multiple user assigned identities exist, please specify the clientId / resourceId of the"
                " identity in the token request",
            )
        if named is None and known:
            return known[0]
        raise TokenError("invalid_request", "Identity not found")

    def _issue(self, resource: str, identity: str | None, lifetime: float | None) -> Issued:
        if lifetime is not None or not self._state.knobs.token_cache:
            return self._state.tokens.issue(resource, client_id=identity, lifetime=lifetime)
        key = (resource, identity or "")
        kept = self._cache.get(key)
        if kept is None or kept.expires <= self._state.now():
            kept = self._cache[key] = self._state.tokens.issue(resource, client_id=identity)
        return kept


class _ApiVersionError(VaultError):
    def body(self) -> dict[str, Any]:
        return {"error": self.message, "newest-versions": _VERSIONS}


_ApiVersion = _ApiVersionError(
    400,
    "invalid_request",
    "Bad request. api-version was not specified in the request."
    " For more information refer to aka.ms/azureimds",
)
