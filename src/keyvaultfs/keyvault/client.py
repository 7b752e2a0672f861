"""The four reads of Key Vault: get, get by version, list, list versions. Each gives a value, or raises."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

import trio

from keyvaultfs.errors import BadAnswer, Disabled, NotFound, Refused, Unavailable
from keyvaultfs.keyvault import challenge, wire
from keyvaultfs.transport import retry

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from keyvaultfs.identity.token import AccessToken, SharedToken
    from keyvaultfs.keyvault.origin import Origin
    from keyvaultfs.model import ListItem, Secret, SecretName, Version, VersionItem
    from keyvaultfs.transport.answer import Answer
    from keyvaultfs.transport.session import Transport

_TRANSIENT_401_SECONDS = 1.0
_MOST_PAGES = 100_000
_MOST_BYTES = 64 << 20
"""Of one listing: some 200,000 names. A page alone is bounded by the transport."""

_ABSENT = "SecretNotFound"
"""The one 404 that says that there is no such secret or version. Others are about the vault, or not from it."""

_NOT_ALLOWED = frozenset({"AccessDenied", "ForbiddenByRbac", "ForbiddenByPolicy"})
"""Inner codes of the 403s that are the vault's word about the identity (PROTOCOL §5)."""

_DISABLED = "SecretDisabled"

_WRONG_DOOR = frozenset({"ForbiddenByFirewall", "ForbiddenByConnection"})
"""403s that say where a request came from, not who asked: nobody answered, in the words of DESIGN §3."""

_NO_TOKEN_HELPS = frozenset({"AKV10022", "AKV10032"})
"""Numbers of 401s that are about how things are set up: another token is rejected too."""


class Reached(NamedTuple):
    """What a vault says of itself to anybody: its tenant ("" if it does not) and its clock, Unix seconds."""

    tenant: str
    date: float | None


class KeyVaultClient:
    """Reads one vault.

    Args:
        transport: sends requests.
        origin: of the vault: a token goes nowhere else.
        token: of the machine's identity.
        api_version: the interface's.
        wall: Unix seconds.
    """

    def __init__(
        self,
        transport: Transport,
        origin: Origin,
        token: SharedToken,
        *,
        api_version: str,
        wall: Callable[[], float],
    ) -> None:
        self._transport = transport
        self._origin = origin
        self._token = token
        self._query = urlencode({"api-version": api_version})
        self._wall = wall

    async def get(self, name: SecretName) -> Secret:
        """The current version.

        Raises:
            NotFound, Refused, Unavailable: see `errors`; waits as long as the caller's deadline allows.
        """
        answer = await self._ask(self._url(f"/secrets/{name.spelling}"))
        return wire.secret(answer.body, name, None, answered=_date(answer))

    async def get_version(self, name: SecretName, version: Version) -> Secret:
        """One version. Raises as `get`."""
        answer = await self._ask(self._url(f"/secrets/{name.spelling}/{version}"))
        return wire.secret(answer.body, name, version, answered=_date(answer))

    async def pages(self) -> AsyncGenerator[tuple[ListItem, ...], None]:
        """The listing, page by page; a page may be short or empty and not be the last. Raises as `get`."""
        walk = _Walk(self._origin)
        url: str | None = self._url("/secrets")
        while url is not None:
            answer = await self._ask(url)
            items, link = wire.items(answer.body)
            yield items
            url = walk.next(link, len(answer.body))

    async def versions(self, name: SecretName) -> tuple[VersionItem, ...]:
        """All versions, in no order of time; none for an unknown name. Raises as `get`."""
        found: list[VersionItem] = []
        walk = _Walk(self._origin)
        url: str | None = self._url(f"/secrets/{name.spelling}/versions")
        while url is not None:
            answer = await self._ask(url)
            items, link = wire.versions(answer.body, name)
            found += items
            url = walk.next(link, len(answer.body))
        return tuple(found)

    async def reach(self) -> Reached:
        """One request without a token, on the slot that is kept for it: the vault answers with its challenge.

        Raises:
            Unavailable: nobody answered, or somebody else.
        """
        answer = await self._transport.get(self._url("/secrets"), {}, probe=True)
        if answer.status != 401:
            raise self._failure(answer)
        found = challenge.verify(answer.headers.get("www-authenticate", ""), self._origin)
        return Reached(found.tenant, _date(answer))

    async def probe(self) -> None:
        """`reach`, and a token. No list, no get.

        Raises:
            KeyVaultFSError: what is wrong.
        """
        await self.reach()
        await self._current_token()

    def _url(self, path: str) -> str:
        return f"{self._origin.base_url}{path}?{self._query}"

    async def _ask(self, url: str) -> Answer:
        token = await self._current_token()
        rejected: AccessToken | None = None
        while True:
            answer = await self._transport.get(url, {}, token=token.text)
            if answer.status == 200:
                return answer
            if answer.status != 401:
                raise self._failure(answer)
            if await self._passes_by_itself(answer):
                continue
            if rejected is not None:
                raise _rejected_again(answer, anew=token is not rejected)
            rejected = token
            # Where the endpoint gives the same one again, it is tried once more as well, as the official clients do.
            token = await self._newer_token(token) or token

    async def _current_token(self) -> AccessToken:
        """A token.

        Raises:
            Unavailable: there is none. Only the vault's no takes a secret away, not the identity endpoint's.
        """
        try:
            return await self._token.current()
        except Refused as exc:
            cause, hint = exc.cause, exc.hint
        raise Unavailable(cause, hint)

    async def _passes_by_itself(self, answer: Answer) -> bool:
        """Whether a 401 is to be followed by the same request; waits a second if it is. Else a token may help.

        Raises:
            Unavailable, Refused: no token helps.
        """
        found = challenge.verify(answer.headers.get("www-authenticate", ""), self._origin)
        error = wire.error(answer.body)
        if error is None or found.wants_another_token:
            return False
        if error.akv in _NO_TOKEN_HELPS:
            raise Refused(error.akv)
        if error.akv != "AKV10046":
            return False
        left = trio.current_effective_deadline() - trio.current_time()
        if left <= _TRANSIENT_401_SECONDS:
            raise Unavailable("AKV10046")
        await trio.sleep(_TRANSIENT_401_SECONDS)
        return True

    async def _newer_token(self, token: AccessToken) -> AccessToken | None:
        """Than one that the vault rejected. Raises as `_current_token`."""
        try:
            return await self._token.rejected(token)
        except Refused as exc:
            cause, hint = exc.cause, exc.hint
        raise Unavailable(cause, hint)

    def _failure(self, answer: Answer) -> Exception:
        """What an answer that is neither 200 nor 401 means (PROTOCOL §5).

        Only the vault's own words take a secret away. A shape does not: an error body with another code may be a
        gateway's, a redirected name's, or of a vault that has moved.
        """
        status = answer.status
        if status in retry.TRANSIENT:
            return Unavailable(
                f"Answer-{status}", retry_after=retry.retry_after(answer.headers, self._wall())
            )
        found = wire.error(answer.body)
        if found is None:
            return BadAnswer(f"Answer-{status}")
        if status == 404 and found.code == _ABSENT:
            return NotFound(found.code)
        if status == 403 and found.code == "Forbidden":
            said = self._forbidden(found.inner)
            if said is not None:
                return said
        return BadAnswer("-".join(filter(None, (f"Answer-{status}", found.code, found.inner))))

    def _forbidden(self, inner: str) -> Exception | None:
        """What the vault says with a 403."""
        if inner == _DISABLED:
            return Disabled(inner)
        if inner in _WRONG_DOOR:
            return Unavailable(inner)
        return Refused(inner) if inner in _NOT_ALLOWED else None


def _rejected_again(answer: Answer, *, anew: bool) -> Exception:
    """What a second 401 means, after a renewal that brought a token `anew`, or the same."""
    if not anew:
        return Unavailable("TokenRejected")
    error = wire.error(answer.body)
    if error is None or error.code != "Unauthorized":
        return BadAnswer("Answer-401")
    return Refused("Unauthorized")


class _Walk:
    """From page to page of one listing, on one origin, in no circle, and not without end."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._seen: set[str] = set()
        self._bytes = 0

    def next(self, link: str | None, size: int) -> str | None:
        """Where the next page is, after one of `size` bytes."""
        if link is None:
            return None
        self._bytes += size + len(link)
        if not self._origin.contains(link):
            raise BadAnswer("ForeignNextLink")
        if link in self._seen or len(self._seen) > _MOST_PAGES:
            raise BadAnswer("LoopingNextLink")
        if self._bytes > _MOST_BYTES:
            raise BadAnswer("EndlessListing")
        self._seen.add(link)
        return link


def _date(answer: Answer) -> float | None:
    seconds = retry.date(answer.headers.get("date", ""))
    return None if math.isnan(seconds) else seconds
