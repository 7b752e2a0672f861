"""Who opened which version last: bounded, kept for a successor, those that are behind first."""

from __future__ import annotations

import json
import math
import os
import random
import struct
import time
from typing import TYPE_CHECKING

import pytest

from keyvaultfs.filesystem.askers import Asker, manager_of
from keyvaultfs.filesystem.reader import Current
from keyvaultfs.filesystem.readers import MOST, Readers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OLD, NEW = "1" * 32, "2" * 32
WEB = Asker(33, 33, 100, "nginx", "web.service")
MAIL = Asker(0, 0, 200, "postfix", "mail.service")
ROOT = Asker(0, 0, 300, "cat", "")
USERS = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/web.service\n"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def fd() -> Iterator[int]:
    made = os.memfd_create("readers")
    yield made
    os.close(made)


def current(edition: str) -> Callable[[str], Current | None]:
    return lambda _path: Current(edition, 900)


def test_a_reader_that_has_not_come_back_since_the_rotation_stands_first() -> None:
    clock = Clock()
    readers = Readers(None, Asker, lambda _: True, clock)
    readers.opened("pw", OLD, MAIL, 1)
    readers.closed(1)
    clock.now = 2000
    readers.opened("pw", NEW, WEB, 2)
    clock.now = 2001
    readers.opened("pw", NEW, ROOT, 3)
    readers.closed(3)
    readers.opened("other", NEW, ROOT, 4)
    assert readers.behind(current(NEW)) == 1
    shown = readers.snapshot(current(NEW), {2: NEW, 4: NEW}.get)
    assert [row["path"] for row in shown["files"]] == ["pw", "other"]
    pw = shown["files"][0]
    assert (pw["edition"], pw["since"]) == (NEW, 900)
    assert [(one["unit"], one["program"], one["behind"], one["open_now"]) for one in pw["readers"]] == [
        ("mail.service", "postfix", True, 0), ("", "cat", False, 0), ("web.service", "nginx", False, 1),
    ]  # fmt: skip
    assert pw["readers"][0]["opened"] == 1000


def test_who_still_has_the_old_one_open_is_behind_though_it_opened_the_new_one() -> None:
    readers = Readers(None, Asker, lambda _: True)
    readers.opened("pw", OLD, WEB, 1)
    readers.opened("pw", NEW, WEB, 2)
    (row,) = readers.snapshot(current(NEW), {1: OLD, 2: NEW}.get)["files"][0]["readers"]
    assert (row["behind"], row["open_now"], row["opens"]) == (True, 2, 2)
    readers.closed(1)
    (row,) = readers.snapshot(current(NEW), {2: NEW}.get)["files"][0]["readers"]
    assert (row["behind"], row["open_now"]) == (False, 1)


def test_what_is_not_known_accuses_nobody_and_what_is_gone_all() -> None:
    readers = Readers(None, Asker, lambda _: True)
    readers.opened("pw", OLD, WEB, 1)
    assert readers.behind(lambda _: None) == 0
    assert readers.behind(lambda _: Current("", None)) == 1


def test_a_successor_knows_all_of_it(fd: int) -> None:
    clock = Clock()
    first = Readers(fd, Asker, lambda _: True, clock)
    odd = Asker(4_000_000_000, 0, 7, 'o"d\n\\x', "")
    first.opened("pw", OLD, MAIL, (1 << 63) + 1)
    first.opened("pw", OLD, odd, 5)
    first.closed(5)
    first.opened("x" * 127, NEW, WEB, 6)
    first.opened("x" * 127, NEW, WEB, 7)
    first.flush()
    second = Readers(fd, Asker, {(1 << 63) + 1, 7}.__contains__, clock)
    editions = {(1 << 63) + 1: OLD, 6: NEW, 7: NEW}.get
    kept = second.snapshot(current(NEW), editions)
    assert kept["files"][0]["readers"][0]["open_now"] == 1
    assert {one["program"] for one in kept["files"][0]["readers"]} == {"postfix", 'o"d\n\\x'}
    assert kept["files"][1]["readers"][0]["open_now"] == 1, "of 6 nobody knows any more"
    second.closed((1 << 63) + 1)
    assert second.snapshot(current(NEW), editions)["files"][0]["readers"][0]["open_now"] == 0
    second.opened("pw", NEW, MAIL, 8)
    assert second.behind(current(NEW)) == 1


def test_a_new_reader_is_written_at_once_since_a_worker_may_be_killed(fd: int) -> None:
    Readers(fd, Asker, lambda _: True).opened("pw", OLD, MAIL, 1)
    assert len(Readers(fd, Asker, lambda _: True).snapshot(current(OLD), {1: OLD}.get)["files"]) == 1


def test_another_layout_is_not_read(fd: int, caplog: pytest.LogCaptureFixture) -> None:
    Readers(fd, Asker, lambda _: True).opened("pw", OLD, MAIL, 1)
    os.pwrite(fd, b"\x02", 8)
    assert Readers(fd, Asker, lambda _: True).snapshot(current(OLD), lambda _: None) == {
        "files": [],
        "forgotten": 0,
    }
    assert "another version" in caplog.text


@pytest.mark.parametrize("size", [1, 15, 16, 17, 4096, 1 << 40])
def test_what_has_another_size_is_not_read(size: int, fd: int) -> None:
    Readers(fd, Asker, lambda _: True).opened("pw", OLD, MAIL, 1)
    whole = os.fstat(fd).st_size
    os.ftruncate(fd, size)
    readers = Readers(fd, Asker, lambda _: True)
    assert readers.snapshot(current(OLD), lambda _: None)["files"] == []
    readers.opened("pw", OLD, MAIL, 1)
    assert os.fstat(fd).st_size == whole


@pytest.mark.parametrize(
    "odd",
    [
        struct.pack("<Q", (1 << 64) - 1) + struct.pack("<dd", 1, 1),
        struct.pack("<Qdd", 1, math.nan, 1),
        struct.pack("<Qdd", 1, 1, math.inf),
    ],
    ids=["opens", "nan", "inf"],
)
def test_a_record_that_nothing_could_be_added_to_is_not_read(odd: bytes, fd: int) -> None:
    Readers(fd, Asker, lambda _: True).opened("pw", OLD, MAIL, 1)
    at = os.pread(fd, 1 << 16, 0).index(struct.pack("<Qdd", 1, 0, 0)[:8], 16)
    os.pwrite(fd, odd, at)
    readers = Readers(fd, Asker, lambda _: True)
    for number in range(2, 5):
        readers.opened("pw", OLD, MAIL, number)
    readers.flush()
    (row,) = readers.snapshot(current(OLD), lambda _: None)["files"]
    assert [one["opens"] for one in row["readers"]] == [3]


def test_any_records_of_a_worker_that_was_taken_over_are_lived_with(fd: int) -> None:
    rng = random.Random(1)
    Readers(fd, Asker, lambda _: True).opened("pw", OLD, MAIL, 1)
    whole = os.fstat(fd).st_size
    os.pwrite(fd, rng.randbytes(whole - 16), 16)
    readers = Readers(fd, Asker, lambda _: False)
    for number in range(5000):
        readers.opened(f"file-{number}", OLD, WEB, number)
    readers.flush()
    json.dumps(readers.snapshot(current(OLD), lambda _: None), allow_nan=False)


def test_the_last_4096_are_remembered(fd: int) -> None:
    readers = Readers(fd, Asker, lambda _: True)
    size = os.fstat(fd).st_size
    for number in range(3 * MOST):
        readers.opened("pw", OLD, Asker(number, 0, number, "cat", ""), number)
    shown = readers.snapshot(current(OLD), lambda _: OLD)
    assert len(shown["files"][0]["readers"]) == MOST
    assert shown["forgotten"] == 2 * MOST
    assert {one["uid"] for one in shown["files"][0]["readers"]} == set(range(2 * MOST, 3 * MOST))
    assert os.fstat(fd).st_size == size
    assert len(readers.by_handle) == 3 * MOST, "until they are closed"
    readers.flush()
    assert (
        len(Readers(fd, Asker, lambda _: False).snapshot(current(OLD), lambda _: None)["files"][0]["readers"])
        == MOST
    )


@pytest.mark.parametrize("later", [False, True], ids=["a worker", "its successor"])
def test_a_user_whose_programs_have_many_names_displaces_nobody_elses(fd: int, later: bool) -> None:
    readers = Readers(fd, Asker, lambda _: True)
    others = (WEB, MAIL, ROOT, Asker(1001, 1001, 400, "mutt", ""))
    for handle, asker in enumerate(others):
        readers.opened("pw", OLD, asker, handle)
    if later:
        readers.flush()
        readers = Readers(fd, Asker, lambda _: True)
    for number in range(3 * MOST):
        readers.opened("pw", NEW, Asker(1000, 1000, number, f"x{number}", ""), 100 + number)
    shown = readers.snapshot(current(NEW), lambda handle: OLD if handle < 100 else NEW)
    (file,) = shown["files"]
    assert {one["program"] for one in file["readers"] if one["behind"]} == {one.program for one in others}
    assert shown["forgotten"] == 2 * MOST + 4


@pytest.mark.parametrize("later", [False, True], ids=["a worker", "its successor"])
def test_a_users_unit_that_is_called_like_the_systems_is_another_reader(fd: int, later: bool) -> None:
    readers = Readers(fd, Asker, lambda _: True)
    readers.opened("pw", OLD, WEB, 1)
    readers.opened("pw", NEW, Asker(1000, 1000, 500, "nginx", "web.service", manager_of(USERS)), 2)
    for number in range(2 * MOST):
        asker = Asker(1000, 1000, 500, "nginx", f"{number}.service", manager_of(USERS))
        readers.opened("pw", NEW, asker, 3 + number)
    if later:
        readers.flush()
        readers = Readers(fd, Asker, lambda _: True)
    (file,) = readers.snapshot(current(NEW), lambda handle: OLD if handle == 1 else NEW)["files"]
    assert [(one["unit"], one["uid"]) for one in file["readers"] if one["behind"]] == [("web.service", 33)]


def test_a_reader_with_many_open_files_has_nobody_elses_forgotten(fd: int) -> None:
    readers = Readers(fd, Asker, lambda _: True)
    readers.opened("pw", OLD, MAIL, 1)
    for number in range(100_000):
        readers.opened("pw", NEW, ROOT, 100 + number)
    readers.flush()
    (file,) = readers.snapshot(current(NEW), lambda handle: OLD if handle == 1 else NEW)["files"]
    assert [(one["unit"], one["open_now"]) for one in file["readers"] if one["behind"]] == [
        ("mail.service", 1)
    ]


def test_open_files_that_are_remembered_are_bounded(fd: int) -> None:
    readers = Readers(fd, Asker, lambda handle: handle % 2 == 0)
    for number in range(400_000):
        readers.opened(f"pw-{number % 1000}", OLD, WEB, number)
    readers.flush()
    assert len(readers.by_handle) == 65_536
    assert all(handle % 2 == 0 for handle in readers.by_handle)


def test_all_of_it_is_shown_in_under_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    readers = Readers(None, Asker, lambda _: True)
    for number in range(MOST):
        readers.opened(f"name-{number}", OLD, WEB, number)
    begin = time.perf_counter()
    readers.snapshot(current(NEW), lambda _: OLD)
    with capsys.disabled():
        print(f"\n{MOST} readers of as many files: {time.perf_counter() - begin:.3f} s")


def test_it_takes_the_memory_of_those_that_it_knows_and_no_more(fd: int) -> None:
    for life in range(3):
        readers = Readers(fd, Asker, lambda _: True)
        assert len(readers.snapshot(current(OLD), lambda _: None)["files"]) == life
        readers.opened(f"pw{life}", OLD, WEB, life)
        readers.flush()
        assert os.fstat(fd).st_blocks * 512 <= 4 * os.sysconf("SC_PAGE_SIZE")
