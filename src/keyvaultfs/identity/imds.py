"""The token endpoint of Azure virtual machines (PROTOCOL §7)."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import trio

from keyvaultfs.errors import BadAnswer, Unavailable
from keyvaultfs.identity.token import AccessToken, Declined
from keyvaultfs.model import SecretValue
from keyvaultfs.transport import retry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keyvaultfs.transport.session import Answer, Transport

_PATH = "/metadata/identity/oauth2/token"
_API_VERSION = "2018-02-01"
_HEADERS = {"Metadata": "true"}
_LONGEST_LIFE = 7 * 86400.0
_TOKEN = re.compile(rb"[\x21-\x7e]{1,65536}")

_NOT_AZURE = "what answers at imds_endpoint is not Azure's token endpoint: is this an Azure virtual machine?"
_HINTS = {
    "invalid_request": (
        "the machine has no such managed identity, or several: assign one, or name it with client_id="
    ),
    "invalid_resource": "the option resource= names what the identity's tenant does not know",
}


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
        self._url = f"{endpoint}{_PATH}?{urlencode(query)}"
        self._transport = transport
        self._wall = wall

    async def fetch(self) -> AccessToken:
        """See `TokenSource.fetch`."""
        # One attempt: SharedToken goes on, longer than any reader may wait.
        answer = await self._transport.get(self._url, _HEADERS, probe=True)
        if answer.status == 200:
            return self._token(answer)
        if answer.status == 400:
            code = _word(_object(answer.body).get("error"))
            raise Declined(
                f"Identity-{code or '400'}", _HINTS.get(code, "the identity endpoint refused the request")
            )
        if answer.status in {404, 410, 429} or answer.status >= 500:
            wish = retry.retry_after(answer.headers, self._wall())
            raise Unavailable(f"Identity-{answer.status}", retry_after=wish)
        raise Declined(f"Identity-{answer.status}", _NOT_AZURE)

    def _token(self, answer: Answer) -> AccessToken:
        data = _object(answer.body)
        text = data.get("access_token")
        raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else b""
        life = _seconds(data.get("expires_in"))
        if life is None:
            ends = _seconds(data.get("expires_on"))
            life = None if ends is None else ends - self._wall()
        if not _TOKEN.fullmatch(raw) or life is None:
            raise BadAnswer("Identity-NotAToken", _NOT_AZURE)
        if life <= 0:
            raise Unavailable("Identity-Expired", "the token endpoint hands out a token that has ended")
        now = trio.current_time()
        return AccessToken(SecretValue(raw), now, now + min(_LONGEST_LIFE, life))


def _object(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise BadAnswer("Identity-NotJSON", _NOT_AZURE) from None
    if not isinstance(data, dict):
        raise BadAnswer("Identity-NotJSON", _NOT_AZURE)
    return data


def _seconds(found: object) -> float | None:
    """Digits, as a string (IMDS) or a number; nothing else."""
    if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 1 << 40:
        return float(found)
    if isinstance(found, str) and re.fullmatch("[0-9]{1,12}", found):
        return float(found)
    return None


def _word(code: object) -> str:
    return code if isinstance(code, str) and re.fullmatch("[A-Za-z0-9_.-]{1,64}", code) else ""
