"""The client against a vault that says odd things: what each answer means, and that no listing is without end."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

import pytest
import trio

from keyvaultfs.errors import BadAnswer, Disabled, KeyVaultFSError, NotFound, Refused, Unavailable
from keyvaultfs.identity.token import AccessToken
from keyvaultfs.keyvault.client import KeyVaultClient
from keyvaultfs.keyvault.origin import Origin
from keyvaultfs.model import SecretName, SecretValue
from keyvaultfs.transport.answer import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

VAULT = "https://v.vault.azure.net"
NAME = SecretName("pw")


class Wire:
    """A transport whose answers are made by `answer` of the URL; it remembers what was asked."""

    def __init__(self, answer: Callable[[str], Answer]) -> None:
        self._answer = answer
        self.urls: list[str] = []

    async def get(self, url: str, _headers: dict[str, str], **_: object) -> Answer:
        await trio.lowlevel.checkpoint()
        self.urls.append(url)
        return self._answer(url)


class Token:
    """Gives out the first of its tokens until that is rejected; an exception among them is raised."""

    def __init__(self, *tokens: AccessToken | Exception) -> None:
        self.left = list(tokens) or [AccessToken(SecretValue(b"t"), 0.0, 1e9)]
        self.rejections = 0

    async def current(self) -> AccessToken:
        await trio.lowlevel.checkpoint()
        if isinstance(self.left[0], Exception):
            raise self.left[0]
        return self.left[0]

    async def rejected(self, token: AccessToken) -> AccessToken | None:
        assert token is self.left.pop(0)
        self.rejections += 1
        return await self.current() if self.left else None


def client(wire: Wire, token: Token | None = None) -> KeyVaultClient:
    token = token or Token()
    return KeyVaultClient(wire, Origin.parse(VAULT), token, api_version="7.4", wall=lambda: 0.0)  # type: ignore[arg-type]


def page(names: list[str], link: object = None) -> Answer:
    rows = [{"id": f"{VAULT}/secrets/{name}", "attributes": {"updated": 1}} for name in names]
    return Answer(200, {}, json.dumps({"value": rows, "nextLink": link}).encode())


async def listed(wire: Wire) -> list[str]:
    return [item.name.spelling async for items in client(wire).pages() for item in items]


async def test_a_short_or_empty_page_is_not_the_last() -> None:
    answers = [page([], f"{VAULT}/secrets?1"), page(["a"], f"{VAULT}:443/secrets?2"), page(["b"])]
    assert await listed(Wire(lambda _: answers.pop(0))) == ["a", "b"]


async def test_a_next_link_is_followed_as_it_stands() -> None:
    link = f"{VAULT}:443/secrets?api-version=7.4&$skiptoken=eyJ0-_&maxresults=25"
    answers = [page(["a"], link), page(["b"])]
    wire = Wire(lambda _: answers.pop(0))
    await listed(wire)
    assert wire.urls == [f"{VAULT}/secrets?api-version=7.4", link]


@pytest.mark.parametrize(
    "link",
    [
        "https://evil.example/secrets",
        "http://v.vault.azure.net/secrets",
        "https://v.vault.azure.net:8443/secrets",
        "https://v.vault.azure.net.evil.example/",
        "https://v.vault.azure.net@evil.example/",
        "//evil.example/",
        "/secrets?2",
        "file:///etc/passwd",
        "https://[::1/",
        "https://v.vault.azure.net/\r\nX: y",
        "\ud800",
        5,
        ["x"],
        "x" * 5000,
    ],
    ids=lambda link: repr(link)[:40],
)
async def test_after_a_foreign_next_link_nothing_is_asked(link: object) -> None:
    wire = Wire(lambda _: page(["a"], link))
    with pytest.raises(BadAnswer) as caught:
        await listed(wire)
    assert caught.value.hint, "status says in words what is wrong"
    assert len(wire.urls) == 1


async def test_a_next_link_in_a_circle_ends_the_listing() -> None:
    links = itertools.cycle([f"{VAULT}/secrets?1", f"{VAULT}/secrets?2"])
    wire = Wire(lambda _: page(["a"], next(links)))
    with pytest.raises(BadAnswer, match="circle"):
        await listed(wire)
    assert len(wire.urls) == 3


async def test_a_listing_without_end_is_given_up_before_it_fills_memory() -> None:
    numbers = itertools.count()
    filler = b" " * (1 << 20)

    def answer(_: str) -> Answer:
        one = page(["a"], f"{VAULT}/secrets?{next(numbers)}")
        return Answer(200, {}, one.body + filler)

    wire = Wire(answer)
    with pytest.raises(BadAnswer) as caught:
        await listed(wire)
    assert caught.value.cause == "EndlessListing"
    assert caught.value.hint
    assert len(wire.urls) <= 65


async def test_the_versions_of_another_secret_are_a_bad_answer() -> None:
    row = {"id": f"{VAULT}/secrets/other/{'0' * 32}", "attributes": {}}
    wire = Wire(lambda _: Answer(200, {}, json.dumps({"value": [row]}).encode()))
    with pytest.raises(BadAnswer):
        await client(wire).versions(NAME)


def body(code: str, inner: str | None = None) -> bytes:
    error: dict[str, object] = {"code": code, "message": "canary"}
    return json.dumps({"error": error | ({"innererror": {"code": inner}} if inner else {})}).encode()


HTML = b"<html><body>403 Forbidden by the proxy. canary</body></html>"


@pytest.mark.parametrize(
    ("status", "data", "expected"),
    [
        (404, body("SecretNotFound"), NotFound),
        (403, body("Forbidden", "SecretDisabled"), Disabled),
        (403, body("Forbidden", "AccessDenied"), Refused),
        (403, body("Forbidden", "ForbiddenByRbac"), Refused),
        (403, body("Forbidden", "ForbiddenByPolicy"), Refused),
        (403, body("Forbidden"), BadAnswer),
        (403, body("Forbidden", "NeverHeardOf"), BadAnswer),
        (403, body("AuthorizationFailed", "AccessDenied"), BadAnswer),
        (403, body("Forbidden", "ForbiddenByFirewall"), Unavailable),
        (403, body("Forbidden", "ForbiddenByConnection"), Unavailable),
        (403, HTML, BadAnswer),
        (403, b"", BadAnswer),
        (403, b'{"message": "an API gateway"}', BadAnswer),
        (404, body("NotFound"), BadAnswer),
        (404, body("ResourceNotFound"), BadAnswer),
        (404, body("VaultNotFound"), BadAnswer),
        (404, body("KeyNotFound"), BadAnswer),
        (404, body("NotFound", "SecretNotFound"), BadAnswer),
        (404, HTML, BadAnswer),
        (404, b"", BadAnswer),
        (400, body("BadParameter"), BadAnswer),
        (302, b"", BadAnswer),
        (204, b"", BadAnswer),
        (429, body("Throttled"), Unavailable),
        (408, b"", Unavailable),
        (500, HTML, Unavailable),
        (503, body("ServiceUnavailable"), Unavailable),
        (501, b"", BadAnswer),
        (200, HTML, BadAnswer),
        (200, b"[" * 200_000, BadAnswer),
    ],
    ids=lambda part: repr(part)[:40],
)
async def test_each_answer_is_a_refusal_an_absence_or_nobodys(
    status: int, data: bytes, expected: type[KeyVaultFSError]
) -> None:
    """Only what Key Vault says itself takes a cached value away; DESIGN §3 sorts them."""
    with pytest.raises(expected) as caught:
        await client(Wire(lambda _: Answer(status, {}, data))).get(NAME)
    assert type(caught.value) is expected
    assert "canary" not in str(caught.value)
    assert isinstance(caught.value, Unavailable) is (expected in {Unavailable, BadAnswer})


async def test_a_version_is_asked_for_by_its_id_and_another_is_a_bad_answer() -> None:
    data = {"value": "x", "id": f"{VAULT}/secrets/pw/{'1' * 32}", "attributes": {}}
    wire = Wire(lambda _: Answer(200, {}, json.dumps(data).encode()))
    with pytest.raises(BadAnswer):
        await client(wire).get_version(NAME, "0" * 32)  # type: ignore[arg-type]
    assert wire.urls == [f"{VAULT}/secrets/pw/{'0' * 32}?api-version=7.4"]


GOOD = Answer(200, {}, json.dumps({"value": "x", "id": f"{VAULT}/secrets/pw/{'0' * 32}"}).encode())
BEARER = 'Bearer authorization="https://login.windows.net/x", resource="https://vault.azure.net"'
CLAIMS = 'Bearer realm="", authorization_uri="https://login.windows.net/x", error="insufficient_claims", claims="eyJ9"'


def unauthorized(challenge: str, data: bytes = body("Unauthorized")) -> Answer:
    return Answer(401, {"www-authenticate": challenge}, data)


def tokens(number: int) -> Token:
    return Token(*(AccessToken(SecretValue(b"t"), 0.0, 1e9) for _ in range(number)))


@pytest.mark.parametrize(
    "rejection",
    [
        unauthorized(BEARER),
        unauthorized(f'Negotiate, PoP nonce="a, b", {BEARER}'),
        unauthorized(CLAIMS),
        unauthorized(f'{BEARER}, error="insufficient_claims", claims="eyJ9"'),
        unauthorized(CLAIMS, b""),
        unauthorized(BEARER, HTML),
    ],
    ids=range(6),
)
async def test_a_challenge_leads_to_one_renewal_of_the_token(rejection: Answer) -> None:
    answers = [rejection, GOOD]
    token = tokens(2)
    secret = await client(Wire(lambda _: answers.pop(0)), token).get(NAME)
    assert secret.value.reveal() == b"x"
    assert token.rejections == 1


@pytest.mark.parametrize(
    ("challenge", "data", "expected"),
    [
        (BEARER, body("Unauthorized"), Refused),
        (CLAIMS, body("Unauthorized"), Refused),
        (BEARER, HTML, BadAnswer),
        (BEARER, body("AccessDenied"), BadAnswer),
    ],
    ids=range(4),
)
async def test_a_second_rejection_is_the_last(
    challenge: str, data: bytes, expected: type[KeyVaultFSError]
) -> None:
    wire, token = Wire(lambda _: unauthorized(challenge, data)), tokens(3)
    with pytest.raises(expected) as caught:
        await client(wire, token).get(NAME)
    assert type(caught.value) is expected
    assert (len(wire.urls), token.rejections) == (2, 1)


async def test_a_rejected_token_without_a_newer_one_takes_no_secret_away() -> None:
    with pytest.raises(Unavailable):
        await client(Wire(lambda _: unauthorized(CLAIMS)), tokens(1)).get(NAME)


@pytest.mark.parametrize("at_first", [True, False])
async def test_the_identity_endpoints_no_is_not_the_vaults(*, at_first: bool) -> None:
    no = Refused("Identity-invalid_request", "assign one")
    token = Token(no) if at_first else Token(AccessToken(SecretValue(b"t"), 0.0, 1e9), no)
    with pytest.raises(Unavailable) as caught:
        await client(Wire(lambda _: unauthorized(BEARER)), token).get(NAME)
    assert (caught.value.cause, caught.value.hint) == (no.cause, no.hint)
