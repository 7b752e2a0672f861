"""Whether an answer came from the vault, and by a way on which it answers; else connections are made anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyvaultfs.errors import BadAnswer
from keyvaultfs.keyvault import challenge, wire

if TYPE_CHECKING:
    from keyvaultfs.keyvault.origin import Origin
    from keyvaultfs.transport.answer import Answer

_BEFORE_JSON = b"\xef\xbb\xbf \t\r\n"
_REASONS = {
    403: frozenset({"AccessDenied", "ForbiddenByPolicy", "ForbiddenByRbac", "SecretDisabled"}),
    404: frozenset({"SecretNotFound"}),
}
"""The inner or outer codes that are about a secret or an identity. The other 403s and 404s are about where a request
came from (``ForbiddenByConnection``: a private endpoint's name that leads to the public address still), or not Key
Vault's; both may be over when the name is looked up again (PROTOCOL §5)."""


def is_wrong(origin: Origin, answer: Answer) -> bool:
    """Whether to leave the connections and addresses that led to this answer.

    Args:
        origin: of the vault.
        answer: to any request of ours.
    """
    if answer.status == 200:  # a look is enough: what is in it, `wire` judges
        return not answer.body.lstrip(_BEFORE_JSON).startswith(b"{") or b'"value"' not in answer.body
    if answer.status == 401:
        try:
            challenge.verify(answer.headers.get("www-authenticate", ""), origin)
        except BadAnswer:
            return True
        return False
    found = wire.error(answer.body)
    if found is None or answer.status == 421:  # RFC 9110 §15.5.20: misdirected
        return True
    return answer.status in _REASONS and _REASONS[answer.status].isdisjoint((found.inner, found.code))
