"""What token endpoints answer: a token, or why there is none (PROTOCOL §7)."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import trio

from keyvaultfs.errors import BadAnswer, Unavailable
from keyvaultfs.identity.token import AccessToken, Declined
from keyvaultfs.model import SecretValue
from keyvaultfs.transport import retry

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyvaultfs.transport.answer import Answer

_LONGEST_LIFE = 7 * 86400.0
_SHORTEST_LIFE = 1.0
"""Seconds. One that lives shorter has ended before it is used: to ask on for such would be to ask without a pause."""

_TOKEN = re.compile(rb"[\x21-\x7e]{1,65536}")


def token(answer: Answer, wall: Callable[[], float]) -> AccessToken:
    """The token of an answer.

    Args:
        answer: of a token endpoint.
        wall: Unix seconds.

    Raises:
        Unavailable: the endpoint is busy, or being updated; worth asking again soon.
        Declined, BadAnswer: it gives none.
    """
    if answer.status == 200:
        return _token(answer, wall)
    if answer.status == 400:
        said = fields(answer.body)
        if "multiple user assigned identities" in str(said.get("error_description")).lower():
            raise Declined("Identity-SeveralIdentities")
        raise Declined(f"Identity-{_word(said.get('error')) or '400'}")
    if answer.status in {404, 410, 429} or answer.status >= 500:
        wish = retry.retry_after(answer.headers, wall())
        raise Unavailable(f"Identity-{answer.status}", retry_after=wish)
    raise Declined(f"Identity-{answer.status}")


def _token(answer: Answer, wall: Callable[[], float]) -> AccessToken:
    data = fields(answer.body)
    text = data.get("access_token")
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else b""
    life = _seconds(data.get("expires_in"))
    if life is None:
        ends = _seconds(data.get("expires_on"))
        life = None if ends is None else ends - wall()
    if not _TOKEN.fullmatch(raw) or life is None:
        raise BadAnswer("Identity-NotAToken")
    if life < _SHORTEST_LIFE:
        raise Unavailable("Identity-Expired")
    now = trio.current_time()
    return AccessToken(SecretValue(raw), now, now + min(_LONGEST_LIFE, life))


def fields(body: bytes) -> dict[str, Any]:
    """The JSON object of an answer.

    Raises:
        BadAnswer: it has none.
    """
    try:
        data = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise BadAnswer("Identity-NotJSON") from None
    if not isinstance(data, dict):
        raise BadAnswer("Identity-NotJSON")
    return data


def _seconds(found: object) -> float | None:
    """A number, as a string (IMDS) or as JSON has it, with or without a fraction; nothing else."""
    if isinstance(found, int | float) and not isinstance(found, bool) and 0 <= found < 1 << 40:
        return float(found)
    if isinstance(found, str) and re.fullmatch(r"[0-9]{1,12}(?:\.[0-9]{1,12})?", found):
        return float(found)
    return None


def _word(code: object) -> str:
    return code if isinstance(code, str) and re.fullmatch("[A-Za-z0-9_.-]{1,64}", code) else ""
