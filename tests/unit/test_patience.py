"""PID 1 walks mounts while the whole machine waits for it; and a machine that was suspended believes nothing."""

from __future__ import annotations

import errno
import logging
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pyfuse3
import pytest
import trio
from trio.testing import MockClock

from keyvaultfs.cache.values import ValueStore
from keyvaultfs.worker import suspend
from keyvaultfs.worker.main import Worker
from keyvaultfs.worker.parts import Parts
from tests.support.fake_vault import FakeVault
from tests.support.handlers import OTHERS, handlers
from tests.support.world import TTL, N, world

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SYSTEMD = SimpleNamespace(pid=1, uid=0, gid=0, umask=0)


async def waited(call: Callable[[], Awaitable[object]]) -> tuple[float, int | None]:
    """Seconds, and the errno."""
    begin = trio.current_time()
    try:
        await call()
    except pyfuse3.FUSEError as exc:
        return trio.current_time() - begin, exc.errno
    return trio.current_time() - begin, None


async def test_pid_1_waits_2_5_seconds_for_an_unknown_name_and_others_the_timeout(
    autojump_clock: MockClock,
) -> None:
    async with handlers() as (w, kv):
        w.vault.put("pw", "x")
        w.vault.silent = True
        seconds, code = await waited(lambda: kv.lookup(pyfuse3.ROOT_INODE, b"pw", SYSTEMD))
        assert 2 <= seconds <= 2.5
        assert code == errno.EIO
        await trio.sleep(60)
        seconds, code = await waited(lambda: kv.lookup(pyfuse3.ROOT_INODE, b"pw", OTHERS))
        assert (seconds, code) == (10.0, errno.ETIMEDOUT)


async def test_pid_1_gets_what_is_known_when_the_vault_is_slow(autojump_clock: MockClock) -> None:
    async with handlers() as (w, kv):
        w.vault.put("pw", "x")
        await kv.lookup(pyfuse3.ROOT_INODE, b"pw", OTHERS)
        await trio.sleep(2 * TTL)
        w.vault.latency = 5
        begin = trio.current_time()
        found = await kv.lookup(pyfuse3.ROOT_INODE, b"pw", SYSTEMD)
        assert found.st_size == 1
        assert trio.current_time() - begin <= 2.5


async def test_pid_1_gets_what_comes_in_time(autojump_clock: MockClock) -> None:
    """systemd reads an EnvironmentFile= itself: the unit would not start."""
    async with handlers(vault=FakeVault(latency=2)) as (w, kv):
        w.vault.put("pw", "x")
        assert (await kv.lookup(pyfuse3.ROOT_INODE, b"pw", SYSTEMD)).st_size == 1


async def test_pid_1_gets_an_answer_at_once_when_the_vault_is_known_to_be_out(
    autojump_clock: MockClock,
) -> None:
    async with handlers() as (w, kv):
        for name in ("pw", "known"):
            w.vault.put(name, "x")
        await kv.lookup(pyfuse3.ROOT_INODE, b"known", OTHERS)
        await trio.sleep(1)
        w.vault.down = True
        await waited(lambda: kv.lookup(pyfuse3.ROOT_INODE, b"pw", OTHERS))
        await trio.sleep(2)
        w.vault.latency = 5
        assert await waited(lambda: kv.lookup(pyfuse3.ROOT_INODE, b"pw", SYSTEMD)) == (0, errno.EIO)
        await trio.sleep(2 * TTL)
        seconds, code = await waited(lambda: kv.lookup(pyfuse3.ROOT_INODE, b"known", SYSTEMD))
        assert (seconds, code) == (0, None), "what is known is served"
        # Each try asks, and so heals by itself.
        w.vault.down, w.vault.latency = False, 0.1
        await trio.sleep(10)
        await waited(lambda: kv.lookup(pyfuse3.ROOT_INODE, b"pw", SYSTEMD))
        await trio.sleep(2)
        assert (await kv.lookup(pyfuse3.ROOT_INODE, b"pw", SYSTEMD)).st_size == 1


async def test_pid_1_does_not_wait_for_one_name_after_the_other(autojump_clock: MockClock) -> None:
    async with handlers() as (w, kv):
        w.vault.silent = True
        begin = trio.current_time()
        for number in range(20):
            await waited(lambda number=number: kv.lookup(pyfuse3.ROOT_INODE, b"pw%d" % number, SYSTEMD))  # type: ignore[misc]
        assert trio.current_time() - begin <= 2.5
        w.vault.silent = False
        w.vault.put("pw", "x")
        await kv.lookup(pyfuse3.ROOT_INODE, b"pw", OTHERS)
        w.vault.put("other", "x")
        w.vault.latency = 2
        assert (await kv.lookup(pyfuse3.ROOT_INODE, b"other", SYSTEMD)).st_size == 1, "it answers again"


async def test_pid_1_waits_2_5_seconds_for_an_open_and_for_a_read(autojump_clock: MockClock) -> None:
    """systemd reads an EnvironmentFile= itself."""
    async with handlers(max_stale=1000.0) as (w, kv):
        w.vault.put("pw", "x")
        found = await kv.lookup(pyfuse3.ROOT_INODE, b"pw", OTHERS)
        version = w.cache.records["pw"].version
        assert version is not None
        w.cache.store.drop(N("pw"), version)
        w.vault.silent = True
        opened = await kv.open(found.st_ino, os.O_RDONLY, SYSTEMD)
        seconds, code = await waited(lambda: kv.read(opened.fh, 0, 100))
        assert (seconds, code) == (2.5, errno.EIO)
        await kv.release(opened.fh)
        await trio.sleep(3000)
        assert (await waited(lambda: kv.open(found.st_ino, os.O_RDONLY, SYSTEMD)))[0] <= 2.5


async def test_pid_1_waits_2_5_seconds_for_a_directory(autojump_clock: MockClock) -> None:
    """ConditionDirectoryNotEmpty= reads one."""
    async with handlers() as (w, kv):
        w.vault.put("pw", "x")
        w.vault.silent = True
        for who, seconds, code in ((SYSTEMD, 2.5, errno.EIO), (OTHERS, 7.5, errno.ETIMEDOUT)):
            fh = await kv.opendir(pyfuse3.ROOT_INODE, who)
            assert await waited(lambda fh=fh: kv.readdir(fh, 0, None)) == (seconds, code)  # type: ignore[misc]
            await kv.releasedir(fh)


async def test_pid_1_is_served_like_others_when_the_vault_answers(autojump_clock: MockClock) -> None:
    async with handlers(vault=FakeVault(latency=0.1)) as (w, kv):
        w.vault.put("pw", "x")
        found = await kv.lookup(pyfuse3.ROOT_INODE, b"pw", SYSTEMD)
        opened = await kv.open(found.st_ino, os.O_RDONLY, SYSTEMD)
        assert await kv.read(opened.fh, 0, 100) == b"x"
        await kv.release(opened.fh)


async def test_no_request_of_anybody_waits_longer_than_the_timeout(autojump_clock: MockClock) -> None:
    async with handlers() as (w, kv):
        for name in ("pw", "other"):
            w.vault.put(name, "x")
        known = await kv.lookup(pyfuse3.ROOT_INODE, b"pw", OTHERS)
        version = w.cache.records["pw"].version
        assert version is not None
        opened = await kv.open(known.st_ino, os.O_RDONLY, OTHERS)
        kv._opener._values[opened.fh] = None
        w.cache.store.drop(N("pw"), version)
        w.vault.silent = True
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: kv.lookup(pyfuse3.ROOT_INODE, b"other", OTHERS),
            lambda: kv.read(opened.fh, 0, 1),
        ]
        for call in calls:
            assert await waited(call) == (10.0, errno.ETIMEDOUT)
        await kv.release(opened.fh)


async def test_state_and_age_of_what_is_cached_are_extended_attributes(autojump_clock: MockClock) -> None:
    async with handlers() as (w, kv):
        w.vault.put("pw", "x")
        found = await kv.lookup(pyfuse3.ROOT_INODE, b"pw", OTHERS)

        async def told() -> tuple[bytes, float]:
            state = await kv.getxattr(found.st_ino, b"user.keyvault.state", OTHERS)
            return state, float(await kv.getxattr(found.st_ino, b"user.keyvault.age", OTHERS))

        await trio.sleep(7)
        assert await told() == (b"fresh", 7)
        w.vault.down = True
        await trio.sleep(2 * TTL)
        await kv.lookup(pyfuse3.ROOT_INODE, b"pw", OTHERS)
        state, age = await told()
        assert state == b"stale"
        assert age >= TTL
        before = sum(w.vault.asked.values())
        await told()
        assert sum(w.vault.asked.values()) == before, "an attribute never costs a request"


async def test_the_timeout_is_for_a_request_of_the_kernel_and_not_for_each_of_the_vaults_answers(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with handlers(vault=FakeVault(latency=7)) as (w, kv):
        w.vault.put("pw", "x")
        monkeypatch.setattr(w.cache.store, "get", lambda *_: None)  # its value has left memory at once
        assert await waited(lambda: kv.lookup(pyfuse3.ROOT_INODE, b"pw", OTHERS)) == (10.0, errno.ETIMEDOUT)


# --- a suspended machine -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("asleep", "noticed"), [(0.0, False), (0.5, False), (1.5, True), (86_400.0, True)])
async def test_a_machine_that_was_suspended_checks_everything_again(
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    asleep: float,
    noticed: bool,
) -> None:
    """Trio's clock stands still meanwhile, and so does the kernel's: CLOCK_BOOTTIME runs ahead."""
    gap = 100.0
    monkeypatch.setattr(suspend, "boottime_gap", lambda: gap)
    async with world() as w:
        w.vault.put("pw", "old")
        assert await w.read("pw") == "old"
        renewed: list[bool] = []
        forgotten: list[tuple[int, bytes]] = []
        parts = object.__new__(Parts)
        parts.cache = w.cache
        parts.table = SimpleNamespace(entries=SimpleNamespace(of_files=lambda: ((1, b"pw"),)))  # type: ignore[assignment]
        forgetting = SimpleNamespace(entries=forgotten.extend)
        parts.rotation = SimpleNamespace(forgetting=forgetting)  # type: ignore[assignment]
        process = object.__new__(Worker)
        process.parts = parts
        process.chain = SimpleNamespace(renew=lambda: renewed.append(True))  # type: ignore[assignment]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(suspend.watch, process._was_suspended)
            await trio.sleep(30)
            w.vault.put("pw", "new")
            gap += asleep
            with caplog.at_level(logging.INFO, "keyvaultfs"):
                await trio.sleep(5)
            assert await w.read("pw") == ("new" if noticed else "old")
            nursery.cancel_scope.cancel()
        assert renewed == [True] * noticed
        assert forgotten == [(1, b"pw")] * noticed
        assert len([one for one in caplog.records if "was suspended" in one.getMessage()]) == noticed


def test_a_value_is_no_younger_for_a_successor_of_the_same_boot() -> None:
    """`checked` is kept in seconds of a clock that both processes share."""
    store = ValueStore()

    async def first() -> None:
        async with world(FakeVault(), store) as w:
            w.vault.put("pw", "x")
            await w.read("pw")

    async def second() -> None:
        await trio.sleep(TTL + 1)
        vault = FakeVault(silent=True)
        async with world(vault, ValueStore(os.dup(store.fileno()))) as w:
            assert w.cache.overview.snapshot()["stale"] == 1
            w.vault.down = True

    trio.run(first, clock=MockClock(autojump_threshold=0))
    trio.run(second, clock=MockClock(autojump_threshold=0))
