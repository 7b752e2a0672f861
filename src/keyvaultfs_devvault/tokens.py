"""Access tokens: made by the token endpoint, checked by the vault. Like Azure's, and worth nothing."""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jwt

from keyvaultfs_devvault import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

TENANT = "72f988bf-86f1-41af-91ab-2d7cd011db47"
OBJECT_ID = "b2c1b2f0-0000-4000-8000-000000000001"
CLIENT_ID = "a1b0c3d4-0000-4000-8000-000000000002"
CALLER = {"appid": CLIENT_ID, "oid": OBJECT_ID, "tid": TENANT}
_MACHINE = (
    "/subscriptions/00000000-0000-4000-8000-000000000000/resourcegroups/dev"
    "/providers/Microsoft.Compute/virtualMachines/dev"
)
_ALGORITHM = "HS256"
_SIGNATURE_ONLY: Any = {f"verify_{claim}": False for claim in ("exp", "nbf", "iat", "aud", "iss")}
"""The claims are checked here: by the vault's own clock, and with Key Vault's own words."""


@dataclass(frozen=True, slots=True, repr=False)
class Issued:
    """A token. Times are Unix seconds."""

    token: str
    not_before: int
    expires: int


class Tokens:
    """Makes and checks tokens with a key that only this process knows.

    Args:
        clock: Unix seconds.
        lifetime: seconds that a token lives; Microsoft's client asks anew when less than 300 are left.

    `trusted` is the tenant whose tokens pass; ours are of `TENANT`.
    """

    def __init__(self, clock: Callable[[], float], lifetime: float = 86_400) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self.lifetime = lifetime
        self.trusted = TENANT
        self._revoked_before = 0
        self._serial = 0

    def issue(self, audience: str, *, client_id: str | None = None, lifetime: float | None = None) -> Issued:
        """Make a token.

        Args:
            audience: the resource, echoed as it was asked for.
            client_id: of a user-assigned identity.
            lifetime: seconds, also negative, in place of the usual.
        """
        now = int(self._clock())
        expires = now + int(self.lifetime if lifetime is None else lifetime)
        self._serial += 1
        claims = {
            "aud": audience,
            "iss": f"https://sts.windows.net/{TENANT}/",
            "iat": now,
            "nbf": now,
            "exp": expires,
            "appid": client_id or CLIENT_ID,
            "oid": OBJECT_ID,
            "tid": TENANT,
            "xms_mirid": _MACHINE,
            "ser": self._serial,
            "uti": uuid.uuid4().hex,
        }
        token = jwt.encode(claims, self._key, algorithm=_ALGORITHM, headers={"kid": "dev"})
        return Issued(token, now, expires)

    def check(self, authorization: str | None, audiences: Collection[str]) -> None:
        """Let a request pass.

        Args:
            authorization: the header's value.
            audiences: the resources that this vault goes by, the first one in the error's text.

        Raises:
            VaultError: 401; the caller adds the challenge.
        """
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or token.count(".") != 2:
            raise errors.unauthorized(errors.NO_TOKEN)
        try:
            claims = jwt.decode(token, self._key, algorithms=[_ALGORITHM], options=_SIGNATURE_ONLY)
        except jwt.InvalidTokenError:
            raise errors.unauthorized(errors.unknown_key(token.partition(".")[0])) from None
        if claims["ser"] <= self._revoked_before or claims["exp"] <= self._clock():
            raise errors.unauthorized(errors.TOKEN_EXPIRED)
        if claims["tid"] != self.trusted:
            raise errors.unauthorized(errors.wrong_issuer(self.trusted, claims["tid"]))
        if claims["aud"] not in audiences:
            raise errors.unauthorized(errors.wrong_audience(next(iter(audiences)), claims["aud"]))

    def revoke(self) -> None:
        """Every token made so far counts as expired."""
        self._revoked_before = self._serial


def challenge(resource: str, claims: str | None = None, tenant: str = TENANT) -> str:
    """The `WWW-Authenticate` of every 401.

    Args:
        resource: whom a token must be for.
        claims: base64 JSON of continuous access evaluation, or None.
        tenant: of the vault.
    """
    text = f'Bearer authorization="https://login.microsoftonline.com/{tenant}", resource="{resource}"'
    return text + (f', error="insufficient_claims", claims="{claims}"' if claims else "")
