"""Rotations without a pause, under many readers, while the processes that serve them are killed."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.mount.test_watchers import BOTH_WAYS, WITH_AND_WITHOUT_RESEND, child_of
from tests.mount.test_whole_bytes import value, whole
from tests.support.mount import in_flight, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.inotify import Watch
    from tests.support.mount import Mount
    from tests.support.vault import VaultProcess

    Mounter = Callable[..., Mount]

READERS = 16
PAUSE_SECONDS = 0.02
KILLS = 20
BETWEEN_KILLS_SECONDS = 0.9


class Readers:
    """Threads that open, read and list, and keep account of what is wrong.

    Args:
        kv: what is read.
        in_flight_may_fail: where the kernel cannot send a dead worker's requests again, a READ or READDIR that it had
            read ends with ESTALE. Look-ups and opens are repeated by the kernel, once: an open that a rotation had sent
            back when the worker died, or the other way round, ends so too (README).

    Attributes:
        wrong: what must not be.
        sent_back: how many opens failed by a rotation and a death.
        deaths: when a worker was killed.
    """

    def __init__(self, kv: Mount, *, in_flight_may_fail: bool) -> None:
        self._kv = kv
        self._in_flight_may_fail = in_flight_may_fail
        self._stop = threading.Event()
        self.wrong: list[object] = []
        self.reads = self.sent_back = 0
        self.deaths: list[float] = []
        self._began = [0.0] * READERS
        """by reader: when the last read that it has ended began"""
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(READERS)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Stop them."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def are_through(self) -> bool:
        """Whether none of them waits any more for what a worker was asked for that has died."""
        return all(began > death for began in self._began for death in self.deaths[-1:])

    def _run(self, number: int) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            # By any way it must be there; what is wrong ends nobody, so that all of it is seen.
            lists = number % 4 == 3
            try:
                if lists:
                    names = os.listdir(self._kv.where)
                    if "pw" not in names:
                        self.wrong.append(names)
                else:
                    data = (self._kv / "pw").read_bytes()
                    if not whole(data):
                        self.wrong.append((len(data), data[:9]))
            except OSError as exc:
                self._failed(exc, began, lists=lists)
            self.reads += 1
            self._began[number] = began
            time.sleep(0.004)

    def _failed(self, exc: OSError, began: float, *, lists: bool) -> None:
        may_be = self._in_flight_may_fail and exc.errno == errno.ESTALE
        if may_be and (lists or in_flight(exc)):
            return
        if may_be and any(death > began for death in self.deaths):
            self.sent_back += 1
            return
        self.wrong.append((exc, exc.filename, time.monotonic()))


def storm(vault: VaultProcess, kv: Mount, readers: Readers) -> int:
    """Rotate and kill, worker and child by turns; returns how often it rotated.

    A worker is killed when nobody waits any more for what the one before was asked for: no open lives through two.
    """
    rotations, kills = 1, 0
    next_kill = time.monotonic() + BETWEEN_KILLS_SECONDS
    while kills < KILLS:
        rotations += 1
        vault.set("pw", value(rotations).decode())
        with contextlib.suppress(OSError):  # a take-over may fail the read of what stands in no vault
            (kv / ".keyvaultfs/refresh").read_bytes()
        time.sleep(PAUSE_SECONDS)
        if time.monotonic() > next_kill and readers.are_through():
            victim = kv.worker() if kills % 2 else child_of(kv)
            if victim is not None:
                with contextlib.suppress(ProcessLookupError):  # a child may have ended by itself just now
                    os.kill(victim, signal.SIGKILL)
            if kills % 2:
                readers.deaths.append(time.monotonic())
            kills += 1
            next_kill = time.monotonic() + BETWEEN_KILLS_SECONDS
    return rotations


@pytest.mark.slow
@pytest.mark.timeout(240)
@BOTH_WAYS
@WITH_AND_WITHOUT_RESEND
def test_no_reader_meets_an_error_in_a_storm_of_rotations_and_kills(
    vault: VaultProcess, mount: Mounter, events: Callable[..., Watch], way: str, resend: str
) -> None:
    vault.set("pw", value(1).decode())
    kv = mount("ttl=1", "list_ttl=1", way, resend)
    assert whole((kv / "pw").read_bytes())
    folder = events(kv.where)
    readers = Readers(kv, in_flight_may_fail=resend == "resend=no")
    try:
        rotations = storm(vault, kv, readers)
        wait_until(kv.has_worker, "a worker")
        kv.wait_for("pw", value(rotations).decode())
    finally:
        readers.end()
    assert readers.wrong == []
    assert readers.sent_back <= KILLS // 2, "each of them would be if the kernel were not asked again"
    if way == "rename=yes":
        # Rotations that follow one another faster than they are announced are heard as one, but none more often.
        # The kernel keeps the order: when this is heard, what was announced before has been.
        vault.set("last", "x")
        folder.wait("MOVED_TO last")
        *heard, last = folder.lines()
        assert last == "MOVED_TO last"
        assert 0 < len(heard) < rotations
        assert heard == ["MOVED_TO pw"] * len(heard)
        vault.set("pw", value(rotations + 1).decode())
        folder.wait("MOVED_TO pw", len(heard) + 1)
        assert folder.lines() == [*heard, last, "MOVED_TO pw"]
    print(
        f"{rotations} rotations, {KILLS} kills, {readers.reads} reads, {readers.sent_back} sent back,"
        f" {len(folder.lines())} heard"
    )
