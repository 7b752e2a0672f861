"""One call for all who want the same, whoever of them gives up first."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from keyvaultfs.cache.flight import Flight, Flights
from keyvaultfs.errors import Unavailable
from tests.support.world import N, world


class Call:
    """Takes a second; counts how often it was made."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.made = 0
        self._seconds = seconds

    async def __call__(self) -> int:
        self.made += 1
        await trio.sleep(self._seconds)
        return self.made


async def test_who_leads_shares_what_comes_of_it(autojump_clock: MockClock) -> None:
    flights, call = Flights[int](), Call()
    found: list[Flight[int]] = []

    async def lead() -> None:
        found.append(await flights.lead("a", call, nursery))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(lead)
        await wait_all_tasks_blocked(0.01)
        assert "a" in flights
    assert [one.result for one in found] == [1, 1, 1]
    assert call.made == 1
    assert "a" not in flights


async def test_who_leads_and_gives_up_leaves_the_others_an_answer(autojump_clock: MockClock) -> None:
    flights, call = Flights[int](), Call()
    async with trio.open_nursery() as home:
        async with trio.open_nursery() as impatient:
            impatient.start_soon(flights.lead, "a", call, home)
            await wait_all_tasks_blocked(0.01)
            impatient.cancel_scope.cancel()
        assert await flights.join("a", call, home) == 2
    assert call.made == 2
    assert "a" not in flights


async def test_at_the_deadline_of_who_leads_nothing_begins_anew(autojump_clock: MockClock) -> None:
    flights, call = Flights[int](), Call(10.0)
    caught: list[type] = []

    async def join() -> None:
        try:
            await flights.join("a", call, home)
        except trio.TooSlowError as exc:
            caught.append(type(exc))

    async with trio.open_nursery() as home:
        with trio.move_on_after(1):
            home.start_soon(join)
            await flights.lead("a", call, home)
    assert caught == [trio.TooSlowError]
    assert call.made == 1
    assert "a" not in flights


@pytest.mark.parametrize("failure", [Unavailable("NoAnswer"), ZeroDivisionError()], ids=repr)
async def test_whatever_ends_a_call_nobody_waits_for_ever(failure: Exception) -> None:
    flights = Flights[int]()

    async def fails() -> int:
        raise failure

    async with trio.open_nursery() as home:
        try:
            flight = await flights.lead("a", fails, home)
        except ZeroDivisionError:
            assert isinstance(failure, ZeroDivisionError)
        else:
            assert isinstance(flight.failure, Unavailable)
        assert "a" not in flights


async def test_a_silent_vault_is_an_outage_though_the_readers_time_ends_with_the_requests(
    autojump_clock: MockClock,
) -> None:
    async with world(timeout=5.0) as w:
        w.vault.put("pw", "x")
        w.vault.latency = 100.0
        for _ in range(2):
            with trio.move_on_after(5.0) as scope:
                await w.cache.get(N("pw"))
            assert scope.cancelled_caught
            await trio.sleep(2)
        assert w.cache.outage
        assert not w.cache._fetches
        assert w.vault.asked["get"] == 2


async def test_who_is_in_a_hurry_ends_no_request_of_others(autojump_clock: MockClock) -> None:
    async with world(timeout=5.0) as w:
        w.vault.put("pw", "x")
        w.vault.latency = 3.0
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(1.0):
                nursery.start_soon(partial(w.cache.get, N("pw")))
                await w.cache.get(N("pw"))
        assert (await w.cache.get(N("pw"))).name == N("pw")
        assert w.vault.asked["get"] == 1
