"""What it costs to keep values fresh, counted in requests on a clock that is turned."""

from __future__ import annotations

import contextlib
import math
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from keyvaultfs.cache.freshness import PAGE
from keyvaultfs.errors import Refused
from keyvaultfs.log import Causes
from tests.support.fake_vault import FakeVault
from tests.support.world import TTL, World, names_of, world

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from trio.testing import MockClock


@asynccontextmanager
async def in_use(w: World, names: Sequence[str], every: float = 60.0) -> AsyncGenerator[None]:
    """Programs that read all these names again and again."""

    async def use() -> None:
        while True:
            for name in names:
                await w.read(name)
            await trio.sleep(every)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(use)
        yield
        nursery.cancel_scope.cancel()


def fill(vault: FakeVault, number: int) -> list[str]:
    names = [f"s{place:04}" for place in range(number)]
    for name in names:
        vault.put(name, "v")
    return names


async def test_a_refused_listing_is_a_problem_once_somebody_meets_it(autojump_clock: MockClock) -> None:
    causes = Causes(trio.current_time)
    async with world(causes=causes) as w:
        w.vault.list_refused = True
        w.cache.listings.start(quiet=True)
        await trio.sleep(1)
        assert causes.problems() == [], "nothing depends on it yet"
        for _ in range(3):
            with pytest.raises(Refused):
                await names_of(w)
        assert len(w.vault.asked) == 1
        (problem,) = causes.problems()
        assert str(problem["sentence"]).startswith("vault refuses the listing")
        w.vault.list_refused = False
        await trio.sleep(TTL)
        assert await names_of(w) == []
        assert causes.problems() == []


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_thousand_values_in_use_cost_one_listing_a_ttl_and_one_get_a_change(
    autojump_clock: MockClock, seed: int
) -> None:
    async with world(rng=random.Random(seed)) as w:
        names = fill(w.vault, 1000)
        await trio.sleep(10)
        async with in_use(w, names):
            await trio.sleep(2 * TTL)
            w.vault.reset()
            changed = random.Random(seed).sample(names, 7)
            for name in changed:
                w.vault.put(name, "changed")
                await trio.sleep(TTL)
            await trio.sleep(3 * TTL)
            assert [await w.read(name) for name in changed] == ["changed"] * 7
        assert w.vault.asked["get"] == 7
        assert w.vault.asked["list"] <= 1.1 * math.ceil(1000 / PAGE) * 10


async def test_a_right_to_read_that_is_lost_is_noticed_though_the_listing_shows_no_change(
    autojump_clock: MockClock,
) -> None:
    causes = Causes(trio.current_time)
    async with world(pages_wanted=lambda: 10, causes=causes) as w:
        names = [f"s{number:02}" for number in range(40)]
        for name in names:
            w.vault.put(name, "x")

        async def use(seconds: float) -> int:
            """How many can be read at its end."""
            end = trio.current_time() + seconds
            can = 0
            while trio.current_time() < end:
                can = 0
                for name in names:
                    with contextlib.suppress(Refused):
                        can += await w.read(name) == "x"
                await trio.sleep(60)
            return can

        await use(2 * TTL)
        w.vault.reset()
        assert await use(10 * TTL) == 40
        assert w.vault.asked["get"] == 0
        assert await use(20 * TTL) == 40
        assert 40 <= w.vault.asked["get"] <= 80
        w.vault.forbidden.update(names)
        assert await use(26 * TTL) == 0
        assert any("vault refuses" in one for one in causes.open())


async def test_values_in_use_are_not_asked_for_again_soon_however_short_ttl_is(
    autojump_clock: MockClock,
) -> None:
    async with world(ttl=5.0, pages_wanted=lambda: 10) as w:
        for number in range(40):
            w.vault.put(f"s{number:02}", "x")
        gets = []
        for _ in range(2):
            for _ in range(40 * 60 // 20):
                for number in range(40):
                    assert await w.read(f"s{number:02}") == "x"
                await trio.sleep(20)
            gets.append(w.vault.asked["get"])
        assert gets[0] == gets[1], "of forty minutes"


@pytest.mark.parametrize("ttl", [5.0, 60.0, 3600.0])
async def test_that_holds_for_any_ttl(autojump_clock: MockClock, ttl: float) -> None:
    async with world(ttl=ttl) as w:
        names = fill(w.vault, 100)
        await trio.sleep(10)
        async with in_use(w, names, ttl / 5):
            await trio.sleep(2 * ttl)
            w.vault.reset()
            await trio.sleep(10 * ttl)
        assert w.vault.asked["get"] == 0
        assert 4 * 10 <= w.vault.asked["list"] <= 1.1 * 4 * 10


async def test_few_names_of_a_large_vault_are_asked_for_singly(autojump_clock: MockClock) -> None:
    """Nobody knows how large the vault is before it was listed: a listing is given up when it is dearer."""
    async with world() as w:
        names = fill(w.vault, 1000)[:3]
        await trio.sleep(10)
        async with in_use(w, names):
            await trio.sleep(20 * TTL)
        assert w.vault.asked["list"] <= 3
        assert w.vault.asked["get"] <= 3 * 20 * 1.1 + 6


async def test_a_listing_that_the_refresher_would_give_up_is_read_to_its_end_for_a_reader(
    autojump_clock: MockClock,
) -> None:
    async with world(FakeVault(latency=1)) as w:
        names = fill(w.vault, 200)
        for name in names[:3]:
            await w.read(name)
        w.cache.listings.start(worth=3)
        await trio.sleep(1.5)
        assert await names_of(w) == names
        assert w.vault.asked["list"] == 8


@pytest.mark.parametrize("fault", ["list_refused", "list_bad"])
@pytest.mark.parametrize("prefetch", [False, True])
async def test_where_listing_fails_single_gets_keep_values_fresh_and_it_is_tried_once_a_ttl(
    autojump_clock: MockClock, fault: str, prefetch: bool
) -> None:
    """A right that was granted, or a page that was mended, is found without anybody's doing."""
    async with world(
        FakeVault(list_refused=fault == "list_refused", list_bad=fault == "list_bad"),
        prefetch=lambda name: prefetch and name.key == "s0000",
        pages_wanted=lambda: math.inf if prefetch else 0,
    ) as w:
        names = fill(w.vault, 40)
        await trio.sleep(10)
        async with in_use(w, names):
            await trio.sleep(2 * TTL)
            w.vault.reset()
            for _ in range(100):
                await trio.sleep(TTL / 10)
                assert w.cache.overview.snapshot()["stale"] == 0
            assert w.vault.asked["get"] <= 40 * 10 * 1.2
            assert 5 <= w.vault.asked["list"] <= 2 * 11
            setattr(w.vault, fault, False)
            await trio.sleep(2 * TTL)
            w.vault.reset()
            await trio.sleep(10 * TTL)
            assert w.vault.asked["get"] == 0
            assert w.vault.asked["list"] <= 1.1 * 2 * 10


async def test_when_an_outage_ends_one_listing_checks_everything(autojump_clock: MockClock) -> None:
    async with world() as w:
        names = fill(w.vault, 200)
        await trio.sleep(10)
        async with in_use(w, names):
            await trio.sleep(2 * TTL)
            w.vault.down = True
            await trio.sleep(3 * TTL)
        w.vault.put("s0100", "changed")
        w.vault.reset()
        w.vault.down = False
        await trio.sleep(10)
        assert w.cache.overview.snapshot()["stale"] == 0
        assert await w.read("s0100") == "changed"
        assert w.vault.asked["get"] <= 2
        assert w.vault.asked["list"] <= 2 * 8


async def test_in_an_outage_readers_do_not_hammer_the_vault(autojump_clock: MockClock) -> None:
    async with world() as w:
        names = fill(w.vault, 200)
        await trio.sleep(10)
        async with in_use(w, names):
            await trio.sleep(2 * TTL)
            w.vault.silent = True
            await trio.sleep(2 * TTL)
            w.vault.reset()
            await trio.sleep(600)
        assert 60 <= w.vault.asked["get"] + w.vault.asked["list"] <= 300, (
            "a probe, and no request for each read"
        )


async def test_mounts_that_began_together_check_at_moments_of_their_own(autojump_clock: MockClock) -> None:
    """Else a fleet that boots together asks together for ever."""
    moments = []
    for seed in range(12):
        async with world(FakeVault(), rng=random.Random(seed)) as w:
            names = fill(w.vault, 30)
            begin = trio.current_time()
            await trio.sleep(10)
            async with in_use(w, names, 5.0):
                await trio.sleep(1)
                w.vault.reset()
                while not w.vault.asked["list"]:  # noqa: ASYNC110 - the vault says when, and the clock jumps
                    await trio.sleep(1)
                moments.append(trio.current_time() - begin)
    assert min(moments) < 0.3 * TTL
    assert max(moments) > 0.7 * TTL
    assert max(moments) <= TTL + 10
