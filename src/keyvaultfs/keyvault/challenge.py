"""WWW-Authenticate -> whom the vault wants tokens for; a foreign one is refused (PROTOCOL §2)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from keyvaultfs.errors import BadAnswer

if TYPE_CHECKING:
    from keyvaultfs.keyvault.origin import Origin

_PARAMETER = re.compile(r'([A-Za-z_]+)\s*=\s*"([^"]*)"')
_LONGEST = 8192


def resource(header: str) -> str:
    """The resource of a ``Bearer`` challenge: its `scope`, else its `resource`, without ``/.default``.

    Raises:
        BadAnswer: there is none.
    """
    scheme, _, rest = header[:_LONGEST].partition(" ")
    parameters = {key.lower(): value for key, value in _PARAMETER.findall(rest)}
    named = parameters.get("scope") or parameters.get("resource") or ""
    if scheme.lower() != "bearer" or not named:
        raise BadAnswer("ChallengeMissing", "a 401 without Key Vault's challenge: is a proxy in between?")
    return named.split(" ")[0].removesuffix("/.default").rstrip("/")


def verify(header: str, origin: Origin) -> None:
    """Check that a challenge names a domain of which the vault is a proper subdomain, port included.

    Where the user named the resource, the challenge must name exactly that.

    Raises:
        BadAnswer: it does not; no token may be sent.
    """
    named = resource(header).lower()
    if origin.exact:
        if named != origin.resource.lower().rstrip("/"):
            raise BadAnswer(
                "ForeignChallenge", "the vault wants tokens for another resource than the option says"
            )
        return
    if not _authority(origin.base_url).endswith("." + _authority(named)):
        raise BadAnswer("ForeignChallenge", "the vault's challenge names a domain that is not the vault's")


def _authority(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "\0"
    if not parts.hostname:
        return "\0"
    return parts.hostname + ("" if port is None or (parts.scheme == "https" and port == 443) else f":{port}")
