"""Whether an answer came from the vault, and by a way on which it answers; else connections are made anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyvaultfs.keyvault import wire

if TYPE_CHECKING:
    from keyvaultfs.transport.session import Answer

_BEFORE_JSON = b"\xef\xbb\xbf \t\r\n"
_WORDS = {
    403: frozenset({"AccessDenied", "ForbiddenByPolicy", "ForbiddenByRbac", "SecretDisabled"}),
    404: frozenset({"SecretNotFound"}),
}
"""The inner or outer codes that are about a secret or an identity. The other 403s and 404s are about where a request
came from (``ForbiddenByConnection``: a private endpoint's name that leads to the public address still), or not Key
Vault's; both may be over when the name is looked up again (PROTOCOL §5)."""


def is_wrong(answer: Answer) -> bool:
    """Whether to leave the connections and addresses that led to this answer."""
    if answer.status == 200:
        return not answer.body.lstrip(_BEFORE_JSON).startswith(b"{")
    found = wire.error(answer.body)
    if found is None or answer.status == 421:  # RFC 9110 §15.5.20: misdirected
        return True
    return answer.status in _WORDS and _WORDS[answer.status].isdisjoint((found.inner, found.code))
