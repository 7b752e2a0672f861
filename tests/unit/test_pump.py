"""Who reads the next request: whoever is back first, and never nobody."""

from __future__ import annotations

import os

import trio
import trio.testing

from keyvaultfs.worker.pump import Eagerness, Readable, Turn


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


class Program:
    """Asks for one thing after another; times in nanoseconds."""

    def __init__(self, processors: int = 2) -> None:
        self.eager = Eagerness(processors)
        self.now = self.moments = self.sleeps = 0

    def ask(self, *, asleep: int, looking: int) -> None:
        """It comes after so long, by what the worker does meanwhile."""
        self.eager.requests += 1
        if self.eager.looks:
            self.now += looking
            self.moments += 1
            self.eager.came(self.now)
        else:
            self.sleep(asleep)
            self.sleeps += 1

    def sleep(self, nanoseconds: int) -> None:
        began, self.now = self.now, self.now + nanoseconds
        self.eager.slept(began, self.now)


def test_looking_on_begins_after_short_sleeps_and_lasts_while_it_pays() -> None:
    program = Program()
    for _ in range(5000):
        program.sleep(200_000)  # a machine that has other work
        assert not program.eager.looks
    for _ in range(20_000):
        program.ask(asleep=60_000, looking=30_000)
    assert program.moments > 10 * program.sleeps


def test_looking_on_ends_where_sleeping_is_no_slower() -> None:
    """As where program and worker take turns on one processor."""
    program = Program()
    for _ in range(100_000):
        program.ask(asleep=15_000, looking=30_000)
    assert 0 < program.moments < 3000
    for _ in range(50_000):  # it goes on elsewhere, and to be woken takes its time
        program.ask(asleep=60_000, looking=30_000)
    assert program.moments > 40_000


def test_after_a_pause_it_is_seen_anew_what_sleeping_costs() -> None:
    program = Program()
    while not program.eager.looks:
        program.ask(asleep=60_000, looking=30_000)
    program.sleep(20_000_000)
    assert not program.eager.looks


def test_looking_on_in_vain_ends_soon_and_comes_back_ever_more_rarely() -> None:
    program = Program()
    moments = sleeps = 0
    while sleeps < 100_000:
        if program.eager.looks:
            program.now += 60_000
            program.eager.in_vain(program.now)
            moments += 1
        else:
            program.sleep(100_000)
            sleeps += 1
    assert 0 < moments < 200


def test_on_one_processor_nobody_looks_on() -> None:
    program = Program(processors=1)
    for _ in range(10_000):
        program.ask(asleep=60_000, looking=1)
        assert not program.eager.looks


async def test_what_comes_in_a_moment_is_read_without_a_sleep(nursery: trio.Nursery) -> None:
    reading, writing = os.pipe()
    try:
        readable = Readable()
        readable._eager = Eagerness(processors=2)
        while not readable._eager.looks:
            readable._eager.slept(0, 0)
        nursery.start_soon(readable.wait, reading)
        await trio.testing.wait_all_tasks_blocked()
        os.write(writing, b"x")
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(5):
            await readable.wait(reading)
    finally:
        os.close(reading)
        os.close(writing)
