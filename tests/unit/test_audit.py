"""Records of opens: complete, on lines of their own, and no reason for an open to fail."""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from keyvaultfs import ipc
from keyvaultfs.errors import KeyVaultFSError
from keyvaultfs.filesystem.askers import Asker, Askers, unit_of
from keyvaultfs.filesystem.audit import Audit, JournalEntry, JsonLine, Subject
from keyvaultfs.keeper.audit import AuditTarget
from keyvaultfs.keeper.recorder import Pen
from keyvaultfs.log import Causes
from keyvaultfs.metrics import AuditMetrics
from keyvaultfs.tallies import BYTES, Tallies, Tally
from tests.support.mount import wait_until

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from trio.testing import MockClock

CAT = Asker(33, 34, 4711, 'c"at\n', "app.service")
VERSIONS = {"pw": "0" * 31 + "7"}


def pw(path: str) -> Subject:
    return Subject(path, VERSIONS)


class File:
    """A file that records go to, by way of the keeper's child."""

    def __init__(self, path: Path) -> None:
        self.path = path
        before = children()
        self.target = AuditTarget(str(path))
        (self.writer,) = children() - before
        self.buried: list[int] = []
        given = self.target.descriptors()
        self.fd, self.tallies = given[ipc.AUDIT_FD], Tallies(given[ipc.TALLIES_FD])

    def settled(self, count: int) -> Tally:
        """After so many records, written or lost."""
        wait_until(lambda: sum(self.tallies.total()[:2]) == count, f"{count} records")
        return self.tallies.total()

    def put(self, text: str) -> None:
        os.write(self.fd, text.encode() + b"\n")


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


@pytest.fixture
def file(tmp_path: Path) -> Iterator[File]:
    made = File(tmp_path / "audit.log")
    yield made
    before = children() - {*made.buried}
    made.target.end()
    assert len(before - children()) == 1, "it ended when nobody was left who could send a record"
    for pid in made.buried:
        os.waitpid(pid, 0)


def audit(fd: int, form: Any = None, **kwargs: Any) -> tuple[Audit, AuditMetrics, Causes]:
    metrics, causes = AuditMetrics(), Causes(lambda: 0.0)
    return Audit(fd, form or JsonLine(), metrics, causes, **kwargs), metrics, causes


def record(records: Audit, subject: Subject, code: int = 0) -> Coroutine[Any, Any, None] | None:
    return records.record(records.body(subject, CAT, code))


def test_a_record_in_a_file_is_a_json_object_on_a_line(file: File) -> None:
    assert file.path.stat().st_mode & 0o777 == 0o600
    records, metrics, _ = audit(file.fd, tallies=file.tallies)
    assert record(records, pw("/mnt/kv/pw")) is None
    assert record(records, Subject("/mnt/kv/pw", {"pw": ""}), errno.EACCES) is None
    file.settled(2)
    first, second = (json.loads(line) for line in file.path.read_text().splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {
        "outcome": "opened", "errno": 0, "path": "/mnt/kv/pw", "secrets": VERSIONS, "uid": 33, "gid": 34, "pid": 4711,
        "program": 'c"at\n', "unit": "app.service",
    }  # fmt: skip
    assert (second["outcome"], second["errno"]) == ("EACCES", errno.EACCES)
    records.settle()
    assert (metrics.records, metrics.lost) == (2, 0)


def test_a_full_disk_is_said_once_and_the_next_record_has_a_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    memory, path = os.memfd_create("tallies"), tmp_path / "log"
    os.ftruncate(memory, BYTES)
    tallies = Tallies(memory)
    pen = Pen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), tallies, tallies.begin())
    ours, theirs = journal()
    records, metrics, causes = audit(ours.fileno(), tallies=tallies)
    write = os.write

    def opened(*names: str) -> None:
        for name in names:
            record(records, pw(f"/mnt/kv/{name}"))
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", disk)
            pen.write(b"".join(theirs.recv(1 << 16) for _ in names))
        records.settle()

    def full(_fd: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "")

    with ours, theirs:
        disk: Any = write
        opened("a")
        disk = lambda fd, data: write(fd, data[: data.index(b"\n") + 11])  # noqa: E731
        opened("b", "c", "d")
        disk = full
        for _ in range(5):
            opened("e")
        assert [row["code"] for row in causes.problems()] == ["Audit-ENOSPC"]
        disk = write
        opened("f", "g")
    whole = [line for line in path.read_text().splitlines() if line.endswith("}")]
    assert [json.loads(line)["path"] for line in whole] == [f"/mnt/kv/{name}" for name in "abfg"]
    assert (metrics.records, metrics.lost) == (4, 7)
    assert caplog.text.count("opens are not recorded") == 2, "as it began, and as it ended"
    assert causes.problems() == []


def test_a_disk_that_does_not_answer_is_a_problem_and_its_answer_the_end_of_it(
    autojump_clock: MockClock,
) -> None:
    memory = os.memfd_create("tallies")
    os.ftruncate(memory, BYTES)
    tallies, now = Tallies(memory), [100.0]
    earlier, row = tallies.begin(), tallies.begin()
    tallies.put(earlier, Tally(10, 5, errno.ENOSPC))
    ours, theirs = journal()
    with ours, theirs:
        records, metrics, causes = audit(ours.fileno(), tallies=tallies, clock=lambda: now[0])
        tallies.put(row, Tally(since=99.0))
        records.settle()
        assert causes.problems() == [], "a second is no hang"
        now[0] += 10
        records.settle()
        assert [row["code"] for row in causes.problems()] == ["Audit-ETIMEDOUT"]
        while metrics.lost == 0:  # none of these waits: it is known that nobody takes them
            assert record(records, pw("/mnt/kv/x")) is None
        tallies.put(row, Tally(written=7))
        records.settle()
        assert causes.problems() == []
        assert (metrics.records, metrics.lost) == (7, 1), "what was before this worker is not its own"


def journal() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)
    return ours, theirs


def fields_of(datagram: bytes) -> dict[str, bytes]:
    """As journald reads it."""
    found: dict[str, bytes] = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack_from("<Q", rest)
            value, rest = rest[8 : 8 + length], rest[8 + length :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        found[name.decode()] = value
        datagram = rest
    return found


def test_a_record_in_the_journal_has_its_fields() -> None:
    ours, theirs = journal()
    with ours, theirs:
        record(audit(ours.fileno(), JournalEntry())[0], pw("/mnt/kv/pw"))
        found = fields_of(theirs.recv(1 << 16))
    assert found["KEYVAULTFS_PATH"] == b"/mnt/kv/pw"
    assert found["KEYVAULTFS_VERSION"] == VERSIONS["pw"].encode()
    assert found["KEYVAULTFS_OUTCOME"] == b"opened"
    assert found["KEYVAULTFS_UNIT"] == b"app.service"
    assert (found["OBJECT_UID"], found["OBJECT_GID"], found["OBJECT_PID"]) == (b"33", b"34", b"4711")
    assert found["OBJECT_COMM"] == b'c"at\n', "a newline forges no field"
    assert b"MESSAGE" not in found["MESSAGE"]


async def test_a_journal_that_is_behind_is_waited_for_and_one_that_is_stuck_is_not(
    autojump_clock: MockClock,
) -> None:
    ours, theirs = journal()
    waits = 0

    async def wait(_fd: int) -> None:
        nonlocal waits
        waits += 1
        await trio.sleep(0.4)
        if waits == 1:
            theirs.recv(1 << 16)

    with ours, theirs:
        records, metrics, _ = audit(ours.fileno(), JournalEntry(), wait_writable=wait)
        number = 0
        while (waiting := record(records, pw(f"/mnt/kv/{number}"))) is None:
            number += 1
        await waiting
        assert (metrics.records, metrics.lost) == (number + 1, 0), "it was read, and there was room again"
        stuck = record(records, pw("/mnt/kv/stuck"))
        assert stuck is not None
        begin = trio.current_time()
        await stuck
        assert trio.current_time() - begin <= 1
        for _ in range(10):
            assert record(records, pw("/mnt/kv/lost")) is None
        assert metrics.lost == 11
        theirs.recv(1 << 16)
        assert record(records, pw("/mnt/kv/again")) is None
        assert metrics.lost == 11


async def test_a_record_of_any_length_comes_out_of_the_pipe_whole(autojump_clock: MockClock) -> None:
    end, fd = os.pipe2(os.O_NONBLOCK)

    async def wait(_fd: int) -> None:
        await trio.sleep(0.1)
        if waits.pop():
            came.append(os.read(end, 1 << 20))

    for lengths in (
        (10,),
        (3000,),
        (9_000,),
        (25_000,),
        (10, 9_000),
        (2_000, 3_000, 5_000),
        (4_000, 30, 6_000),
    ):
        came: list[bytes] = []
        waits = [True, False, False]
        records, metrics, _ = audit(fd, wait_writable=wait)
        number = 0
        while (waiting := record(records, pw(str(number).zfill(lengths[number % len(lengths)])))) is None:
            number += 1
        assert number > 0
        await waiting
        came.append(os.read(end, 1 << 20))
        found = [json.loads(line)["path"] for line in b"".join(came).splitlines()]
        assert [int(path[-9:]) for path in found] == [*range(number + 1)]
        assert [len(path) for path in found] == [lengths[one % len(lengths)] for one in range(number + 1)]
        assert metrics.lost == 0
    os.close(end)
    os.close(fd)


def test_the_time_of_a_record_is_right_whatever_the_clock_does() -> None:
    now = [0]
    line = JsonLine(lambda: now[0])
    times = {
        5: "1970-01-01T00:00:00.000000Z",
        1_700_000_000_999_999_999: "2023-11-14T22:13:20.999999Z",
        1_700_000_001_000_000_999: "2023-11-14T22:13:21.000000Z",
        1_700_000_001_070_000_000: "2023-11-14T22:13:21.070000Z",
        1_600_000_000_500_000_000: "2020-09-13T12:26:40.500000Z",
        99_000_000_000_000_000: "1973-02-19T20:00:00.000000Z",
    }
    for one, shown in times.items():
        now[0] = one
        assert json.loads(line.complete(line.body(pw("/mnt/kv/pw"), CAT, "opened", 0)))["time"] == shown


# --- where they go -----------------------------------------------------------------------------------------


def test_what_is_no_regular_file_is_refused_in_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    cases = {
        "fifo": "regular",
        "link": "link",
        ".": "directory",
        "no/log": "No such file",
        "fifo/log": "directory",
    }
    for name, words in cases.items():
        with pytest.raises(KeyVaultFSError, match=words) as told:
            AuditTarget(str(tmp_path / name))
        assert str(told.value).startswith(f"audit={tmp_path / name}: ")
    assert not (tmp_path / "elsewhere").exists()


def test_a_journal_that_does_not_listen_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyvaultfs.keeper.audit._SOCKET", "/run/no/journal")
    with pytest.raises(
        KeyVaultFSError, match=r"^audit=journal: the journal does not listen at /run/no/journal: No"
    ):
        AuditTarget("journal")


def test_after_a_logrotate_a_new_file_is_opened_and_a_failure_keeps_the_old_one(file: File) -> None:
    file.put("before")
    file.settled(1)
    moved = file.path.with_suffix(".1")
    file.path.rename(moved)
    file.target.reopen(file.buried.append)
    file.put("new")
    file.settled(2)
    assert (file.path.read_text(), moved.read_text()) == ("new\n", "before\n")
    file.path.rename(moved)
    file.path.mkdir()
    with pytest.raises(KeyVaultFSError, match="directory"):
        file.target.reopen(file.buried.append)
    file.put("er")
    file.settled(3)
    assert moved.read_text() == "new\ner\n"


def test_who_is_dismissed_with_records_to_write_takes_none_that_come_later(file: File) -> None:
    moved = file.path.with_suffix(".1")
    for number in range(5):
        file.path.rename(moved)
        os.kill(file.writer, signal.SIGSTOP)
        file.put(f"{number} before")  # it finds this and its dismissal together
        threading.Timer(0.2, os.kill, (file.writer, signal.SIGCONT)).start()
        before = children()
        file.target.reopen(file.buried.append)
        (file.writer,) = children() - before
        file.put(f"{number} after")
        file.settled(2 * number + 2)
        assert file.path.read_text() == f"{number} after\n"
        assert moved.read_text().endswith(f"{number} before\n")


def test_who_writes_is_replaced_when_he_dies_and_no_record_waits_in_vain(file: File) -> None:
    os.kill(file.writer, signal.SIGKILL)
    os.waitid(os.P_PID, file.writer, os.WEXITED | os.WNOWAIT)
    file.put("while nobody writes")
    file.target.mind(1000.0, file.buried.append)
    assert file.buried == [file.writer]
    assert file.settled(1).lost == 0
    assert file.path.read_text() == "while nobody writes\n"


def test_who_writes_is_no_longer_root_and_holds_nothing_else(file: File) -> None:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{file.writer}/status").read_text().splitlines())
    nobody = 65534 if os.geteuid() == 0 else os.geteuid()
    assert status["Uid"].split() == [str(nobody)] * 4
    held = {os.readlink(fd).partition(":")[0] for fd in Path(f"/proc/{file.writer}/fd").iterdir()}
    assert held == {"/dev/null", "pipe", "socket", str(file.path)}


# --- who asks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/postgresql@15-main.service\n", "postgresql@15-main.service"),
        ("0::/system.slice/app.service/workers/7\n", "app.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/mine.service\n", "mine.service"),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", ""),
        ("0::/init.scope\n", ""),
        ("0::/system.slice/docker-0123abcd.scope\n", "docker-0123abcd.scope"),
        ("12:cpu:/x.service\n1:name=systemd:/system.slice/cron.service\n", "cron.service"),
        ("0::/system.slice/_odd.service\n", "odd.service"),
        ("", ""),
        ("nonsense", ""),
        ("0::/\n", ""),
    ],
)
def test_a_unit_is_the_innermost_one_and_no_login_session(cgroup: str, unit: str) -> None:
    assert unit_of(cgroup) == unit


def test_a_process_is_told_by_its_name_and_again_after_it_became_another_program() -> None:
    askers = Askers()
    read = "import sys; sys.stdin.readline(); import os; os.execvp('sleep', ['sleep', '60'])"
    with subprocess.Popen([sys.executable, "-c", read], stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        ctx: Any = SimpleNamespace(pid=child.pid, uid=1, gid=2)
        while not askers.of(ctx).asker.program.startswith("python"):
            pass
        assert askers.of(ctx).asker.pid == child.pid
        child.stdin.write(b"\n")
        child.stdin.flush()
        while askers.of(ctx).asker.program != "sleep":
            pass
        child.kill()
        child.wait()
        assert askers.of(ctx).asker == Asker(1, 2, child.pid, "", "")
    askers.close()


def test_who_is_forgotten_is_not_taken_for_another_who_has_that_descriptor_now() -> None:
    askers = Askers()
    own: Any = SimpleNamespace(pid=os.getpid(), uid=1, gid=2)
    seen = askers.of(own)
    assert seen.asks(own)
    assert not seen.asks(SimpleNamespace(pid=os.getpid(), uid=1, gid=0))  # type: ignore[arg-type]
    held = seen.fd
    askers.close()
    again = askers.of(own)
    assert again.fd == held
    assert again.asks(own)
    assert not seen.asks(own)
    askers.close()


def test_few_descriptors_are_kept_however_many_ask() -> None:
    askers = Askers()
    gc.collect()  # what earlier tests left open would be closed in the midst of this one
    before = len(os.listdir("/proc/self/fd"))
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()] * 3:
        for uid in range(100):
            askers.of(SimpleNamespace(pid=pid, uid=uid, gid=0))  # type: ignore[arg-type]
    assert len(os.listdir("/proc/self/fd")) - before <= 64
    askers.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_a_worker_that_was_taken_over_has_recorded_is_text_and_counted(file: File) -> None:
    """And its counts may be any: who writes goes on with them."""
    largest = (1 << 64) - 1
    for row in range(10):
        file.tallies.put(row, Tally(largest, largest))
    file.target.reopen(file.buried.append)
    os.write(file.fd, b"\x1b[2Jforged\xff\r\0\n\n\n")
    file.put("honest")
    wait_until(lambda: file.path.read_text().endswith("honest\n"), "the record")
    assert file.path.read_text() == "?[2Jforged???\n\n\nhonest\n"
