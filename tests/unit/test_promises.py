"""What the cache promises, on a clock that is turned."""

from __future__ import annotations

import logging
import math
import random
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from keyvaultfs.cache.values import ValueStore
from keyvaultfs.errors import BadAnswer, Disabled, NotFound, Refused, Unavailable
from keyvaultfs.log import Causes
from tests.support.fake_vault import FakeVault
from tests.support.world import TTL, N, World, names_of, world

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from keyvaultfs.model import ListItem


async def test_64_callers_share_one_request(autojump_clock: MockClock) -> None:
    async with world(FakeVault(latency=1)) as w:
        w.vault.put("pw", "x")
        async with trio.open_nursery() as nursery:
            for _ in range(64):
                nursery.start_soon(w.read, "pw")
        assert w.vault.asked["get"] == 1


async def test_a_first_caller_who_gives_up_hurts_nobody(autojump_clock: MockClock) -> None:
    async with world(FakeVault(latency=5)) as w:
        w.vault.put("pw", "x")

        async def impatient() -> None:
            with trio.move_on_after(1):
                await w.read("pw")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(impatient)
            await trio.testing.wait_all_tasks_blocked()
            assert await w.read("pw") == "x"
        assert w.vault.asked["get"] == 1


async def test_within_ttl_nothing_is_asked_again_by_readers(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.vault.put("pw", "x")
        for _ in range(20):
            assert await w.read("pw") == "x"
        assert w.vault.asked == {"get": 1, "get pw": 1}


async def test_no_read_gives_what_was_replaced_more_than_ttl_ago(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.vault.put("pw", "old")
        assert await w.read("pw") == "old"
        await trio.sleep(100)
        w.vault.put("pw", "new")
        await trio.sleep(TTL)
        assert await w.read("pw") == "new"


async def test_a_hot_value_is_checked_before_it_expires_so_that_readers_never_wait(
    autojump_clock: MockClock,
) -> None:
    async with world(FakeVault(latency=2)) as w:
        w.vault.put("pw", "x")
        await w.read("pw")
        for _ in range(100):
            await trio.sleep(50)
            begin = trio.current_time()
            assert await w.read("pw") == "x"
            assert trio.current_time() == begin


async def test_an_idle_value_costs_no_request(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.vault.put("pw", "x")
        entry = await w.cache.get(N("pw"))
        assert entry.version == w.cache.records["pw"].version
        w.vault.reset()
        await trio.sleep(20 * TTL)
        assert w.vault.asked["get"] <= 1  # it was looked up once since its check


async def test_a_value_that_was_changed_but_once_costs_one_get(autojump_clock: MockClock) -> None:
    async with world() as w:
        names = [f"s{number:03}" for number in range(200)]
        for name in names:
            w.vault.put(name, "v")
        await trio.sleep(10)
        for name in names:
            await w.read(name)

        async def use() -> None:
            while True:
                for name in names:
                    await w.read(name)
                await trio.sleep(60)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(use)
            await trio.sleep(2 * TTL)
            w.vault.reset()
            w.vault.put("s100", "changed")
            await trio.sleep(10 * TTL)
            assert await w.read("s100") == "changed"
            nursery.cancel_scope.cancel()
        assert w.vault.asked["get"] <= 2, w.vault.asked
        assert w.vault.asked["list"] <= math.ceil(1.1 * 8 * 10)


async def test_a_held_name_is_announced_from_the_listing_without_a_get(autojump_clock: MockClock) -> None:
    async with world() as w:
        for number in range(3):
            w.vault.put(f"pw{number}", "old")
        await trio.sleep(10)
        versions = {}
        for number in range(3):
            await w.cache.get(N(f"pw{number}"))
            versions[f"pw{number}"] = w.hold(f"pw{number}")
        await trio.sleep(2 * TTL)
        w.rotations()
        w.vault.reset()
        w.vault.put("pw1", "new")
        await trio.sleep(TTL + 1)
        assert w.rotations() == [("pw1", versions["pw1"], None)]
        assert w.vault.asked["get"] == 0
        assert await w.read("pw1") == "new"


async def test_a_held_name_that_is_deleted_is_announced(autojump_clock: MockClock) -> None:
    async with world() as w:
        for number in range(3):
            w.vault.put(f"pw{number}", "old")
        await trio.sleep(10)
        for number in range(3):
            await w.cache.get(N(f"pw{number}"))
            w.hold(f"pw{number}")
        await trio.sleep(2 * TTL)
        w.rotations()
        old = w.cache.records["pw1"].version
        w.vault.delete("pw1")
        await trio.sleep(TTL + 1)
        assert w.rotations() == [("pw1", old, None)]
        with pytest.raises(NotFound):
            await w.read("pw1")


async def test_where_listing_is_forbidden_names_are_let_go_and_watches_are_asked_for(
    autojump_clock: MockClock,
) -> None:
    async with world(FakeVault(list_refused=True)) as w:
        for number in range(40):
            w.vault.put(f"pw{number}", "old")
        await trio.sleep(10)
        for number in range(40):
            await w.cache.get(N(f"pw{number}"))
            w.hold(f"pw{number}")
        await trio.sleep(2 * TTL)
        assert set(w.let_go) == {f"pw{number}" for number in range(40)}
        w.held.intersection_update({(N("pw7"), w.cache.records["pw7"].version)})
        await trio.sleep(TTL)
        w.vault.reset()
        w.rotations()
        w.vault.put("pw7", "new")
        await trio.sleep(TTL + 1)
        assert [name for name, _, _ in w.rotations()] == ["pw7"]
        assert set(w.vault.asked) - {"list"} == {"get", "get pw7"}


async def test_a_second_change_in_the_same_second_is_found(autojump_clock: MockClock) -> None:
    """`updated` has whole seconds: an equal one proves nothing for a value read in that second."""
    async with world(FakeVault(fixed_wall=1_700_000_000)) as w:
        for number in range(30):
            w.vault.put(f"s{number}", "first")
        for number in range(30):
            assert await w.read(f"s{number}") == "first"
        w.vault.put("s3", "second")
        w.vault.fixed_wall = 1_700_000_100
        for _ in range(4):
            await trio.sleep(TTL / 4)
            for number in range(30):
                await w.read(f"s{number}")
        await trio.sleep(1)
        assert await w.read("s3") == "second"
        await trio.sleep(TTL / 2)
        w.vault.reset()
        for _ in range(12):
            await trio.sleep(TTL / 4)
            for number in range(30):
                await w.read(f"s{number}")
        assert w.vault.asked["get"] == 0


async def test_an_older_time_of_change_is_a_change_too(autojump_clock: MockClock) -> None:
    """A restored secret brings its times along."""
    async with world(FakeVault(fixed_wall=1_700_000_000)) as w:
        for number in range(30):
            w.vault.put(f"s{number}", "first")
        w.vault.fixed_wall = 1_700_000_100
        for number in range(30):
            await w.read(f"s{number}")
        w.vault.fixed_wall = 1_600_000_000
        w.vault.put("s3", "restored")
        w.vault.fixed_wall = 1_700_000_200
        for _ in range(4):
            await trio.sleep(TTL / 4)
            for number in range(30):
                await w.read(f"s{number}")
        assert await w.read("s3") == "restored"
        assert w.vault.asked["get"] == 31


async def test_a_change_of_metadata_alone_is_no_rotation(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.vault.put("pw", "x")
        await w.read("pw")
        w.rotations()
        await trio.sleep(10)
        w.vault.patch("pw", content_type="text/plain")
        await trio.sleep(TTL)
        entry = await w.cache.get(N("pw"))
        assert entry.properties.content_type == "text/plain"
        assert w.rotations() == []


@pytest.mark.parametrize("kind", ["deleted", "disabled", "refused"])
async def test_a_no_takes_effect_within_ttl_over_what_is_cached(autojump_clock: MockClock, kind: str) -> None:
    expected: dict[str, type[Exception]] = {"deleted": NotFound, "disabled": Disabled, "refused": Refused}
    async with world() as w:
        w.vault.put("pw", "x")
        await w.read("pw")
        await trio.sleep(10)
        if kind == "deleted":
            w.vault.delete("pw")
        elif kind == "disabled":
            w.vault.patch("pw", enabled=False)
        else:
            w.vault.refused = True
        await trio.sleep(TTL)
        with pytest.raises(expected[kind]):
            await w.read("pw")


async def test_absence_is_remembered_for_negative_ttl(autojump_clock: MockClock) -> None:
    async with world() as w:
        for _ in range(5):
            with pytest.raises(NotFound):
                await w.read("pw")
        assert w.vault.asked["get"] == 1
        w.vault.put("pw", "here")
        await trio.sleep(5)
        assert await w.read("pw") == "here"


async def test_while_nobody_answers_the_last_value_is_served_for_max_stale_and_one_line_says_so(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "keyvaultfs"):
        async with world(max_stale=1000.0) as w:
            w.vault.put("pw", "x")
            await w.read("pw")
            w.vault.down = True
            await trio.sleep(TTL + 500)
            for _ in range(20):
                assert await w.read("pw") == "x"
                assert (await w.cache.get(N("pw"))).stale
            assert w.cache.overview.snapshot()["stale"] == 1
            assert w.cache.overview.snapshot()["outage"] is True
            assert w.cache.metrics.stale_served >= 40
            await trio.sleep(1000)
            with pytest.raises(Unavailable):
                await w.read("pw")
            w.vault.down = False
            await trio.sleep(2)
            assert await w.read("pw") == "x"
            assert not (await w.cache.get(N("pw"))).stale
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if line.startswith("vault unreachable error=")]) == 1
    assert len([line for line in lines if line.startswith("vault unreachable ended")]) == 1


async def test_max_stale_0_turns_stale_values_off(autojump_clock: MockClock) -> None:
    async with world(max_stale=0.0) as w:
        w.vault.put("pw", "x")
        await w.read("pw")
        w.vault.down = True
        await trio.sleep(TTL)
        with pytest.raises(Unavailable):
            await w.read("pw")


async def test_in_an_outage_readers_of_known_values_do_not_wait(autojump_clock: MockClock) -> None:
    async with world() as w:
        for name in ("a", "b"):
            w.vault.put(name, name)
            await w.read(name)
        w.vault.silent = True
        await trio.sleep(2 * TTL)
        begin = trio.current_time()
        assert [await w.read("a"), await w.read("b")] == ["a", "b"]
        assert trio.current_time() == begin


async def test_a_caller_waits_no_longer_than_the_timeout_and_a_repetition_not_at_all(
    autojump_clock: MockClock,
) -> None:
    async with world(timeout=10.0) as w:
        w.vault.put("pw", "x")
        w.vault.silent = True
        begin = trio.current_time()
        for _ in range(3):
            with pytest.raises(trio.TooSlowError):
                await w.read("pw")
        assert trio.current_time() - begin <= 11


async def test_a_cold_walk_in_listing_order_costs_far_fewer_round_trips_than_names(
    autojump_clock: MockClock,
) -> None:
    async with world(FakeVault(latency=0.02)) as w:
        names = [f"s{number:04}" for number in range(1000)]
        for name in names:
            w.vault.put(name, name)
        async for _ in w.cache.listing():
            pass
        begin = trio.current_time()
        for name in names:
            await w.read(name)
        assert trio.current_time() - begin <= 1000 * 0.02 / 8
        assert w.vault.asked["get"] == 1000
        assert w.vault.in_flight_max <= 16


async def test_random_reads_fetch_nothing_that_nobody_asked_for(autojump_clock: MockClock) -> None:
    async with world() as w:
        for number in range(100):
            w.vault.put(f"s{number:03}", "x")
        async for _ in w.cache.listing():
            pass
        for number in (50, 3, 90, 20, 71):
            await w.read(f"s{number:03}")
        await trio.sleep(1)
        assert w.vault.asked["get"] == 5


async def test_a_listing_streams_and_is_shared(autojump_clock: MockClock) -> None:
    async with world(FakeVault(latency=1)) as w:
        for number in range(100):
            w.vault.put(f"s{number:03}", "x")
        begin = trio.current_time()
        pages = w.cache.listing()
        assert len(await anext(pages)) == 25
        assert trio.current_time() - begin == 1
        second = [page async for page in w.cache.listing()]
        rest = [page async for page in pages]
        assert sum(map(len, second)) == 100
        assert sum(map(len, rest)) == 75
        assert w.vault.asked["list"] == 4
        third = [page async for page in w.cache.listing()]
        assert sum(map(len, third)) == 100
        assert w.vault.asked["list"] == 4


async def test_a_listing_is_as_fresh_as_list_ttl_says_and_stale_while_nobody_answers(
    autojump_clock: MockClock,
) -> None:
    async with world() as w:
        w.vault.put("a", "x")
        assert await names_of(w) == ["a"]
        w.vault.put("b", "x")
        assert await names_of(w) == ["a"]
        await trio.sleep(60)
        assert await names_of(w) == ["a", "b"]
        w.vault.down = True
        await trio.sleep(120)
        assert await names_of(w) == ["a", "b"]


@pytest.mark.parametrize("max_stale", [0.0, 1000.0])
async def test_in_an_outage_a_listing_is_shown_for_max_stale_and_no_longer(
    autojump_clock: MockClock, max_stale: float
) -> None:
    async with world(max_stale=max_stale) as w:
        w.vault.put("a", "x")
        await w.read("a")
        assert await names_of(w) == ["a"]
        w.vault.down = True
        if max_stale:
            await trio.sleep(60 + max_stale - 1)
            assert await names_of(w) == ["a"]
            await trio.sleep(2)
        else:
            await trio.sleep(600)  # the refresher has noticed
        with pytest.raises(Unavailable):
            await names_of(w)


async def test_a_refused_listing_is_refused(autojump_clock: MockClock) -> None:
    async with world(FakeVault(list_refused=True)) as w:
        w.vault.put("a", "x")
        with pytest.raises(Refused):
            await names_of(w)
        assert await w.read("a") == "x"


async def test_a_refusal_of_a_listing_that_nobody_asked_for_is_told_when_somebody_meets_it(
    autojump_clock: MockClock,
) -> None:
    causes = Causes(trio.current_time)
    async with world(FakeVault(list_refused=True), causes=causes) as w:
        w.cache.listings.start(quiet=True)
        await trio.sleep(1)
        assert not causes.open()
        asked = w.vault.asked["list"]
        with pytest.raises(Refused):
            await names_of(w)
        assert w.vault.asked["list"] == asked, "it was remembered"
        assert causes.open() == {"vault refuses the listing": 1}
        w.vault.list_refused = False
        await trio.sleep(10)
        await names_of(w)
        assert not causes.open()


async def test_of_listings_that_last_for_days_few_are_read_at_a_time(autojump_clock: MockClock) -> None:
    under_way = 0

    class Slow(FakeVault):
        async def pages(self) -> AsyncGenerator[tuple[ListItem, ...], None]:
            nonlocal under_way
            under_way += 1
            try:
                while True:
                    await trio.sleep(9)
                    yield ()
            finally:
                under_way -= 1

    async with world(Slow()) as w:
        for _ in range(100):
            with trio.move_on_after(10):
                await names_of(w)
            await trio.sleep(100)
        assert 1 <= under_way <= 4


async def test_prefetched_names_are_warm_before_anybody_asks_and_stay_so(autojump_clock: MockClock) -> None:
    async with world(
        FakeVault(latency=1), prefetch=lambda name: name.key.startswith("pg-"), pages_wanted=lambda: math.inf
    ) as w:
        for name in ("pg-a", "pg-b", "other"):
            w.vault.put(name, name)
        await trio.sleep(10)
        w.vault.put("pg-c", "later")
        await trio.sleep(5 * TTL)
        w.vault.silent = True
        begin = trio.current_time()
        assert [await w.read(name) for name in ("pg-a", "pg-b", "pg-c")] == ["pg-a", "pg-b", "later"]
        assert trio.current_time() == begin
        assert w.vault.asked["get other"] == 0


async def test_a_prefetched_name_is_kept_fresh_though_nobody_reads_it_and_nothing_is_listed(
    autojump_clock: MockClock,
) -> None:
    async with world(prefetch=lambda name: name.key == "pw", prefetch_names=(N("pw"),)) as w:
        w.vault.put("pw", "old")
        await trio.sleep(3 * TTL)
        w.vault.put("pw", "new")
        await trio.sleep(TTL)
        w.vault.silent = True
        begin = trio.current_time()
        assert await w.read("pw") == "new"
        assert trio.current_time() == begin
        assert w.vault.asked["list"] == 0


async def test_names_that_do_not_match_cost_nothing_and_are_not_there(autojump_clock: MockClock) -> None:
    async with world(matches=lambda name: name.key != "hidden") as w:
        w.vault.put("hidden", "x")
        w.vault.put("shown", "x")
        with pytest.raises(NotFound):
            await w.read("hidden")
        assert await names_of(w) == ["shown"]
        assert w.vault.asked["get"] == 0


async def test_max_cache_bounds_memory_and_an_evicted_value_is_fetched_by_its_version(
    autojump_clock: MockClock,
) -> None:
    async with world(max_cache=10_000) as w:
        for number in range(30):
            w.vault.put(f"s{number}", "x" * 1000)
            await w.cache.get(N(f"s{number}"))
        assert w.cache.store.live <= 10_000
        entry = await w.cache.get(N("s0"))
        assert w.cache.peek_value(N("s0"), entry.version) is None
        assert await w.read("s0") == "x" * 1000
        assert w.vault.asked["version s0"] == 1


async def test_what_nobody_needs_leaves_memory_after_max_stale(autojump_clock: MockClock) -> None:
    async with world(max_stale=600.0) as w:
        w.vault.put("pw", "x")
        await w.cache.get(N("pw"))
        await trio.sleep(TTL * 2 + 700)
        assert len(w.cache.store) == 0
        assert w.cache.records == {}


async def test_after_a_suspend_everything_is_checked_before_it_is_served(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.vault.put("pw", "old")
        await w.read("pw")
        w.vault.put("pw", "new")
        w.cache.expire()
        assert await w.read("pw") == "new"


async def test_a_fetch_that_was_under_way_during_a_suspend_proves_nothing(autojump_clock: MockClock) -> None:
    async with world(FakeVault(latency=5)) as w:
        w.vault.put("pw", "old")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.cache.get, N("pw"))
            await trio.sleep(1)
            w.vault.put("pw", "new")
            w.cache.expire()
        assert await w.read("pw") == "new"


async def test_forget_makes_the_next_read_ask_the_vault(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.vault.put("pw", "old")
        await w.read("pw")
        w.vault.put("pw", "new")
        assert w.cache.forget()["values"] == 1
        assert await w.read("pw") == "new"
        w.cache.forget()
        w.vault.down = True
        with pytest.raises(Unavailable):
            await w.read("pw")


async def test_a_version_id_that_changes_its_value_is_a_bad_answer(autojump_clock: MockClock) -> None:
    async with world() as w:
        version = w.vault.put("pw", "old")
        await w.read("pw")
        await trio.sleep(TTL * 2)
        w.vault.secrets["pw"].values[version] = b"other bytes"
        w.vault.patch("pw", content_type="x")
        await trio.sleep(TTL * 2)
        assert await w.read("pw") == "old"
        w.cache.store.drop(N("pw"), version)
        with pytest.raises(BadAnswer):
            await w.cache.value(N("pw"), version)


async def test_a_failure_that_is_remembered_keeps_no_frames_which_may_hold_a_value(
    autojump_clock: MockClock,
) -> None:
    async with world() as w:
        w.vault.put("pw", "x")
        w.vault.down = True
        with pytest.raises(Unavailable):
            await w.read("pw")
        with pytest.raises(Unavailable):
            await names_of(w)
        assert w.cache.listings.verdict is not None
        for kept in (w.cache.records["pw"].verdict, w.cache.listings.verdict[0]):
            assert kept is not None
            assert kept.__traceback__ is None
            assert kept.__context__ is None


async def test_a_successor_serves_what_its_predecessor_knew_during_an_outage(
    autojump_clock: MockClock,
) -> None:
    store = ValueStore()
    vault = FakeVault()
    async with world(vault, store) as w:
        w.vault.put("pw", "x")
        await w.read("pw")
    vault.down = True
    again = ValueStore(store.fileno())
    async with world(vault, again) as w:
        assert await w.read("pw") == "x"
        await trio.sleep(2 * TTL)
        assert await w.read("pw") == "x"


async def test_a_hanging_name_delays_no_other(autojump_clock: MockClock) -> None:
    async with world() as w:
        names = [f"hang{number}" for number in range(250)]
        w.vault.hanging.update(names)
        w.vault.put("ok", "x")
        for name in names:
            w.vault.put(name, "x")
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(expect_failure, w, name)
            await trio.testing.wait_all_tasks_blocked()
            begin = trio.current_time()
            assert await w.read("ok") == "x"
            assert trio.current_time() == begin


async def expect_failure(w: World, name: str) -> None:
    begin = trio.current_time()
    with pytest.raises((trio.TooSlowError, Unavailable)):
        await w.read(name)
    assert trio.current_time() - begin <= 11


ACTIONS = st.one_of(
    st.tuples(st.just("read"), st.sampled_from("abc")),
    st.tuples(st.just("list"), st.just("")),
    st.tuples(st.just("put"), st.sampled_from("abc")),
    st.tuples(st.just("delete"), st.sampled_from("abc")),
    st.tuples(st.just("disable"), st.sampled_from("abc")),
    st.tuples(st.just("enable"), st.sampled_from("abc")),
    st.tuples(st.sampled_from(["down", "silent", "up", "suspend", "hold", "kill"]), st.just("")),
    st.tuples(st.just("sleep"), st.sampled_from(["0.4", "1", "7", "60", "250", "400", "2000"])),
)


async def play(actions: list[tuple[str, str]]) -> None:  # noqa: C901, PLR0912 - a table of what may happen
    """Random life, against the contract.

    While the vault has answered everything for `ttl`, what a read gives was current at some moment in the last `ttl`.
    Else it was current at some moment within `ttl` and `max_stale` - and is never something that the vault refused
    since, as far as anybody asked.
    """
    max_stale = 1000.0
    vault, store = FakeVault(latency=0.01), ValueStore()
    trouble = -math.inf
    async with trio.open_nursery() as nursery:
        context = world(vault, store, max_stale=max_stale)
        w = await context.__aenter__()
        number = 0
        for action, what in actions:
            if action == "put":
                number += 1
                vault.put(what, f"value {number}")
            elif action == "delete":
                vault.delete(what)
            elif action in {"disable", "enable"} and what in vault.secrets:
                vault.patch(what, enabled=action == "enable")
            elif action in {"down", "silent", "up"}:
                if vault.down or vault.silent:
                    trouble = trio.current_time()
                vault.down, vault.silent = action == "down", action == "silent"
            elif action == "suspend":
                w.cache.expire()
            elif action == "hold":
                for key, record in w.cache.records.items():
                    if record.version is not None:
                        w.hold(key)
            elif action == "kill":
                await context.__aexit__(None, None, None)
                context = world(vault, ValueStore(store.fileno()), max_stale=max_stale)
                w = await context.__aenter__()
            elif action == "sleep":
                await trio.sleep(float(what))
            elif action == "list":
                with trio.move_on_after(30):
                    try:
                        await names_of(w)
                    except (Unavailable, trio.TooSlowError):
                        assert vault.down or vault.silent or trio.current_time() - trouble < 15
            elif action == "read":
                await check_read(w, what, trouble, max_stale)
        await context.__aexit__(None, None, None)
        nursery.cancel_scope.cancel()


async def check_read(w: World, name: str, trouble: float, max_stale: float) -> None:
    vault = w.vault
    in_trouble = vault.down or vault.silent or trio.current_time() - trouble < TTL
    begin = trio.current_time()
    seen: bytes | None
    try:
        seen = (await w.read(name)).encode()
    except (NotFound, Disabled):
        seen = None
    except (Unavailable, trio.TooSlowError):
        assert in_trouble, "nobody answered, they say"
        return
    finally:
        assert trio.current_time() - begin <= 11
    age = TTL + (max_stale if in_trouble else 0.0) + 1
    if seen is None and not in_trouble:
        age = max(age, 6.0)
    assert seen in current_within(vault, name, trio.current_time() - age)


def current_within(vault: FakeVault, name: str, since: float) -> set[bytes | None]:
    """All that a name stood for at some moment since then."""
    found: set[bytes | None] = set()
    current: bytes | None = None
    for when, key, value in vault.history:
        if key == name:
            if when >= since:
                found.add(current)
            current = value
    return found | {current}


@settings(max_examples=60, deadline=None)
@given(st.lists(ACTIONS, max_size=40))
def test_whatever_happens_the_contract_holds(actions: list[tuple[str, str]]) -> None:
    trio.run(partial(play, actions), clock=trio.testing.MockClock(autojump_threshold=0))


def test_ten_hours_with_faults_lose_nothing() -> None:
    rng = random.Random(10)
    actions: list[tuple[str, str]] = []
    kinds = (
        ["read"] * 12
        + ["put"] * 3
        + ["delete", "disable", "enable", "down", "silent", "up", "up", "up", "list", "kill"]
    )
    slept = 0.0
    while slept < 36_000:
        kind = rng.choice(kinds)
        actions.append(
            (kind, rng.choice("abc") if kind in {"read", "put", "delete", "disable", "enable"} else "")
        )
        seconds = rng.choice(["0.4", "1", "7", "60"])
        slept += float(seconds)
        actions.append(("sleep", seconds))
    trio.run(partial(play, actions), clock=trio.testing.MockClock(autojump_threshold=0))
