"""One throttle for the mount: what a 429, a dead vault and a fleet do to the requests of one machine."""

from __future__ import annotations

import math
import random
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from keyvaultfs.errors import Unavailable
from keyvaultfs.metrics import TransportMetrics
from keyvaultfs.transport import retry
from keyvaultfs.transport.answer import Answer
from keyvaultfs.transport.retry import TRANSIENT, pause, retry_after
from keyvaultfs.transport.session import Transport
from keyvaultfs.transport.throttle import PROBE_SECONDS, Throttle
from keyvaultfs.transport.tls import tls_context

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio.testing import MockClock

    from keyvaultfs.model import SecretValue

CONTEXT = tls_context(None)
OK = Answer(200, {}, b"{}")


class Scripted(Transport):
    """Everything above the socket: `say` answers, and is told the time; None hangs."""

    def __init__(
        self, say: Callable[[float], Answer | None], max_requests: int = 16, failures: int = 5
    ) -> None:
        rng = random.Random(1)
        super().__init__(
            max_requests=max_requests,
            context=CONTEXT,
            metrics=TransportMetrics(),
            throttle=Throttle(rng, failures=failures),
            rng=rng,
            wall=lambda: 1_700_000_000.0,
        )
        self.say = say
        self.sent: list[float] = []
        self.in_flight = self.in_flight_max = 0

    async def _attempt(
        self,
        _url: str,
        _headers: Mapping[str, str],
        _token: SecretValue | None,
        limiter: trio.CapacityLimiter,
    ) -> Answer:
        async with limiter:
            self.sent.append(trio.current_time())
            self.in_flight += 1
            self.in_flight_max = max(self.in_flight_max, self.in_flight)
            try:
                await trio.sleep(0.02)
                answer = self.say(trio.current_time())
                if answer is None:
                    await trio.sleep_forever()
            finally:
                self.in_flight -= 1
        assert answer is not None
        return answer

    async def ask(self, seconds: float = 10.0, *, probe: bool = False) -> int | str:
        """The status, or the cause of its failure."""
        try:
            with trio.fail_after(seconds):
                return (await self.get("https://v/", {}, probe=probe)).status
        except Unavailable as exc:
            return exc.cause
        except trio.TooSlowError:
            return "late"


async def warm(wire: Scripted) -> None:
    """So many answers that it uses all its slots."""
    say, wire.say = wire.say, lambda _: OK
    for _ in range(16):
        assert await wire.ask() == 200
    wire.say = say
    wire.sent.clear()


def busy(wish: str | None) -> Answer:
    return Answer(429, {} if wish is None else {"retry-after": wish}, b"")


# --- Retry-After, and none ---------------------------------------------------------------------------------


async def test_a_retry_after_silences_the_whole_mount_and_not_the_request_alone(
    autojump_clock: MockClock,
) -> None:
    begin = trio.current_time()
    wire = Scripted(lambda now: busy("3") if now - begin < 3 else OK)
    assert await wire.ask(seconds=1) == 429
    asked = len(wire.sent)
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(wire.ask, 9.0)
    later = [when - begin for when in wire.sent[asked:]]
    assert len(later) == 50
    assert min(later) >= 3


async def test_who_cannot_wait_so_long_is_told_at_once_and_nothing_is_sent(autojump_clock: MockClock) -> None:
    wire = Scripted(lambda _: busy("30"))
    assert await wire.ask() == 429
    begin = trio.current_time()
    assert await wire.ask() == "Throttled"
    assert trio.current_time() == begin
    assert len(wire.sent) == 1


async def test_after_a_pause_one_request_goes_first_and_the_rest_follow_its_answer(
    autojump_clock: MockClock,
) -> None:
    still_busy = True
    wire = Scripted(lambda _: busy("2") if still_busy else OK)
    await warm(wire)
    async with trio.open_nursery() as nursery:
        for _ in range(40):
            nursery.start_soon(wire.ask, 9.0)
        await trio.sleep(0.01)
        assert wire.in_flight == 16
        await trio.sleep(0.1)
        first = len(wire.sent)
        assert first == 16
        await trio.sleep(4)
        # The one that went when the pause was over found the vault busy still.
        assert len(wire.sent) == first + 1
        still_busy = False
    wire.in_flight_max = 0
    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(wire.ask, 30.0)
    assert wire.in_flight_max > 4


@pytest.mark.parametrize("wish", ["0", "1"])
async def test_however_often_a_vault_asks_for_a_second_a_reader_can_wait_for_it(
    autojump_clock: MockClock, wish: str
) -> None:
    wire = Scripted(lambda _: busy(wish))
    for _ in range(20):
        await wire.ask(seconds=10)
        assert wire.throttle.left(trio.current_time()) <= 9
        await trio.sleep(wire.throttle.left(trio.current_time()))
    await wire.ask(seconds=10)
    wire.say = lambda _: OK
    async with trio.open_nursery() as nursery:
        for _ in range(20):

            async def reads() -> None:
                assert await wire.ask(seconds=10) == 200

            nursery.start_soon(reads)


async def test_without_retry_after_the_pauses_grow(autojump_clock: MockClock) -> None:
    wire = Scripted(lambda _: busy(None))
    await wire.ask(seconds=600)
    gaps = [b - a for a, b in zip(wire.sent, wire.sent[1:], strict=False)]
    assert max(gaps) <= 16.1
    assert sum(gaps[6:20]) > 5 * sum(gaps[:3])


@given(seed=st.integers(), wishes=st.lists(st.none() | st.floats(0, 3600), min_size=1, max_size=40))
def test_no_request_goes_before_the_moment_that_the_vault_asked_for(
    seed: int, wishes: list[float | None]
) -> None:
    throttle, now, earliest = Throttle(random.Random(seed)), 0.0, 0.0
    for wish in wishes:
        said = throttle.throttled(now, wish)
        assert 0 <= said < math.inf
        earliest = max(earliest, now + (wish or 0.0))
        assert now + throttle.wait(now) >= earliest - 1e-9
        assert throttle.room == 1
        now += throttle.wait(now)


@given(seed=st.integers(0, 1000))
def test_the_back_off_has_full_jitter(seed: int) -> None:
    """Two machines that were refused in the same moment come back at moments that have nothing in common."""
    pauses = [Throttle(random.Random(f"{seed}-{number}")).throttled(0.0, None) for number in range(200)]
    assert min(pauses) < 0.1
    assert max(pauses) > 0.9
    told = [Throttle(random.Random(f"{seed}-{number}")).throttled(0.0, 10.0) for number in range(200)]
    assert min(told) < 11
    assert max(told) > 19


async def test_429s_never_open_the_circuit(autojump_clock: MockClock) -> None:
    wire = Scripted(lambda _: busy("0"))
    await wire.ask(seconds=60)
    assert len(wire.sent) > 5
    assert not wire.throttle.open


# --- the circuit -------------------------------------------------------------------------------------------


async def test_a_dead_vault_is_left_alone_and_probed_at_least_every_5_seconds(
    autojump_clock: MockClock,
) -> None:
    wire = Scripted(lambda _: Answer(503, {}, b""))
    for _ in range(5):
        await wire.ask(seconds=0.5)
    assert wire.throttle.open
    wire.sent.clear()
    begin = trio.current_time()
    outcomes = []
    while trio.current_time() < begin + 120:  # impatient readers, a hundred a second
        outcomes.append(await wire.ask())
        await trio.sleep(0.01)
    gaps = [b - a for a, b in zip(wire.sent, wire.sent[1:], strict=False)]
    assert max(gaps) <= PROBE_SECONDS + 0.1
    assert len(wire.sent) <= 2 * 120 / PROBE_SECONDS
    assert outcomes.count("CircuitOpen") > 1000


async def test_with_an_open_circuit_readers_do_not_wait(autojump_clock: MockClock) -> None:
    wire = Scripted(lambda _: None)
    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(wire.ask, 2.0)
    assert wire.throttle.open
    begin = trio.current_time()
    assert await wire.ask() == "CircuitOpen"
    assert trio.current_time() == begin


async def test_the_circuit_closes_with_the_first_answer_be_it_a_no(autojump_clock: MockClock) -> None:
    status = 503
    wire = Scripted(lambda _: Answer(status, {}, b""))
    for _ in range(5):
        await wire.ask(seconds=0.5)
    status = 404
    await trio.sleep(PROBE_SECONDS)
    assert await wire.ask() == 404
    assert not wire.throttle.open
    assert await wire.ask() == 404


async def test_while_every_slot_hangs_the_probe_has_its_own(autojump_clock: MockClock) -> None:
    hanging = True
    wire = Scripted(lambda _: None if hanging else OK)
    await warm(wire)
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(wire.ask, 10.0)
        await trio.sleep(1)
        assert wire.in_flight == 16
        hanging = False
        assert await wire.ask(seconds=1, probe=True) == 200


async def test_a_mount_begins_with_few_requests_at_once_and_soon_uses_all_its_slots(
    autojump_clock: MockClock,
) -> None:
    wire = Scripted(lambda _: OK)
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(wire.ask)
        await trio.sleep(0.01)
        assert wire.in_flight == 8
    assert wire.in_flight_max == 16


async def test_no_more_than_max_requests_are_in_flight(autojump_clock: MockClock) -> None:
    wire = Scripted(lambda _: OK, max_requests=3)
    await warm(wire)
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(wire.ask)
    assert wire.in_flight_max == 3


async def test_a_caller_who_only_queued_says_nothing_of_the_vault(autojump_clock: MockClock) -> None:
    """Readers behind slow answers give up; that is no reason to call the vault dead."""
    wire = Scripted(lambda _: OK, max_requests=1)
    wire.throttle.failures = 5
    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(partial(wire.ask, seconds=0.05))
    assert not wire.throttle.open


# --- which answers are tried again -------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_transient_answer_is_tried_again(autojump_clock: MockClock, status: int) -> None:
    answers = [Answer(status, {}, b""), Answer(status, {}, b""), OK]
    wire = Scripted(lambda _: answers.pop(0))
    assert await wire.ask(seconds=60) == 200


@pytest.mark.parametrize("status", [200, 204, 301, 302, 400, 401, 403, 404, 405, 409, 410, 412, 501, 505])
async def test_any_other_answer_is_final(autojump_clock: MockClock, status: int) -> None:
    wire = Scripted(lambda _: Answer(status, {"retry-after": "1"}, b""))
    assert await wire.ask() == status
    assert len(wire.sent) == 1


async def test_a_probe_is_never_tried_again(autojump_clock: MockClock) -> None:
    wire = Scripted(lambda _: Answer(503, {}, b""))
    assert await wire.ask(probe=True) == 503
    assert len(wire.sent) == 1


def test_the_statuses_are_those_of_the_protocol() -> None:
    assert frozenset({408, 429, 500, 502, 503, 504}) == TRANSIENT


@given(attempt=st.integers(0, 10_000), seed=st.integers())
def test_a_pause_between_attempts_is_jittered_and_bounded(attempt: int, seed: int) -> None:
    assert 0 <= pause(attempt, random.Random(seed)) <= min(30.0, 0.4 * 2 ** min(attempt, 30))


WALL = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "1.5"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "999999999"}, 3600.0),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "\u0667"}, None),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:00 GMT"}, 0.0),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, 3600.0),
        ({"retry-after": "Wed, 15 Nov 2023 22:13:25 GMT", "date": "Wed, 15 Nov 2023 22:13:20 GMT"}, 5.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50 GMT", "date": "now"}, 30.0),
        ({"retry-after": "Tue, 99 Nov 2023 22:13:00 GMT"}, None),
        ({"retry-after-ms": "250"}, 0.25),
        ({"x-ms-retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "nan", "retry-after": "2"}, 2.0),
    ],
)
def test_a_retry_after_is_seconds_or_a_date_and_at_most_an_hour(
    headers: dict[str, str], expected: float | None
) -> None:
    assert retry_after(headers, WALL) == expected


@given(st.text(max_size=60))
def test_any_retry_after_gives_a_wait_or_none(text: str) -> None:
    found = retry_after({"retry-after": text, "retry-after-ms": text}, WALL)
    assert found is None or 0 <= found <= 3600


@given(st.text(max_size=60))
def test_any_date_gives_seconds_or_none(text: str) -> None:
    assert isinstance(retry.date(text), float)
