"""What watchers of a folder and of its files hear: as of any careful program that replaces a file by rename(2)."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.mount import PATIENCE, clear_read_only, in_flight, run, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.inotify import Watch
    from tests.support.mount import Mount
    from tests.support.vault import VaultProcess

    Mounter = Callable[..., Mount]

BOTH_WAYS = pytest.mark.parametrize("way", ["rename=yes", "rename=no"])
WITH_AND_WITHOUT_RESEND = pytest.mark.parametrize("resend", ["resend=yes", "resend=no"])


def child_of(kv: Mount) -> int | None:
    """The keeper's child that renames, if there is one: it is no worker."""
    return next(iter(kv.children(workers=False)), None)


def test_a_folder_that_nobody_reads_tells_of_all_that_changes(
    vault: VaultProcess, mount: Mounter, events: Callable[..., Watch]
) -> None:
    vault.bulk([{"name": name, "value": "1"} for name in ("kept", "changed", "gone", "disabled")])
    kv = mount("ttl=2")
    wait_until(lambda: kv.metric("cache_list_pages") > 0, "the first listing")
    watch = events(kv.where)
    assert watch.lines() == []  # a first listing is no news
    before = kv.where.stat().st_mtime_ns
    vault.reset_requests()
    vault.update("changed", updated=2_000_000_000)
    vault.set("new", "1")
    vault.delete("gone")
    vault.disable("disabled")
    watch.wait("MOVED_TO changed")
    watch.wait("MOVED_TO new")
    watch.wait("DELETE gone")
    watch.wait("DELETE disabled")
    assert sorted(watch.lines()) == ["DELETE disabled", "DELETE gone", "MOVED_TO changed", "MOVED_TO new"]
    assert not vault.requests("get", "new")
    assert not vault.requests("get", "changed")
    assert kv.where.stat().st_mtime_ns > before
    assert (kv / "new").read_text() == (kv / "changed").read_text() == "1"
    assert sorted(os.listdir(kv.where)) == ["changed", "kept", "new"]


def test_the_folders_times_move_with_what_it_shows_and_only_then(vault: VaultProcess, mount: Mounter) -> None:
    vault.set("pw", "1")
    kv = mount("ttl=1", "list_ttl=0")
    assert os.listdir(kv.where) == ["pw"]
    (kv / "pw").read_text()
    before = kv.where.stat()
    for _ in range(3):
        vault.reset_requests()
        wait_until(lambda: bool(vault.requests("list")), "a listing")
        os.listdir(kv.where)
    os.kill(pid := kv.worker(), signal.SIGKILL)
    wait_until(lambda: kv.has_worker() and kv.worker() != pid, "a new worker")
    os.listdir(kv.where)
    after = kv.where.stat()
    assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)
    vault.set("another", "1")
    wait_until(lambda: kv.where.stat().st_mtime_ns > before.st_mtime_ns, "a later time")
    assert kv.where.stat().st_ctime_ns == kv.where.stat().st_mtime_ns


def test_each_rotation_is_heard_once_by_folder_and_file(
    vault: VaultProcess, mount: Mounter, events: Callable[..., Watch]
) -> None:
    vault.set("pw", "0")
    kv = mount("ttl=1", "announce=no")
    folder = events(kv.where)
    for number in range(1, 6):
        file = events(kv / "pw", "attrib,delete_self")
        vault.set("pw", str(number))
        kv.wait_for("pw", str(number))
        folder.wait("MOVED_TO pw", number)
        file.wait("DELETE_SELF")
        assert file.lines() == ["ATTRIB", "DELETE_SELF"]
    assert folder.lines() == ["MOVED_TO pw"] * 5
    vault.delete("pw", erase=True)
    folder.wait("DELETE pw")
    with pytest.raises(FileNotFoundError):
        (kv / "pw").read_text()
    vault.set("pw", "again")
    kv.wait_for("pw", "again")
    folder.wait("MOVED_TO pw", 6)
    assert len(folder.lines()) == 7


def test_each_rotation_of_a_name_that_nobody_reads_any_more_is_heard(
    vault: VaultProcess, mount: Mounter, events: Callable[..., Watch]
) -> None:
    """It was read once, so its version is known; the cache does not fetch another one until somebody asks."""
    vault.set("pw", "0", updated=1_700_000_000)
    kv = mount("ttl=1", "list_ttl=1")
    assert (kv / "pw").read_text() == "0"
    folder = events(kv.where)
    for number in range(1, 6):
        vault.set("pw", str(number), updated=1_700_000_000 + number)
        folder.wait("MOVED_TO pw", number)
    assert folder.lines() == ["MOVED_TO pw"] * 5
    assert (kv / "pw").read_text() == "5"


def test_a_listed_secret_that_is_refused_is_heard_of_once_since_the_folder_still_shows_it(
    vault: VaultProcess, mount: Mounter, events: Callable[..., Watch]
) -> None:
    vault.set("pw", "1")
    kv = mount("ttl=1", "list_ttl=1", "negative_ttl=1")
    assert os.listdir(kv.where) == ["pw"]
    assert (kv / "pw").read_text() == "1"
    folder = events(kv.where)
    refused = vault.fault(op="get", name="pw", status=403, code="Forbidden", inner_code="ForbiddenByRbac")

    def lists_again() -> None:
        vault.reset_requests()
        wait_until(lambda: len(vault.requests("list")) >= 2, "two listings")
        assert os.listdir(kv.where) == ["pw"]

    for _ in range(2):
        run("cat", kv / ".keyvaultfs/refresh")  # a listing alone says that nothing has changed
        wait_until(lambda: not readable(kv / "pw"), "the refusal")
        lists_again()
    assert folder.lines() == ["MOVED_TO pw"]
    vault.clear_faults(refused)
    kv.wait_for("pw", "1")
    folder.wait("MOVED_TO pw", 2)
    lists_again()
    assert folder.lines() == ["MOVED_TO pw"] * 2


def readable(path: Path) -> bool:
    """Whether it can be read, by root too."""
    try:
        path.read_bytes()
    except PermissionError:
        return False
    return True


def kill_one(kv: Mount, *, worker: bool) -> None:
    """The worker, until there is a new one; or the child that renames, if there is one."""
    child = None if worker else child_of(kv)
    if worker:
        os.kill(pid := kv.worker(), signal.SIGKILL)
        wait_until(lambda: kv.has_worker() and kv.worker() != pid, "a new worker")
    elif child is not None:
        with contextlib.suppress(ProcessLookupError):  # it may have ended by itself just now
            os.kill(child, signal.SIGKILL)


@pytest.mark.slow
@BOTH_WAYS
@WITH_AND_WITHOUT_RESEND
def test_no_event_is_lost_when_worker_and_child_are_killed_all_the_time(
    vault: VaultProcess, mount: Mounter, events: Callable[..., Watch], way: str, resend: str
) -> None:
    vault.set("pw", "0")
    kv = mount("ttl=1", way, resend)
    assert (kv / "pw").read_text() == "0"
    folder = events(kv.where)
    stop = threading.Event()
    missing: list[OSError] = []
    sent_back: list[OSError] = []

    def read() -> None:
        while not stop.is_set():
            try:
                (kv / "pw").read_text()
            except OSError as exc:
                if resend == "resend=yes" or exc.errno != errno.ESTALE:
                    missing.append(exc)
                elif not in_flight(exc):
                    sent_back.append(exc)
            time.sleep(0.005)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    try:
        for number in range(1, 9):
            file = events(kv / "pw", "delete_self")
            vault.set("pw", str(number))
            kill_one(kv, worker=bool(number % 2))
            kv.wait_for("pw", str(number))
            wait_until(lambda: file.count("DELETE_SELF") > 0, f"rotation {number}: {kv.log()}")  # noqa: B023 - at once
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert missing == []
    assert len(sent_back) <= 2, (
        "an open fails where a rotation meets a death, and not each that does (README)"
    )
    if way == "rename=yes":
        folder.wait("MOVED_TO pw", 8)  # who watches the folder may tell it after who watches the file
        assert folder.lines() == ["MOVED_TO pw"] * 8


def rotated(vault: VaultProcess, mount: Mounter, events: Callable[..., Watch]) -> Mount:
    """A mount whose keeper has a child, since it has just announced a rotation."""
    vault.set("pw", "1")
    kv = mount("ttl=1")
    watch = events(kv.where)
    assert (kv / "pw").read_text() == "1"
    vault.set("pw", "2")
    watch.wait("MOVED_TO pw")
    watch.close()
    return kv


@pytest.mark.parametrize("way", ["umount", "umount --lazy"])
def test_an_unmount_ends_both_processes_at_once_though_a_clone_is_held(
    vault: VaultProcess, mount: Mounter, way: str, events: Callable[..., Watch]
) -> None:
    kv = rotated(vault, mount, events)
    child, worker = child_of(kv), kv.worker()
    assert child is not None
    run(*way.split(), kv.where)
    # With a clone that is held on, the file system would live on, and they with it.
    assert kv.process.wait(PATIENCE) == 0
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in (child, worker)), "their end")


def test_the_clone_that_can_be_written_to_is_in_nobodys_table_of_mounts(
    vault: VaultProcess, mount: Mounter, events: Callable[..., Watch]
) -> None:
    kv = rotated(vault, mount, events)
    child = child_of(kv)
    assert child is not None
    device = kv.where.stat().st_dev
    which = f"{os.major(device)}:{os.minor(device)}"
    seen = {}
    for table in Path("/proc").glob("[0-9]*/mountinfo"):
        with contextlib.suppress(OSError):
            rows = [line.split(" ") for line in table.read_text().split("\n") if line]
            seen[int(table.parent.name)] = [row[4] for row in rows if row[2] == which]
    for pid in (os.getpid(), kv.process.pid, kv.worker(), child):
        assert seen[pid] == [str(kv.where)]
    assert {point for points in seen.values() for point in points} == {str(kv.where)}
    assert max(map(len, seen.values())) == 1


def test_nothing_can_be_written_whatever_flag_somebody_clears(vault: VaultProcess, mount: Mounter) -> None:
    vault.set("pw", "1")
    kv = mount()
    (kv / "pw").read_text()
    clear_read_only(kv.where)
    for write in (
        lambda: (kv / "pw").write_text("x"),
        lambda: (kv / "new").touch(),
        lambda: (kv / "pw").unlink(),
        lambda: (kv / "pw").rename(kv / "other"),
        lambda: (kv / ".0123456789abcdef").rename(kv / "pw"),
        lambda: (kv / "folder").mkdir(),
    ):
        with pytest.raises(OSError, match=r"Read-only file system|No such file"):
            write()
    assert (kv / "pw").read_text() == "1"


def test_rotations_wait_for_a_look_up_that_hangs_and_known_names_do_not(
    vault: VaultProcess, mount: Mounter, events: Callable[..., Watch]
) -> None:
    vault.bulk([{"name": name, "value": "1"} for name in ("pw", "known", "slow")])
    kv = mount("ttl=60", "timeout=15", "announce=no")
    for name in ("pw", "known"):
        assert (kv / name).read_text() == "1"
    watch = events(kv.where)
    hang = vault.fault(op="get", name="slow", hang=True)
    cat = subprocess.Popen(["cat", str(kv / "slow")], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: kv.metric("transport_in_flight") > 0, "the look-up that hangs")
        vault.set("pw", "2")
        run("cat", kv / ".keyvaultfs/refresh")
        for _ in range(200):
            assert (kv / "known").read_text() == "1"
        assert cat.poll() is None, "had they waited for it, it would have its answer by now"
    finally:
        vault.clear_faults(hang)
        cat.wait(PATIENCE)
    kv.wait_for("pw", "2")
    watch.wait("MOVED_TO pw")
