"""Programs that watch folders and files, as they are: each hears of every change, and of each once."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from watchdog.events import FileSystemEventHandler
from watchdog.observers.inotify import InotifyObserver

from tests.support.mount import run, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from watchdog.events import FileSystemEvent

    from tests.support.inotify import Watch
    from tests.support.mount import Mount
    from tests.support.vault import VaultProcess

    Mounter = Callable[..., Mount]

pytestmark = pytest.mark.slow

_SINCE = 1_700_000_000
STORY = ["MOVED_TO pw"] * 3 + ["DELETE pw", "MOVED_TO pw"]


def rotate(vault: VaultProcess, kv: Mount, hears: Callable[[int], bool]) -> None:
    """Three rotations, a delete and a create; each when the one before was heard, as `hears` says of its number.

    Each is of a second of its own: a listing tells times in whole seconds.
    """
    changes: list[Callable[[], object]] = [
        lambda: vault.set("pw", "1\n", updated=_SINCE + 1),
        lambda: vault.set("pw", "22\n", updated=_SINCE + 2),
        lambda: vault.set("pw", "333\n", updated=_SINCE + 3),
        lambda: vault.delete("pw", erase=True),
        lambda: vault.set("pw", "4444\n", updated=_SINCE + 5),
    ]
    for number, change in enumerate(changes, 1):
        change()
        wait_until(lambda: hears(number), f"change {number}")  # noqa: B023 - at once


@pytest.fixture
def kv(vault: VaultProcess, mount: Mounter) -> Mount:
    """A mount of two secrets, both of which were read."""
    vault.set("pw", "0\n", updated=_SINCE)
    vault.set("other", "x\n")
    one = mount("ttl=1", "list_ttl=1", "negative_ttl=1")
    assert sorted(os.listdir(one.where)) == ["other", "pw"]
    assert (one / "pw").read_text() == "0\n"
    assert (one / "other").read_text() == "x\n"
    return one


class Output:
    """A program whose output is a file."""

    def __init__(self, file: Path, *command: object, stdin: str = "") -> None:
        self._file = file
        with file.open("wb") as out:
            self.process = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT
            )
        assert self.process.stdin is not None
        self.process.stdin.write(stdin.encode())
        self.process.stdin.close()

    def text(self) -> str:
        """All so far."""
        return self._file.read_text()


@contextlib.contextmanager
def running(file: Path, *command: object, stdin: str = "") -> Iterator[Output]:
    program = Output(file, *command, stdin=stdin)
    try:
        yield program
        assert program.process.poll() is None, program.text()
    finally:
        program.process.kill()
        program.process.wait()


def test_inotifywait_hears_each_change_of_a_folder_once(
    vault: VaultProcess, kv: Mount, events: Callable[..., Watch]
) -> None:
    watch = events(kv.where, "create,delete,moved_to,moved_from,modify,attrib,close_write")
    silent = events(kv / "other", "attrib,modify,delete_self,move_self,close_write")

    def of_the_name() -> list[str]:
        return [line for line in watch.lines() if line.endswith(" pw") and not line.startswith("ATTRIB")]

    rotate(vault, kv, lambda number: len(of_the_name()) >= number)
    assert of_the_name() == STORY
    # The other half of a rename is of a made-up name; whoever watches a folder by names skips it.
    assert len([line for line in watch.lines() if line.startswith("MOVED_FROM .")]) == 4
    assert {line.split()[0] for line in watch.lines()} <= {"MOVED_FROM", "MOVED_TO", "DELETE", "ATTRIB"}
    assert silent.lines() == []


def test_tail_follows_the_name(vault: VaultProcess, kv: Mount, tmp_path: Path) -> None:
    with running(tmp_path / "tail", "tail", "-n", "+1", "-F", kv / "pw") as tail:
        wait_until(lambda: tail.text() == "0\n", "the value")
        shown = ["1\n", "22\n", "333\n", "inaccessible", "4444\n"]
        rotate(vault, kv, lambda number: shown[number - 1] in tail.text())
        values = [line for line in tail.text().splitlines() if line.isdigit()]
        assert values == ["0", "1", "22", "333", "4444"]


def test_entr_runs_its_command_at_each_rotation(vault: VaultProcess, kv: Mount, tmp_path: Path) -> None:
    command = ("entr", "-n", "cat", kv / "pw")
    with running(tmp_path / "entr", *command, stdin=f"{kv / 'pw'}\n") as entr:
        wait_until(lambda: entr.text() == "0\n", "the first run")
        for number, text in enumerate(("1\n", "22\n", "333\n")):
            vault.set("pw", text, updated=_SINCE + 1 + number)
            wait_until(lambda: entr.text().endswith(text), text)  # noqa: B023 - at once
        assert entr.text().splitlines() == ["0", "1", "22", "333"]


def test_entr_watching_the_folder_ends_when_a_name_appears(
    vault: VaultProcess, kv: Mount, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        entr = Output(tmp_path / "entr", "entr", "-n", "-d", "echo", "run", stdin=f"{kv / 'other'}\n")
        stack.callback(entr.process.wait)
        stack.callback(entr.process.kill)
        wait_until(lambda: entr.text() == "run\n", "the first run")
        vault.set("new", "x")
        wait_until(lambda: entr.process.poll() is not None, "its end")
        assert "directory altered" in entr.text()


def test_watchdog_hears_each_change_of_a_folder_once(vault: VaultProcess, kv: Mount) -> None:
    """Python's watchdog pairs the two halves of a rename; the first half is of no name that anybody has seen."""
    heard: queue.SimpleQueue[FileSystemEvent] = queue.SimpleQueue()
    found: list[tuple[str, str]] = []

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            heard.put(event)

    def hears(number: int) -> bool:
        with contextlib.suppress(queue.Empty):
            while True:
                event = heard.get_nowait()
                path = event.dest_path or event.src_path
                if not event.is_directory and event.event_type in {"created", "moved", "deleted"}:
                    found.append((event.event_type, os.path.basename(os.fsdecode(path))))
        return len(found) >= number

    observer = InotifyObserver()
    observer.schedule(Handler(), str(kv.where), recursive=False)
    observer.start()
    try:
        rotate(vault, kv, hears)
    finally:
        observer.stop()
        observer.join()
    assert [name for _, name in found] == ["pw"] * 5
    assert [kind for kind, _ in found][3] == "deleted"
    assert "deleted" not in [kind for kind, _ in found[:3] + found[4:]]


def test_updatedb_finds_what_has_come_and_loses_what_has_gone(
    vault: VaultProcess, kv: Mount, tmp_path: Path
) -> None:
    """It walks a folder anew only where the folder's times have moved."""
    database = tmp_path / "db"

    def located() -> list[str]:
        run("updatedb", "-l", "no", "-U", kv.where, "-o", database,
            "--prunefs", "", "--prunepaths", "", "--prune-bind-mounts", "no")  # fmt: skip
        done = subprocess.run(
            ["plocate", "-d", database, str(kv.where)], capture_output=True, text=True, check=False
        )
        return sorted(os.path.basename(line) for line in done.stdout.splitlines() if "." not in line)

    assert {"other", "pw"} <= set(located())
    vault.set("new", "x")
    vault.delete("pw")
    wait_until(lambda: sorted(os.listdir(kv.where)) == ["new", "other"], "the change")
    found = located()
    assert {"new", "other"} <= set(found)
    assert "pw" not in found


def links_as_stat_sees_them(path: Path) -> str:
    """The link count, by a program."""
    return run("stat", "-c", "%h", path)


def exists_as_qt_sees_it(path: Path) -> str:
    """QFile::exists: access(2), and then a link count that is not 0."""
    return f"{int(os.access(path, os.F_OK) and path.stat().st_nlink != 0)}\n"


def test_stat_counts_one_link_all_the_time(vault: VaultProcess, kv: Mount, tmp_path: Path) -> None:
    """By the name, and of a bound file once it has passed on: Qt takes a file without links for none."""
    bound = tmp_path / "bound"
    bound.touch()
    run("mount", "--bind", kv / "pw", bound)
    stop = threading.Event()
    other: set[str] = set()

    def count() -> None:
        while not stop.is_set():
            for ask in (links_as_stat_sees_them, exists_as_qt_sees_it):
                # stat(2) walks the path, and then asks the inode: whose name is replaced between these has no link on
                # any file system. Who asks again has walked to the new one.
                said = ask(kv / "pw")
                other.add(said if said == "1\n" else ask(kv / "pw"))
            time.sleep(0.01)

    counting = threading.Thread(target=count)
    counting.start()
    try:
        for text in ("1\n", "22\n", "333\n"):
            vault.set("pw", text)
            kv.wait_for("pw", text)
            wait_until(lambda: bound.read_text() == text, "the bound file")  # noqa: B023 - at once
            assert run("stat", "-c", "%h %s", bound) == f"1 {len(text)}\n"
    finally:
        stop.set()
        counting.join()
        run("umount", "--lazy", bound)
    assert other == {"1\n"}
