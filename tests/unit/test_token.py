"""One token for all: renewed ahead of its end, asked for once, and patient with its endpoint."""

from __future__ import annotations

import json
import logging
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from keyvaultfs.errors import BadAnswer, KeyVaultFSError, NotFound, Refused, Unavailable
from keyvaultfs.identity.imds import ImdsSource
from keyvaultfs.identity.token import IN_HAND_SECONDS, AccessToken, Declined, SharedToken
from keyvaultfs.keyvault.client import KeyVaultClient
from keyvaultfs.keyvault.origin import Origin
from keyvaultfs.log import Causes
from keyvaultfs.metrics import IdentityMetrics
from keyvaultfs.model import SecretName, SecretValue
from keyvaultfs.transport.answer import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from trio.testing import MockClock

LIFE = 86_000.0
WALL = 1_700_000_000.0


class FakeSource:
    """Answers after `latency` seconds with a token of `life` seconds, numbered, or with what `trouble` holds."""

    def __init__(self, life: float = LIFE, latency: float = 0.0) -> None:
        self.life = life
        self.latency = latency
        self.asked: list[float] = []
        self.trouble: list[KeyVaultFSError] = []
        self.always: KeyVaultFSError | None = None
        self.same = False

    async def fetch(self) -> AccessToken:
        self.asked.append(trio.current_time())
        await trio.sleep(self.latency)
        if self.always is not None:
            raise self.always
        if self.trouble:
            raise self.trouble.pop(0)
        now = trio.current_time()
        text = b"the-same" if self.same else f"token-{len(self.asked)}".encode()
        return AccessToken(SecretValue(text), now, now + self.life)


@asynccontextmanager
async def shared(source: FakeSource) -> AsyncGenerator[SharedToken]:
    token = SharedToken(
        source, metrics=IdentityMetrics(), causes=Causes(trio.current_time), rng=random.Random(1)
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(token.run)
        yield token
        nursery.cancel_scope.cancel()


async def text(token: SharedToken) -> str:
    with trio.fail_after(10):
        return (await token.current()).text.reveal().decode()


async def test_a_hundred_readers_share_one_request(autojump_clock: MockClock) -> None:
    source = FakeSource(latency=1)
    async with shared(source) as token:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(text, token)
        assert len(source.asked) == 1
        assert await text(token) == "token-1"


async def test_a_first_reader_who_gives_up_hurts_nobody(autojump_clock: MockClock) -> None:
    source = FakeSource(latency=3)
    async with shared(source) as token:
        with trio.move_on_after(1):
            await token.current()
        assert await text(token) == "token-1"
        assert len(source.asked) == 1


@pytest.mark.parametrize("life", [60.0, 599.0, 3600.0, LIFE])
async def test_a_token_is_renewed_ahead_so_that_no_reader_ever_waits(
    autojump_clock: MockClock, life: float
) -> None:
    source = FakeSource(life, latency=5)
    async with shared(source) as token:
        await text(token)
        end = trio.current_time() + 4 * life
        while trio.current_time() < end:
            begin = trio.current_time()
            assert (await token.current()).expires > begin
            assert trio.current_time() == begin
            await trio.sleep(life / 50)
        assert len(source.asked) <= 13


@given(life=st.floats(1, 1e6), obtained=st.floats(0, 1e6))
def test_a_renewal_is_due_before_the_end_and_with_minutes_in_hand(life: float, obtained: float) -> None:
    token = AccessToken(SecretValue(b"x"), obtained, obtained + life)
    assert obtained < token.due() < token.expires
    if life >= 2 * IN_HAND_SECONDS:
        assert token.expires - token.due() >= IN_HAND_SECONDS * 0.999
    if life >= 7200:
        assert token.due() - obtained == pytest.approx(life / 2)


async def test_while_the_endpoint_is_down_the_token_in_hand_is_used_to_its_end(
    autojump_clock: MockClock,
) -> None:
    source = FakeSource(3600)
    async with shared(source) as token:
        await text(token)
        source.always = Unavailable("Identity-503")
        await trio.sleep(3590)
        assert await text(token) == "token-1"
        assert len(source.asked) > 10
        await trio.sleep(20)
        with pytest.raises(trio.TooSlowError):
            await text(token)
        source.always = None
        await trio.sleep(16)
        assert (await text(token)).startswith("token-")


async def test_trouble_of_a_minute_is_retried_in_the_background_beyond_any_readers_patience(
    autojump_clock: MockClock,
) -> None:
    """404 and 410 go on for up to 70 s, while a reader waits 10 (PROTOCOL §7)."""
    source = FakeSource()
    source.always = Unavailable("Identity-410")
    async with shared(source) as token:
        with pytest.raises(trio.TooSlowError):
            await text(token)
        await trio.sleep(60)
        source.always = None
        await trio.sleep(16)
        begin = trio.current_time()
        await text(token)
        assert trio.current_time() == begin, "nobody had to ask again"
        assert 5 < len(source.asked) < 40


async def test_a_wish_of_the_endpoint_is_heeded(autojump_clock: MockClock) -> None:
    source = FakeSource()
    source.trouble = [Unavailable("Identity-429", retry_after=30.0)]
    async with shared(source) as token:
        with trio.move_on_after(10):
            await token.current()
        await trio.sleep(50)
        first, second = source.asked
        assert second - first >= 30


async def test_a_refusal_is_told_at_once_for_a_while_and_asked_again_later(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    source = FakeSource()
    source.always = Declined("Identity-invalid_request", "name one with client_id=")
    with caplog.at_level(logging.INFO, "keyvaultfs"):
        async with shared(source) as token:
            for _ in range(20):
                with pytest.raises(Declined):
                    await text(token)
            assert len(source.asked) == 1
            await trio.sleep(60)
            assert 3 < len(source.asked) < 20
            source.always = None
            await trio.sleep(16)
            assert (await text(token)).startswith("token-")
    lines = [record.getMessage() for record in caplog.records]
    assert [line.startswith("no token from the identity endpoint error=") for line in lines].count(True) == 1
    assert "client_id=" in lines[0]
    assert lines[-1].startswith("no token from the identity endpoint ended")


async def test_a_failure_without_a_hint_is_told_without(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    source = FakeSource()
    source.trouble = [Unavailable("NobodyKnows")]
    async with shared(source) as token:
        await text(token)
    assert caplog.messages[0] == "no token from the identity endpoint error=NobodyKnows"


async def test_a_rejected_token_is_replaced_once_for_all(autojump_clock: MockClock) -> None:
    source = FakeSource(latency=1)
    async with shared(source) as token:
        with trio.fail_after(10):
            old = await token.current()
        found: list[AccessToken | None] = []

        async def reject() -> None:
            with trio.fail_after(10):
                found.append(await token.rejected(old))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(reject)
        assert len(source.asked) == 2
        assert {one.text.reveal() for one in found if one is not None} == {b"token-2"}


@pytest.mark.parametrize("status", [404, 410, 429, 500])
async def test_who_waits_for_a_token_in_place_of_a_rejected_one_waits_for_the_next_try(
    autojump_clock: MockClock, status: int
) -> None:
    source = FakeSource()
    async with shared(source) as token:
        with trio.fail_after(10):
            old = await token.current()
            source.trouble = [Unavailable(f"Identity-{status}"), Unavailable("TokenTimeout")]
            newer = await token.rejected(old)
        assert newer is not None
        assert newer.text.reveal() == b"token-4"


async def test_nobody_waits_for_a_try_that_comes_after_his_deadline(autojump_clock: MockClock) -> None:
    source = FakeSource()
    async with shared(source) as token:
        with trio.fail_after(10):
            old = await token.current()
        source.trouble = [Unavailable("Identity-429", retry_after=30.0)]
        begin = trio.current_time()
        with trio.fail_after(10), pytest.raises(Unavailable, match="Identity-429"):
            await token.rejected(old)
        assert trio.current_time() == begin


async def test_while_the_endpoint_knows_no_identity_nobody_waits_and_nothing_is_refused(
    autojump_clock: MockClock,
) -> None:
    source = FakeSource(600)
    async with shared(source) as token:
        with trio.fail_after(10):
            old = await token.current()
        source.always = Declined("Identity-invalid_request")
        with trio.fail_after(10), pytest.raises(Unavailable, match="invalid_request"):
            await token.rejected(old)
        await trio.sleep(700)  # it has ended
        for _ in range(60):
            begin = trio.current_time()
            with trio.fail_after(10), pytest.raises(Unavailable, match="invalid_request"):
                await token.current()
            assert trio.current_time() == begin
            await trio.sleep(1)


@pytest.mark.parametrize("said", [Refused("Identity-Odd", "a mend"), NotFound("Identity-Odd", "a mend")])
async def test_whatever_a_source_raises_it_is_not_the_vault_that_refuses(
    autojump_clock: MockClock, said: KeyVaultFSError
) -> None:
    source = FakeSource()
    source.always = said
    async with shared(source) as token:
        with pytest.raises(Unavailable) as caught:
            await text(token)
        assert (caught.value.cause, caught.value.hint) == (said.cause, said.hint)


async def test_a_rejected_token_of_which_the_endpoint_has_no_other_is_not_asked_for_again_and_again(
    autojump_clock: MockClock,
) -> None:
    """IMDS hands out what it has cached for a day: the rejected one itself."""
    source = FakeSource()
    source.same = True
    async with shared(source) as token:
        with trio.fail_after(10):
            old = await token.current()
        for _ in range(100):
            with trio.fail_after(10):
                current = await token.current()
                assert await token.rejected(current) is None
            await trio.sleep(0.1)
        assert len(source.asked) <= 4
        assert old.text.reveal() == b"the-same"


async def test_an_endpoint_that_is_silent_ends_no_renewal_for_ever(autojump_clock: MockClock) -> None:
    source = FakeSource(latency=10_000)
    async with shared(source) as token:
        with pytest.raises(trio.TooSlowError):
            await text(token)
        source.latency = 0.0
        await trio.sleep(20)
        assert (await text(token)).startswith("token-")


async def test_after_a_suspend_a_token_is_asked_for_and_the_old_one_serves_meanwhile(
    autojump_clock: MockClock,
) -> None:
    source = FakeSource(latency=1)
    async with shared(source) as token:
        await text(token)
        token.renew()
        assert await text(token) == "token-1"
        await trio.sleep(2)
        assert await text(token) == "token-2"


# --- IMDS's answers ----------------------------------------------------------------------------------------


class OneAnswer:
    """A transport that gives the same answer to everything, and remembers the URLs."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.urls: list[str] = []
        self.headers: list[dict[str, str]] = []

    async def get(self, url: str, headers: dict[str, str], **_: Any) -> Answer:
        self.urls.append(url)
        self.headers.append(dict(headers))
        return self.answer


async def fetched(status: int, body: object, **headers: str) -> AccessToken:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    wire = OneAnswer(Answer(status, headers, raw))
    source = ImdsSource(
        wire,  # type: ignore[arg-type]
        "http://127.0.0.1:1",
        "https://vault.azure.net",
        {"client_id": "an-id"},
        wall=lambda: WALL,
    )
    token = await source.fetch()
    assert wire.headers == [{"Metadata": "true"}]
    assert "client_id=an-id" in wire.urls[0]
    return token


GOOD = {"access_token": "ey.canary", "token_type": "Bearer", "resource": "https://vault.azure.net"}


@pytest.mark.parametrize(
    ("times", "life"),
    [
        ({"expires_in": "3600"}, 3600.0),
        ({"expires_in": 3600}, 3600.0),
        ({"expires_on": "1700001000"}, 1000.0),
        ({"expires_in": "999999999999"}, 7 * 86400.0),
        ({"expires_in": "1"}, 1.0),
        ({"expires_in": 3599.5}, 3599.5),
        ({"expires_in": "3600.0"}, 3600.0),
        ({"expires_on": 1_700_001_000.25}, 1000.25),
        ({"expires_in": "soon", "expires_on": 1_700_000_500}, 500.0),
    ],
)
async def test_a_tokens_life_is_counted_from_its_arrival(
    autojump_clock: MockClock, times: dict[str, object], life: float
) -> None:
    token = await fetched(200, GOOD | times)
    assert token.expires - token.obtained == life
    assert token.obtained == trio.current_time()
    assert "canary" not in repr(token)


@pytest.mark.parametrize(
    "times",
    [
        {},
        {"expires_in": "-5"},
        {"expires_in": "1e9"},
        {"expires_in": "12 December 2023"},
        {"expires_in": True},
        {"expires_in": float("nan")},
        {"expires_in": float("inf")},
        {"expires_in": "3600."},
        {"expires_in": None},
        {"expires_in": [3600]},
        {"expires_in": "\u0663\u0666\u0660\u0660"},
        {"expires_in": 10**400},
        {"expires_in": "9" * 5000},
        {"expires_on": "12/31/2023 11:59:59 PM +00:00"},
    ],
    ids=repr,
)
async def test_a_token_without_a_believable_end_is_none(times: dict[str, object]) -> None:
    with pytest.raises(BadAnswer) as caught:
        await fetched(200, GOOD | times)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "times",
    [{"expires_in": "0"}, {"expires_on": "1699999999"}, {"expires_in": "0.001"}, {"expires_in": 0.9}],
    ids=repr,
)
async def test_a_token_that_has_ended_is_none(times: dict[str, object]) -> None:
    with pytest.raises(Unavailable):
        await fetched(200, GOOD | times)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>another cloud's metadata</html>",
        b"",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        {"access_token": 5, "expires_in": "3600"},
        {"access_token": "", "expires_in": "3600"},
        {"access_token": "with space", "expires_in": "3600"},
        {"access_token": "line\r\nX-Injected: 1", "expires_in": "3600"},
        {"access_token": "\ud800", "expires_in": "3600"},
        {"access_token": "x" * 70_000, "expires_in": "3600"},
    ],
    ids=lambda body: repr(body)[:30],
)
async def test_what_is_no_token_is_never_sent_as_one(body: object) -> None:
    with pytest.raises(BadAnswer):
        await fetched(200, body)


@pytest.mark.parametrize("status", [404, 410, 429, 500, 502, 503, 504])
async def test_passing_trouble_of_the_endpoint_is_nobody_answering(status: int) -> None:
    with pytest.raises(Unavailable) as caught:
        await fetched(status, b"", **{"retry-after": "7"})
    assert caught.value.retry_after == 7
    assert not isinstance(caught.value, BadAnswer)


async def test_several_identities_of_which_none_is_named_are_told_from_none() -> None:
    several = (
        "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the"
        " token request"
    )
    for said, cause in (
        (several, "Identity-SeveralIdentities"),
        ("Identity not found", "Identity-invalid_request"),
        (None, "Identity-invalid_request"),
        (7, "Identity-invalid_request"),
    ):
        with pytest.raises(Declined, match=cause):
            await fetched(400, {"error": "invalid_request", "error_description": said})


@pytest.mark.parametrize(
    ("code", "mend"), [("invalid_request", "client_id="), ("invalid_resource", "resource=")]
)
async def test_a_400_says_what_to_do_and_does_not_quote(code: str, mend: str) -> None:
    with pytest.raises(Declined) as caught:
        await fetched(400, {"error": code, "error_description": "Identity canary not found"})
    assert mend in caught.value.hint
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", {"error": ["x"]}, {"error": "a b\nc"}, {"error": "x" * 999}]
)
@pytest.mark.parametrize("status", [400, 401, 403, 405, 418, 302])
async def test_whatever_else_the_endpoint_says_takes_no_secret_away(body: object, status: int) -> None:
    with pytest.raises(Unavailable) as caught:
        await fetched(status, body)
    assert isinstance(caught.value, Declined | BadAnswer)
    assert "\n" not in str(caught.value)
    assert caught.value.cause.startswith("Identity-")
    assert caught.value.hint


async def test_a_byte_order_mark_before_the_json_changes_nothing(autojump_clock: MockClock) -> None:
    body = b"\xef\xbb\xbf" + json.dumps(GOOD | {"expires_in": "3600"}).encode()
    assert (await fetched(200, body)).text.reveal() == b"ey.canary"


# --- what the client does with a 401 -----------------------------------------------------------------------

VAULT = "https://v.vault.azure.net"
CHALLENGE = 'Bearer authorization="https://login.microsoftonline.com/t", resource="https://vault.azure.net"'
SECRET = Answer(
    200,
    {},
    json.dumps({"value": "x", "id": f"{VAULT}/secrets/pw/{'0' * 32}", "attributes": {}}).encode(),
)


def unauthorized(message: str, challenge: str = CHALLENGE) -> Answer:
    body = {"error": {"code": "Unauthorized", "message": message}}
    return Answer(401, {"www-authenticate": challenge}, json.dumps(body).encode())


class Vault:
    """A transport that answers by the token that it was sent, which it remembers."""

    def __init__(self, answer: Callable[[str], Answer]) -> None:
        self.answer = answer
        self.tokens: list[str] = []

    async def get(self, _url: str, _headers: dict[str, str], *, token: SecretValue | None = None) -> Answer:
        assert token is not None
        self.tokens.append(token.reveal().decode())
        return self.answer(self.tokens[-1])


async def read(vault: Vault, token: SharedToken) -> bytes:
    client = KeyVaultClient(vault, Origin.parse(VAULT), token, api_version="7.4", wall=lambda: WALL)  # type: ignore[arg-type]
    with trio.fail_after(10):
        return (await client.get(SecretName("pw"))).value.reveal()


async def test_an_expired_token_is_replaced_and_the_read_succeeds(autojump_clock: MockClock) -> None:
    source = FakeSource()
    vault = Vault(lambda token: SECRET if token == "token-2" else unauthorized("[TokenExpired] S2S12086"))
    async with shared(source) as token:
        assert await read(vault, token) == b"x"
        assert vault.tokens == ["token-1", "token-2"]


async def test_a_rejected_token_with_no_newer_one_is_nobody_answering(autojump_clock: MockClock) -> None:
    source = FakeSource()
    source.same = True
    vault = Vault(lambda _: unauthorized("[TokenExpired] S2S12086"))
    async with shared(source) as token:
        with pytest.raises(Unavailable):
            await read(vault, token)


async def test_a_401_that_a_new_token_does_not_cure_is_a_refusal(autojump_clock: MockClock) -> None:
    source = FakeSource()
    vault = Vault(lambda _: unauthorized("[TokenExpired] S2S12086"))
    async with shared(source) as token:
        with pytest.raises(Refused):
            await read(vault, token)
        assert vault.tokens == ["token-1", "token-2"]


async def test_akv10046_passes_by_itself_with_the_same_token(autojump_clock: MockClock) -> None:
    source = FakeSource()
    answers = [unauthorized("AKV10046: Unable to resolve the key"), SECRET]
    vault = Vault(lambda _: answers.pop(0))
    async with shared(source) as token:
        assert await read(vault, token) == b"x"
        assert vault.tokens == ["token-1", "token-1"]
        vault.answer = lambda _: unauthorized("AKV10046: Unable to resolve the key")
        with pytest.raises(Unavailable):
            await read(vault, token)


@pytest.mark.parametrize(("number", "mend"), [("AKV10022", "resource="), ("AKV10032", "tenant")])
async def test_a_configuration_that_no_token_cures_is_refused_with_the_mend(
    autojump_clock: MockClock, number: str, mend: str
) -> None:
    vault = Vault(lambda _: unauthorized(f"{number}: canary"))
    async with shared(FakeSource()) as token:
        with pytest.raises(Refused) as caught:
            await read(vault, token)
        assert mend in str(caught.value)
        assert len(vault.tokens) == 1


@pytest.mark.parametrize(
    "challenge",
    [
        'Bearer authorization="https://x", resource="https://evil.example"',
        'Bearer resource="https://vault.azure.net.evil.example"',
        'Bearer resource="https://azure.net:444"',
        "Basic realm=x",
        "",
    ],
)
async def test_after_a_challenge_for_a_foreign_domain_no_token_is_asked_for_or_sent(
    autojump_clock: MockClock, challenge: str
) -> None:
    source = FakeSource()
    vault = Vault(lambda _: unauthorized("AKV10000", challenge))
    async with shared(source) as token:
        with pytest.raises(BadAnswer):
            await read(vault, token)
        assert len(vault.tokens) == 1
        assert len(source.asked) == 1
