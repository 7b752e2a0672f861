"""The token endpoint of Azure virtual machines (PROTOCOL §7)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from keyvaultfs.identity import answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keyvaultfs.identity.token import AccessToken
    from keyvaultfs.transport.session import Transport

PATH = "/metadata/identity/oauth2/token"
HEADERS = {"Metadata": "true"}
_API_VERSION = "2018-02-01"


class ImdsSource:
    """Asks for tokens.

    Args:
        transport: one without proxy and throttle of the vault's.
        endpoint: base URL.
        resource: whom tokens are for.
        identity: at most one of client_id, object_id, msi_res_id.
        wall: Unix seconds.
    """

    def __init__(
        self,
        transport: Transport,
        endpoint: str,
        resource: str,
        identity: Mapping[str, str],
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        query = {"api-version": _API_VERSION, "resource": resource, **identity}
        self._url = f"{endpoint}{PATH}?{urlencode(query)}"
        self._transport = transport
        self._wall = wall

    async def fetch(self) -> AccessToken:
        """See `TokenSource.fetch`."""
        # One attempt: SharedToken goes on, longer than any reader may wait.
        return answer.token(await self._transport.get(self._url, HEADERS, probe=True), self._wall)
