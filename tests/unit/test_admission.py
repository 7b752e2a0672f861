"""Names that somebody makes up: few are asked for, none is remembered for long, and none that exists is held up."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import suppress

import pyfuse3
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from keyvaultfs.cache.budget import ROOT, Budget
from keyvaultfs.errors import Busy, NotFound, Refused, Unavailable
from tests.support.fake_vault import FakeVault
from tests.support.handlers import OTHERS, handlers
from tests.support.world import N, World, names_of, world

USER, OTHER = 1000, 1001


@given(
    st.lists(
        st.tuples(st.floats(0, 0.2), st.sampled_from([ROOT, USER, OTHER, *range(2000, 2600)])), max_size=400
    )
)
def test_whoever_asks_no_second_has_more_than_sixty(steps: list[tuple[float, int]]) -> None:
    now, budget = 0.0, Budget(0.0)
    taken: list[tuple[float, int]] = []
    for pause, uid in steps:
        now += pause
        if not budget.left(uid, now):
            budget.take(uid, now)
            taken.append((now, uid))
    for end, _ in taken:
        second = [uid for at, uid in taken if end - 1 < at <= end]
        assert len(second) <= 60
        assert max(Counter(second).values()) <= 30
        assert sum(uid != ROOT for uid in second) <= 40


def test_a_thousand_users_leave_root_its_share() -> None:
    now, budget = 0.0, Budget(0.0)
    asked = 0
    for tick in range(1000):
        now += 0.01
        for uid in range(1000 + tick, 1010 + tick):
            if not budget.left(uid, now):
                budget.take(uid, now)
        if not budget.left(ROOT, now):
            budget.take(ROOT, now)
            asked += 1
    assert asked >= 90
    assert len(budget._users) <= 256


async def flood(w: World, seconds: float, uid: int = USER, threads: int = 32) -> Counter[str]:
    """Threads that look up made-up names as fast as they get answers."""
    outcomes: Counter[str] = Counter()
    end = trio.current_time() + seconds

    async def thread(number: int) -> None:
        tries = 0
        while trio.current_time() < end:
            tries += 1
            try:
                await w.cache.get(N(f"made-up-{number}-{tries}"), uid)
            except (NotFound, Busy, trio.TooSlowError) as exc:
                outcomes[type(exc).__name__] += 1
            await trio.sleep(0.02)

    async with trio.open_nursery() as nursery:
        for number in range(threads):
            nursery.start_soon(thread, number)
    return outcomes


async def test_made_up_names_cost_few_requests_and_leave_nothing_behind(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(FakeVault(latency=0.05, list_refused=True)) as w:
        w.vault.put("pw", "x")
        outcomes = await flood(w, 10)
        assert w.vault.asked["get"] <= 10 + 20 * (10 + 0.5)
        assert outcomes["Busy"] > 100
        assert len(w.cache.records) < 400
        assert caplog.text.count("names that no secret has are asked for too often by uid 1000") == 1
        await trio.sleep(60)
        assert len(w.cache.records) == 0
        assert not w.cache.outage
        assert len(w.cache.admission._logged) == 0


async def test_a_short_listing_answers_for_all_made_up_names(autojump_clock: MockClock) -> None:
    async with world(FakeVault(latency=0.05)) as w:
        for number in range(60):
            w.vault.put(f"s{number}", "x")
        outcomes = await flood(w, 20)
        assert w.vault.asked["get"] <= 30
        assert w.vault.asked["list"] <= 3 * (20 / 5 + 2)
        assert outcomes["NotFound"] > 1000


async def test_a_long_listing_is_not_read_for_made_up_names(autojump_clock: MockClock) -> None:
    async with world(FakeVault(latency=0.01)) as w:
        for number in range(1000):
            w.vault.put(f"s{number}", "x")
        await flood(w, 10)
        assert w.vault.asked["list"] <= 11
        assert w.vault.asked["get"] <= 10 + 20 * (10 + 0.5)


@pytest.mark.parametrize("list_refused", [True, False])
async def test_names_that_exist_are_read_while_others_are_made_up(
    autojump_clock: MockClock, *, list_refused: bool
) -> None:
    async with world(FakeVault(latency=0.05, list_refused=list_refused)) as w:
        for number in range(200):
            w.vault.put(f"s{number}", "x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood, w, 10)
            await trio.sleep(1)
            longest = 0.0
            for number in range(20):
                begin = trio.current_time()
                assert (await w.cache.get(N(f"s{number}"), OTHER)).name == N(f"s{number}")
                longest = max(longest, trio.current_time() - begin)
        assert longest < 1


@pytest.mark.parametrize("latency", [0.05, 1.0], ids=["quick", "slow"])
async def test_a_hundred_names_that_exist_are_read_at_once(autojump_clock: MockClock, latency: float) -> None:
    """By a program that may not list, on a vault that takes a second: it waits, and is refused none of them."""
    async with world(FakeVault(latency=latency, list_refused=True), timeout=10.0) as w:
        for number in range(100):
            w.vault.put(f"s{number}", "x")
        read: list[str] = []

        async def one(number: int) -> None:
            read.append(str((await w.cache.get(N(f"s{number}"), USER)).name))

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(one, number)
        assert len(read) == 100


async def test_names_that_exist_cost_nothing_of_the_budget(autojump_clock: MockClock) -> None:
    """An identity that may not list has an application read all its secrets at its start."""
    async with world(FakeVault(latency=0.02, list_refused=True)) as w:
        for number in range(300):
            w.vault.put(f"s{number}", "x")
        for number in range(100):
            await w.cache.get(N(f"s{number}"), USER)
        async with trio.open_nursery() as nursery:
            for number in range(100, 164):
                nursery.start_soon(w.cache.get, N(f"s{number}"), USER)
        assert w.vault.asked["get"] == 164


async def test_what_is_known_or_listed_needs_no_turn(autojump_clock: MockClock) -> None:
    async with world() as w:
        for number in range(30):
            w.vault.put(f"s{number}", "x")
        await w.read("s0")
        await names_of(w)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood, w, 5)
            await trio.sleep(3)
            for number in range(30):
                await w.cache.get(N(f"s{number}"), USER)


async def test_a_fresh_listing_proves_an_absence_without_a_request(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.vault.put("pw", "x")
        await names_of(w)
        w.vault.reset()
        for number in range(100):
            with pytest.raises(NotFound):
                await w.cache.get(N(f"made-up-{number}"), USER)
        assert not w.vault.asked
        assert len(w.cache.records) == 0


@pytest.mark.parametrize("first", ["asked for", "by itself"])
async def test_a_listing_that_somebody_saw_proves_an_absence_whoever_had_it_read(
    autojump_clock: MockClock, first: str
) -> None:
    async with world(negative_ttl=5.0) as w:
        w.vault.put("pw", "x")
        if first == "asked for":
            await names_of(w)
            await trio.sleep(1)
        w.cache.listings.start(quiet=True)
        await trio.sleep(1)
        if first == "by itself":
            await names_of(w)
        w.vault.reset()
        for number in range(3):
            with pytest.raises(NotFound):
                await w.cache.get(N(f"made-up-{number}"), USER)
        assert not w.vault.asked


async def test_a_new_secret_is_found_at_once_after_a_listing_that_nobody_saw(
    autojump_clock: MockClock,
) -> None:
    async with world(negative_ttl=5.0) as w:
        w.cache.listings.start(quiet=True)
        await trio.sleep(1)
        w.vault.put("new", "here")
        assert (await w.cache.get(N("new"), USER)).name == N("new")


async def test_a_new_secret_appears_within_negative_ttl_of_a_listing_without_it(
    autojump_clock: MockClock,
) -> None:
    async with world(negative_ttl=5.0) as w:
        w.vault.put("other", "x")
        await names_of(w)
        w.vault.put("new", "here")
        await trio.sleep(5)
        assert (await w.cache.get(N("new"), USER)).name == N("new")


async def test_a_new_secret_appears_within_negative_ttl_while_names_are_made_up(
    autojump_clock: MockClock,
) -> None:
    async with world(FakeVault(latency=0.05), negative_ttl=5.0) as w:
        w.vault.put("other", "x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood, w, 30)
            await trio.sleep(7.3)
            w.vault.put("new", "here")
            await trio.sleep(5.1)
            assert (await w.cache.get(N("new"), OTHER)).name == N("new")


async def test_a_slow_vault_has_few_made_up_names_under_way(autojump_clock: MockClock) -> None:
    async with world(FakeVault(latency=3, list_refused=True)) as w, trio.open_nursery() as nursery:
        nursery.start_soon(flood, w, 20)
        await trio.sleep(10)
        w.vault.in_flight_max = w.vault.in_flight
        await trio.sleep(5)
        assert w.vault.in_flight_max <= 2
        nursery.cancel_scope.cancel()


async def test_thousands_of_threads_are_told_at_once(autojump_clock: MockClock) -> None:
    async with world(FakeVault(latency=0.05, list_refused=True)) as w:
        begin = trio.current_time()
        outcomes: Counter[float] = Counter()

        async def one(number: int) -> None:
            try:
                await w.cache.get(N(f"made-up-{number}"), USER)
            except (NotFound, Busy):
                outcomes[trio.current_time() - begin] += 1

        async with trio.open_nursery() as nursery:
            for number in range(4500):
                nursery.start_soon(one, number)
        assert sum(number for wait, number in outcomes.items() if wait < 0.1) > 4000
        assert max(outcomes) < 1


async def test_the_log_names_a_hundred_users_in_a_few_lines(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with world(FakeVault(latency=0.05, list_refused=True)) as w:
        async with trio.open_nursery() as nursery:
            for uid in range(1000, 1100):
                nursery.start_soon(flood, w, 2, uid, 4)
        assert 1 < caplog.text.count("asked for too often") < 20
        assert w.vault.asked["get"] <= 10 + 30 * (2 + 0.5)


async def test_absences_are_remembered_for_so_many_names_only(autojump_clock: MockClock) -> None:
    """With a negative_ttl of a day each made-up name would stay for a day."""
    async with world(negative_ttl=86400.0) as w:
        for number in range(4200):
            with pytest.raises(NotFound):
                await w.cache.get(N(f"made-up-{number}"))
        assert len(w.cache.records) == 4096


async def test_a_flood_on_a_slow_vault_holds_no_look_up_for_long(autojump_clock: MockClock) -> None:
    """A look-up that waits holds the folder's lock, and the news of a rotation waits for that."""
    async with world(FakeVault(latency=1, list_refused=True)) as w:
        waits: list[float] = []

        async def one(number: int, tries: int) -> None:
            begin = trio.current_time()
            with suppress(NotFound, Busy):
                await w.cache.get(N(f"made-up-{number}-{tries}"), USER)
            waits.append(trio.current_time() - begin)

        async def thread(number: int) -> None:
            for tries in range(20):
                await one(number, tries)
                await trio.sleep(0.02)

        async with trio.open_nursery() as nursery:
            for number in range(32):
                nursery.start_soon(thread, number)
        assert max(waits[len(waits) // 2 :]) <= 4.5


@pytest.mark.parametrize("latency", [0.1, 1.0])
async def test_who_makes_names_one_by_one_leaves_the_folders_lock_to_others(
    latency: float, autojump_clock: MockClock
) -> None:
    """As the kernel has mkdir(2) look a name up: one at a time in a folder, and all others wait for their turn."""
    async with world(FakeVault(latency=latency, list_refused=True)) as w:
        lock = trio.Lock()  # as the kernel's, in the order of arrival
        waits: list[float] = []

        async def look_up(name: str, uid: int) -> None:
            async with lock:
                with suppress(NotFound, Busy):
                    await w.cache.get(N(name), uid)

        async def make(number: int) -> None:
            for tries in range(1000):
                await look_up(f"made-up-{number}-{tries}", USER)
                await trio.sleep(0.2)

        async with trio.open_nursery() as nursery:
            for number in range(32):
                nursery.start_soon(make, number)
            await trio.sleep(15)
            for number in range(11):
                w.vault.put(f"s{number}", "x")
                begin = trio.current_time()
                await look_up(f"s{number}", OTHER)
                waits.append(trio.current_time() - begin)
                await trio.sleep(0.7)
            nursery.cancel_scope.cancel()
        assert sorted(waits)[5] <= 3 * latency


async def test_a_user_who_fills_the_queue_has_nobody_else_refused(autojump_clock: MockClock) -> None:
    async with world(FakeVault(latency=0.1, list_refused=True)) as w, trio.open_nursery() as nursery:
        nursery.start_soon(flood, w, 20, USER, 64)
        await trio.sleep(3)
        for number in range(30):
            for uid in (ROOT, OTHER):
                w.vault.put(f"s{number}-{uid}", "x")
                begin = trio.current_time()
                await w.cache.get(N(f"s{number}-{uid}"), uid)
                assert trio.current_time() - begin < 1
            await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


async def test_many_names_at_once_cost_a_user_the_time_of_one(autojump_clock: MockClock) -> None:
    async with world(FakeVault(latency=1, list_refused=True)) as w:
        for batch in range(4):
            outcomes: Counter[str] = Counter()

            async def one(name: str, outcomes: Counter[str] = outcomes) -> None:
                try:
                    await w.cache.get(N(name), USER)
                except (NotFound, Busy) as exc:
                    outcomes[type(exc).__name__] += 1

            async with trio.open_nursery() as nursery:
                for number in range(4):
                    nursery.start_soon(one, f"absent-{batch}-{number}")
            assert outcomes == {"NotFound": 4}
            await trio.sleep(10)


async def test_a_users_first_reads_in_an_outage_do_not_count_against_him_when_it_is_over(
    autojump_clock: MockClock,
) -> None:
    async with world(FakeVault(latency=4, list_refused=True)) as w:
        w.vault.down = True
        for number in range(3):
            with pytest.raises(Unavailable):
                await w.cache.get(N(f"s{number}"), USER)
        w.vault.down = False
        for number in range(3):
            w.vault.put(f"t{number}", "x")
            await w.cache.get(N(f"t{number}"), USER)


async def test_two_users_who_make_names_up_leave_a_third_his_turn(autojump_clock: MockClock) -> None:
    async with world(FakeVault(latency=0.05, list_refused=True)) as w:
        for number in range(5):
            w.vault.put(f"s{number}", "x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood, w, 10, USER, 64)
            nursery.start_soon(flood, w, 10, OTHER, 64)
            await trio.sleep(2)
            for number in range(5):
                assert (await w.cache.get(N(f"s{number}"), 3000)).name == N(f"s{number}")


@pytest.mark.parametrize("how", ["disabled", "refused"])
async def test_names_that_are_there_and_cannot_be_read_have_the_same_budget(
    autojump_clock: MockClock, how: str
) -> None:
    """3,000 of them, looked up again and again, were 600 requests a second: each answer holds for five seconds."""
    async with world(FakeVault(latency=0.01)) as w:
        for number in range(600):
            w.vault.put(f"s{number}", "x")
            if how == "disabled":
                w.vault.patch(f"s{number}", enabled=False)
            else:
                w.vault.forbidden.add(f"s{number}")
        w.vault.put("open", "x")
        await names_of(w)
        if how == "refused":  # the first look costs what it costs for names that can be read
            for number in range(600):
                with suppress(Refused):
                    await w.cache.get(N(f"s{number}"), USER)
        await trio.sleep(6)
        w.vault.reset()

        async def thread(first: int) -> None:
            end = trio.current_time() + 20
            number = first
            while trio.current_time() < end:
                number = (number + 7) % 600
                with suppress(Refused, Busy):
                    await w.cache.get(N(f"s{number}"), USER)
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            for first in range(16):
                nursery.start_soon(thread, first)
            await trio.sleep(10)
            await w.cache.get(N("open"), USER)
        assert w.vault.asked["get"] <= 10 + 20 * 20.5 + 1


async def test_made_up_names_leave_nothing_behind_on_their_way_to_the_cache(
    autojump_clock: MockClock,
) -> None:
    async with handlers(negative_ttl=3600.0, list_ttl=3600.0) as (w, operations):
        w.vault.put("pw", "x")
        await names_of(w)
        tree = operations._files.tree
        listed = len(tree._made)  # it is one tree for all tests
        for number in range(3000):
            with pytest.raises(pyfuse3.FUSEError):
                await operations.lookup(pyfuse3.ROOT_INODE, b"made-up-%d" % number, OTHERS)
        children = operations._folders._children[""]
        assert not children
        assert len(tree._made) == listed
        assert len(tree._tried) <= 1024
        for _ in range(2):
            await operations.lookup(pyfuse3.ROOT_INODE, b"pw", OTHERS)
        assert len(children) == 1, "what the kernel knows is found at once"
