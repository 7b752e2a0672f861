"""WWW-Authenticate -> whom the vault wants tokens for; a foreign one is refused (PROTOCOL §2)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from keyvaultfs.errors import BadAnswer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyvaultfs.keyvault.origin import Origin

_LONGEST = 65536
_TCHAR = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
# The pieces of RFC 9110 §11.6.1. A parameter is tried before a scheme, since both begin with a token; a token68 is told
# from a parameter by what follows, a comma or the end and never a value. Some servers leave out the commas between
# parameters. Each pattern is tried once at a place and none can match in two ways: the time is linear.
_PARAMETER = re.compile(rf"({_TCHAR})[ \t]*=[ \t]*({_QUOTED}|{_TCHAR})(?=[ \t,]|\Z)", re.DOTALL)
_SCHEME = re.compile(rf"({_TCHAR})(?:[ \t]+|(?=,|\Z))")
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|\Z)")
_BETWEEN = re.compile(r"[ \t,]+")
_TO_THE_COMMA = re.compile("[^,]+")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@dataclass(slots=True, eq=False)
class Challenge:
    """One of a 401's challenges: `scheme` and the parameters' names in lower case."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)

    @property
    def resource(self) -> str:
        """Whom tokens are for: its `scope`, else its `resource`, without ``/.default``; "" when it says neither."""
        named = self.parameters.get("scope") or self.parameters.get("resource") or ""
        return named.split(" ")[0].removesuffix("/.default").rstrip("/")

    @property
    def tenant(self) -> str:
        """The tenant whose tokens are wanted, or "": the last part of the authority's URL."""
        authority = self.parameters.get("authorization") or self.parameters.get("authorization_uri") or ""
        found = re.fullmatch(r"https://[^/]+/([0-9A-Za-z.-]{1,100})/?", authority)
        return found[1] if found else ""

    @property
    def wants_another_token(self) -> bool:
        """Whether it says that the token is no longer good enough (continuous access evaluation)."""
        return "claims" in self.parameters or self.parameters.get("error") == "insufficient_claims"


def parse(header: str) -> Iterator[Challenge]:
    """The challenges of one or several WWW-Authenticate headers, joined by commas, in their order (RFC 9110 §11.6.1).

    What is no challenge is passed over.
    """
    header = header[:_LONGEST]
    current: Challenge | None = None
    at = 0
    while at < len(header):
        if between := _BETWEEN.match(header, at):
            at = between.end()
            continue
        if current is not None and (found := _PARAMETER.match(header, at)):
            current.parameters.setdefault(found[1].lower(), _unquoted(found[2]))
        elif found := _SCHEME.match(header, at):
            if current is not None:
                yield current
            current = Challenge(found[1].lower())
            if token68 := _TOKEN68.match(header, found.end()):
                found = token68
        else:
            found = _TO_THE_COMMA.match(header, at)
            assert found is not None, "a comma is passed over above"
        at = found.end()
    if current is not None:
        yield current


def verify(header: str, origin: Origin) -> Challenge:
    """Find a ``Bearer`` challenge for a domain of which the vault is a proper subdomain, port included.

    Where the user named the resource, the challenge must name exactly that. One that wants another token need not
    name a resource: the token goes to the vault alone.

    Raises:
        BadAnswer: there is none; no token may be sent.
    """
    bearers = [found for found in parse(header) if found.scheme == "bearer"]
    for found in bearers:
        if _is_ours(found.resource, origin) if found.resource else found.wants_another_token:
            return found
    if not any(found.resource for found in bearers):
        raise BadAnswer("ChallengeMissing")
    if origin.exact:
        raise BadAnswer(
            "ForeignChallenge", "the vault wants tokens for another resource than the option says"
        )
    raise BadAnswer("ForeignChallenge")


def _is_ours(named: str, origin: Origin) -> bool:
    named = named.lower()
    if origin.exact:
        return named == origin.resource.lower().rstrip("/")
    return _authority(origin.base_url).endswith("." + _authority(named))


def _unquoted(text: str) -> str:
    return _ESCAPED.sub(r"\1", text[1:-1]) if text.startswith('"') else text


def _authority(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "\0"
    if not parts.hostname:
        return "\0"
    return parts.hostname + ("" if port is None or (parts.scheme == "https" and port == 443) else f":{port}")
