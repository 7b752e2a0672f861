"""Who reads the next request: whoever is back first, and never nobody."""

from __future__ import annotations

import os

import trio
import trio.testing

from keyvaultfs.worker.pump import Readable, Turn


async def test_a_reader_who_comes_back_at_once_keeps_his_turn(nursery: trio.Nursery) -> None:
    turn, log, go = Turn(), [], trio.Event()

    async def reader(name: str) -> None:
        for _ in range(5):
            async with turn:
                await go.wait()
                log.append(name)

    nursery.start_soon(reader, "a")
    nursery.start_soon(reader, "b")
    await trio.testing.wait_all_tasks_blocked()
    go.set()
    await trio.testing.wait_all_tasks_blocked()
    assert log in (["a"] * 5 + ["b"] * 5, ["b"] * 5 + ["a"] * 5)


async def test_another_reads_while_a_handler_waits(nursery: trio.Nursery) -> None:
    turn, log, slow = Turn(), [], trio.Event()

    async def reader(name: str) -> None:
        async with turn:
            log.append(name)
            await trio.testing.wait_all_tasks_blocked()
        if len(log) == 1:
            await slow.wait()

    for name in "abc":
        nursery.start_soon(reader, name)
    await trio.testing.wait_all_tasks_blocked(0.001)
    assert sorted(log) == ["a", "b", "c"]
    slow.set()


async def test_a_cancelled_reader_takes_no_turn_with_him(nursery: trio.Nursery) -> None:
    turn, served = Turn(), trio.Event()
    scope = trio.CancelScope()

    async def waiting(mine: trio.CancelScope, done: trio.Event) -> None:
        with mine:
            async with turn:
                done.set()

    async with turn:
        nursery.start_soon(waiting, scope, trio.Event())
        nursery.start_soon(waiting, trio.CancelScope(), served)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
    await served.wait()


async def test_what_is_there_is_read_without_a_round_but_not_for_ever() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"x")
    readable, others = Readable(), 0

    async def other() -> None:
        nonlocal others
        while True:
            await trio.lowlevel.checkpoint()
            others += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for _ in range(20):
            await readable.wait(reading)
        assert others == 0
        for _ in range(80):
            await readable.wait(reading)
        assert others > 0
        nursery.cancel_scope.cancel()
    os.close(reading)
    os.close(writing)


async def test_a_wait_ends_when_the_descriptor_is_about_to_be_closed(nursery: trio.Nursery) -> None:
    reading, writing = os.pipe()
    ended = trio.Event()

    async def wait() -> None:
        try:
            await Readable().wait(reading)
        except trio.ClosedResourceError:
            ended.set()

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    trio.lowlevel.notify_closing(reading)
    await ended.wait()
    os.close(reading)
    os.close(writing)
