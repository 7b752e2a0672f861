"""Tokens by way of the library azure-identity: laptops, workload identity, Azure Arc, service principals."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import trio

from keyvaultfs import threads
from keyvaultfs.errors import Unavailable, UsageError
from keyvaultfs.identity.token import AccessToken
from keyvaultfs.model import SecretValue

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class AzureIdentitySource:
    """Asks ``DefaultAzureCredential``, which reads its environment.

    Args:
        resource: whom tokens are for.
        identity: may have a client_id.
        wall: Unix seconds.

    Raises:
        UsageError: the library is not installed.
    """

    def __init__(
        self, resource: str, identity: Mapping[str, str], *, wall: Callable[[], float] = time.time
    ) -> None:
        try:
            from azure.identity import DefaultAzureCredential
        except ImportError:
            raise UsageError(
                "auth=azure-identity needs the library of that name: pip install 'keyvaultfs[identity]'"
            ) from None
        if set(identity) - {"client_id"}:
            raise UsageError("auth=azure-identity knows client_id= only, not object_id= or msi_res_id=")
        self._credential: Any = DefaultAzureCredential(managed_identity_client_id=identity.get("client_id"))
        self._scope = resource + "/.default"
        self._wall = wall
        self._limiter = trio.CapacityLimiter(1)

    async def fetch(self) -> AccessToken:
        """See `TokenSource.fetch`."""
        text, life = await threads.run(self._ask, self._limiter)
        now = trio.current_time()
        return AccessToken(text, now, now + life)

    def _ask(self, _end: float) -> tuple[SecretValue, float]:
        try:
            token = self._credential.get_token(self._scope)
        except Exception as exc:  # noqa: BLE001 - of many libraries; their texts may quote what they were sent
            raise Unavailable(
                f"Identity-Library-{type(exc).__name__}", "azure-identity found no credential that works here"
            ) from None
        life = float(token.expires_on) - self._wall()
        if not math.isfinite(life) or life <= 0:
            raise Unavailable("Identity-Expired")
        return SecretValue(token.token.encode("ascii", "replace")), life
