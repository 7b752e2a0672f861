"""The keeper's parts, without a mount: who serves, when it counts as mounted, and what a hostile worker may cause."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyvaultfs import ipc
from keyvaultfs.files import names
from keyvaultfs.keeper import announce, mounting, notify
from keyvaultfs.keeper.allowance import Allowance
from keyvaultfs.keeper.children import Children
from keyvaultfs.keeper.guard import Guard
from keyvaultfs.keeper.inheritance import Inheritance, memory
from keyvaultfs.keeper.mail import Mail
from keyvaultfs.keeper.mountinfo import Mounted
from keyvaultfs.keeper.notify import Notifier
from keyvaultfs.keeper.presence import Presence
from keyvaultfs.keeper.readiness import Readiness, Verdict
from keyvaultfs.keeper.sink import Sink
from keyvaultfs.keeper.spawn import refuse_descriptors
from keyvaultfs.keeper.stderr import Stderr
from keyvaultfs.keeper.succession import Act, Succession
from keyvaultfs.keeper.supervisor import Step, Supervisor
from keyvaultfs.keeper.workforce import Workforce
from tests.support.mount import environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# --- who serves -----------------------------------------------------------------------------------------------------


class Play:
    """A keeper's turns, with names for workers."""

    def __init__(self) -> None:
        self.supervisor = Supervisor()
        self.succession: Succession[str] = Succession(self.supervisor)
        self.dead: set[str] = set()
        self.now = 100.0
        self.names = iter(["a", "b", "c", "d"])  # compared by identity
        self.refuse = 0
        self.over = False

    def turn(self, seconds: float = 0.2) -> list[tuple[str, str]]:
        self.now += seconds
        done = []
        for act, one in self.succession.turn(self.now, self.dead.__contains__, lambda: self.over):
            process = one
            if act is Act.START:
                if self.refuse:
                    self.refuse -= 1
                    self.supervisor.not_started(self.now)
                    continue
                process = next(self.names)
                self.succession.began(process, self.now)
            assert process is not None
            done.append((act.value, process))
        return done

    def stands_by(self, name: str) -> list[tuple[str, str]]:
        life = self.succession.life(name)
        assert life is not None
        life.standby = True
        return self.turn()

    def beats(self) -> None:
        self.supervisor.beat(self.now)


@pytest.fixture
def serving() -> Play:
    play = Play()
    assert play.turn() == [("start", "a")]
    assert play.stands_by("a") == [("go", "a")]
    play.beats()
    assert play.succession.serves("a")
    return play


def test_a_dead_worker_is_buried_and_followed_in_the_same_turn(serving: Play) -> None:
    serving.dead.add("a")
    assert serving.turn() == [("bury", "a"), ("start", "b")]
    assert not serving.succession.serves("b")
    assert serving.stands_by("b") == [("go", "b")]


def test_none_follows_a_worker_that_ended_with_the_mount(serving: Play) -> None:
    serving.dead.add("a")
    serving.over = True
    assert serving.turn() == [("bury", "a")]
    assert serving.turn(60) == []


def test_a_reload_retires_the_worker_only_when_its_successor_stands_by(serving: Play) -> None:
    serving.succession.began("n", serving.now)
    assert not serving.succession.may_reload()
    assert serving.turn() == []
    assert serving.stands_by("n") == [("retire", "a")]
    assert serving.turn() == []
    serving.dead.add("a")
    assert serving.turn() == [("bury", "a"), ("go", "n")]
    assert serving.succession.serves("n")


def test_a_worker_that_does_not_retire_is_killed_once(serving: Play) -> None:
    serving.succession.began("n", serving.now)
    serving.stands_by("n")
    serving.beats()
    assert serving.turn(2.1) == [("kill", "a")]
    serving.beats()
    assert serving.turn(0.1) == []
    assert serving.turn(1.1) == [("bury", "a"), ("go", "n")], (
        "its death cannot be seen, and is not waited for"
    )


def test_a_successor_that_dies_leaves_the_worker_alone(serving: Play) -> None:
    serving.succession.began("n", serving.now)
    serving.dead.add("n")
    assert serving.turn() == [("bury successor", "n")]
    assert serving.succession.serves("a")
    assert serving.succession.may_reload()


def test_a_worker_without_heartbeats_is_killed_and_counts_as_dead_though_it_cannot_be_seen(
    serving: Play,
) -> None:
    assert serving.turn(3.1) == [("kill hanging", "a")]
    assert serving.turn(0.5) == []
    assert serving.turn(0.6) == [("bury", "a"), ("start", "b")]


def test_a_start_that_fails_is_tried_again_for_as_long_as_it_takes(serving: Play) -> None:
    serving.dead.add("a")
    serving.refuse = 30
    assert serving.turn() == [("bury", "a")]
    started: list[tuple[str, str]] = []
    while not started:
        started = serving.turn(1.0)
        assert serving.supervisor.step(serving.now) is not Step.GIVE_UP
    assert started == [("start", "b")]


def test_a_mount_that_never_had_a_worker_gives_up() -> None:
    play = Play()
    play.refuse = 1000
    for _ in range(60):
        play.turn(1.0)
    assert play.supervisor.step(play.now) is Step.GIVE_UP
    assert play.refuse > 980


# --- when it counts as mounted --------------------------------------------------------------------------------------


def readiness(*, strict: bool = False, foreground: bool = False) -> Readiness:
    return Readiness(strict=strict, foreground=foreground, timeout=10)


def test_a_mount_needs_an_answer_and_a_first_look_at_the_vault() -> None:
    one = readiness()
    one.answered()
    one.probed("")
    assert one.verdict(0) is None, "no worker serves"
    one = readiness()
    one.serving(0)
    assert one.open
    one.answered()
    assert not one.open
    assert one.verdict(1) is None
    assert one.probed("") == ""
    assert one.verdict(1) == Verdict(mounted=True, words="")
    assert one.verdict(9) is None, "said once"


def test_the_first_look_is_not_waited_for_long_and_not_at_all_in_the_foreground() -> None:
    one = readiness()
    one.serving(0)
    one.answered()
    assert one.verdict(1.9) is None
    assert one.verdict(2.1) == Verdict(mounted=True, words="")
    one = readiness(foreground=True)
    one.serving(0)
    one.answered()
    assert one.verdict(0) == Verdict(mounted=True, words="")
    assert "no route" in one.probed("no route"), "the log says it later"
    assert one.probed("no route") == ""


def test_what_the_first_look_finds_warns_or_decides() -> None:
    one = readiness()
    one.serving(0)
    one.answered()
    one.probed("no route")
    verdict = one.verdict(0)
    assert verdict is not None
    assert verdict.mounted
    assert "no route" in verdict.words
    for foreground in (False, True):
        one = readiness(strict=True, foreground=foreground)
        one.serving(0)
        one.answered()
        assert one.verdict(11) is None
        late = one.verdict(12.1)
        assert late is not None
        assert not late.mounted
        one = readiness(strict=True, foreground=foreground)
        one.serving(0)
        assert one.probed("no route") == ""
        refused = one.verdict(0)
        assert refused is not None
        assert not refused.mounted
        assert "no route" in refused.words


# --- no exception ends the loop -------------------------------------------------------------------------------------


def test_a_failing_step_is_said_once_a_minute_by_type_and_never_by_text() -> None:
    said: list[str] = []
    now = 0.0
    guard = Guard(said.append, lambda: now)

    def step(text: str) -> None:
        int(text)

    for _ in range(100):
        guard.run(step, "p@ss")
    assert len(said) == 1
    assert "ValueError" in said[0]
    assert "step" in said[0]
    assert "p@ss" not in said[0]
    now = 61.0
    guard.run(step, "p@ss")
    assert "99 times more" in said[1]
    guard.run(step, "1")
    guard.run(os.close, -1)
    assert "Bad file descriptor" in said[2]


def test_not_even_a_log_that_fails_ends_it() -> None:
    def say(_: str) -> None:
        raise MemoryError

    Guard(say).run(os.close, -1)


# --- what a worker sends --------------------------------------------------------------------------------------------


class FakeWorker:
    """The keeper's end of a worker that the test plays."""

    def __init__(self) -> None:
        self.pid = 4242
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.theirs.setblocking(False)
        self.channel = ipc.Channel(ours)
        self.channel_open = self.log_open = True
        self.log_fd = 99
        self.written: list[str] = []
        self.messages, self.lines = Allowance(200, 400), Allowance(200, 2000)
        self.rests_until = 0.0
        self.noisy = self.killed = False

    def log_lines(self) -> list[str]:
        return self.written

    def kill(self) -> None:
        self.killed = True

    def close(self) -> None:
        self.channel.sock.close()
        self.theirs.close()


class FakeSink:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.lines: list[str] = []

    def say(self, _: int, text: str) -> None:
        self.said.append(text)

    def line(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def worker() -> Iterator[Any]:
    one = FakeWorker()
    yield one
    one.close()


def digits(count: int) -> bytes:
    return b'{"kind": "heartbeat", "causes": ' + b"9" * count + b"}"


NOISE = [
    b"\x00",
    b"\xff\xfe",
    b"null",
    b"[]",
    b"{}",
    b"7",
    b'"kind"',
    b"NaN",
    b'{"kind": null}',
    b'{"kind": 1}',
    b'{"kind": ["heartbeat"]}',
    b'{"kind": {"kind": "heartbeat"}}',
    b'{"kind": "' + b"k" * 65 + b'"}',
    b"[" * 60_000,
    b'{"kind": ' * 10_000,
    digits(100_000),
    b'{"kind": "heartbeat"',
    b"x" * (ipc.MAX_DATAGRAM + 1),
]


@pytest.mark.parametrize("data", NOISE, ids=lambda data: ascii(data[:20]))
def test_what_is_no_message_is_noise_and_the_next_one_is_read(data: bytes, worker: Any) -> None:
    mail = Mail(sink := FakeSink())  # type: ignore[arg-type]
    worker.theirs.send(data)
    worker.theirs.send(b'{"kind": "heartbeat", "causes": "x"}')
    (message,) = mail.messages(worker, 0)
    assert (message.kind, message.text("causes")) == ("heartbeat", "x")
    assert len(sink.said) == 1


@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_are_a_message_or_noise(data: bytes) -> None:
    one = FakeWorker()
    try:
        one.theirs.send(data)
        list(Mail(FakeSink()).messages(one, 0))  # type: ignore[arg-type]
    finally:
        one.close()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=8,
)


@given(JSON)
def test_a_field_is_what_was_asked_for_or_noise(found: object) -> None:
    data = json.dumps({"kind": "k", "field": found}).encode()
    one = FakeWorker()
    try:
        one.theirs.send(data)
        (message,) = Mail(FakeSink()).messages(one, 0)  # type: ignore[arg-type]
        for read in (message.text, message.texts):
            try:
                got = read("field")
            except ipc.Noise:
                continue
            for text in [got] if isinstance(got, str) else got:
                assert text.isprintable()
                assert len(text) <= 1001
    finally:
        one.close()


def test_a_flood_of_messages_is_left_in_the_socket(worker: Any) -> None:
    mail = Mail(FakeSink())  # type: ignore[arg-type]
    read, now = 0, 0.0
    for _ in range(50):
        for _ in range(200):
            try:
                worker.theirs.send(b'{"kind": "poke"}')
            except BlockingIOError:
                break
        if worker.channel.sock.fileno() in mail.wanted(worker, now):
            read += len(list(mail.messages(worker, now)))
        now += 0.01
    assert 100 <= read <= 600
    assert worker.log_fd in mail.wanted(worker, now)


def test_a_worker_that_floods_does_not_drown_what_another_says(worker: Any) -> None:
    mail, other, now = Mail(sink := FakeSink()), FakeWorker(), 0.0  # type: ignore[arg-type]
    worker.written, other.written = ["flood"] * 9000, ["other"]
    for _ in range(100):
        with contextlib.suppress(BlockingIOError):
            while True:
                worker.theirs.send(b'{"kind": "poke"}')
        list(mail.messages(worker, now))
        mail.pass_log(worker)
        now += 0.001
    other.theirs.send(b'{"kind": "standby"}')
    assert other.channel.sock.fileno() in mail.wanted(other, now)  # type: ignore[arg-type]
    assert [message.kind for message in mail.messages(other, now)] == ["standby"]  # type: ignore[arg-type]
    mail.pass_log(other)  # type: ignore[arg-type]
    assert sink.lines[-1] == "other"
    other.close()


def test_a_worker_that_sends_descriptors_is_killed_and_heard_no_more(worker: Any) -> None:
    mail = Mail(sink := FakeSink())  # type: ignore[arg-type]
    gc.collect()  # what earlier tests left open would be closed in the midst of this one
    before = os.listdir("/proc/self/fd")
    for data in (b'{"kind": "heartbeat"}', b"x"):
        socket.send_fds(worker.theirs, [data], [0, 1, 2])
    assert list(mail.messages(worker, 0)) == []
    assert worker.killed
    assert worker.channel.sock.fileno() not in mail.wanted(worker, 9)
    assert ["descriptors" in text for text in sink.said] == [True]
    assert os.listdir("/proc/self/fd") == before


def test_descriptors_are_refused_where_the_kernel_can(worker: Any) -> None:
    refused = refuse_descriptors(worker.channel.sock)
    with pytest.raises(PermissionError) if refused else contextlib.nullcontext():
        socket.send_fds(worker.theirs, [b"x"], [0])
    socket.send_fds(worker.channel.sock, [b"x"], [0])
    _, (fd,), _, _ = socket.recv_fds(worker.theirs, 1, 1)
    os.close(fd)


def test_a_socket_that_waits_to_be_closed_holds_nobody_up() -> None:
    """Its last reference is in a message: whoever receives that waits ten minutes until what it had to send is sent."""
    code = (
        "import contextlib, os, socket, struct\n"
        "from keyvaultfs.keeper.signals import interrupt_waits\n"
        "interrupt_waits()\n"
        "listening = socket.create_server(('127.0.0.1', 0))\n"
        "ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "if os.fork() == 0:\n"
        "    evil = socket.create_connection(listening.getsockname())\n"
        "    evil.setblocking(False)\n"
        "    with contextlib.suppress(BlockingIOError):\n"
        "        while True: evil.send(b'x' * 65536)\n"
        "    evil.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 600))\n"
        "    for _ in range(2): socket.send_fds(theirs, [b'm'], [evil.fileno()])\n"
        "    os._exit(0)\n"
        "theirs.close()\n"
        "os.wait()\n"
        "assert ours.recvmsg(1)[2] & socket.MSG_CTRUNC\n"
        "ours.close()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(), timeout=100)


def test_a_worker_that_hangs_up_is_waited_for_no_more(worker: Any) -> None:
    mail = Mail(FakeSink())  # type: ignore[arg-type]
    worker.theirs.close()
    assert list(mail.messages(worker, 0)) == []
    assert worker.channel.sock.fileno() not in mail.wanted(worker, 1)


def test_a_flood_of_log_lines_is_cut_and_counted(worker: Any) -> None:
    mail = Mail(sink := FakeSink())  # type: ignore[arg-type]
    worker.written = ["line"] * 5000
    mail.pass_log(worker)
    assert 2000 <= len(sink.lines) < 4000
    mail.tell_what_is_lost(1)
    mail.pass_log(worker)
    mail.tell_what_is_lost(2)
    assert len(sink.said) == 1
    assert "log lines of the worker were too many" in sink.said[0]


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "",
        "a//b",
        "/a",
        "a/",
        "a/../b",
        "a\0b",
        "/".join(["a" * 255] * 16) + "/a",
        "a" * 256,
        ".keyvaultfs/x",
        "\udc80",
    ],
)
@pytest.mark.parametrize("what", ["rename", "unlink", "look"])
def test_what_is_no_name_of_ours_is_not_touched(name: str, what: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - it has no words, nor any use for them
        announce.check("0" * 16, what, name, 0)


@pytest.mark.parametrize(
    ("token", "what", "name", "inode"),
    [
        ("0" * 15, "rename", "pw", 0),
        ("../../etc/passwd", "rename", "pw", 0),
        ("A" * 16, "rename", "pw", 0),
        ("0" * 16, "rename", "pw", True),
        ("0" * 16, "unlink", "pw", 1 << 63),
        ("0" * 16, "look", "pw", -1),
        ("0" * 16 + "\n", "rename", "pw", 0),
        ("0" * 16, "rmdir", "pw", 0),
        ("0" * 16, "refresh", "pw", 70_000),
        ("0" * 16, "refresh", "", 1),
        ("0" * 16, "refresh", "", -5),
        ("0" * 16, "refresh", "", 1 << 64),
    ],
)
def test_what_the_child_may_not_do_is_not_asked_of_it(token: str, what: str, name: str, inode: int) -> None:
    announcer = announce.Announcer(-1, "/nowhere", 1)
    with pytest.raises(ValueError):  # noqa: PT011 - it has no words, nor any use for them
        announcer.ask(token, what, name, inode, 0)
    assert announcer.fileno() is None


PARTS = st.one_of(
    st.text(), st.sampled_from(["..", ".keyvaultfs", "a" * 255, "\N{KEY}" * 63, "\u3000", "a\nb"])
)


@given(st.lists(PARTS, min_size=1, max_size=20).map("/".join))
@example("/".join(["a" * 255] * 16))
@example("a\nb/\u3000/\u200d")
def test_what_the_configuration_may_call_a_file_is_what_can_be_renamed(path: str) -> None:
    allowed = []
    for check in (names.check, lambda name: announce.check("0" * 16, "rename", name, 0)):
        with contextlib.suppress(ValueError):
            check(path)
            allowed.append(check)
    assert len(allowed) in {0, 2}


def test_names_of_ours_are_renamed() -> None:
    for name in ("pw", "A-1", "server.key", "a_b", "a" * 127, "app/.pgpass", "etc/a b"):
        announce.check("0123456789abcdef", "rename", name, 0)
    announce.check("0123456789abcdef", "refresh", "", 70_000)


def test_helpers_have_a_bound() -> None:
    children = Children()
    admitted = 0
    for pid in range(10**9, 10**9 + 1000):
        if children.admit(0):
            admitted += 1
            children.add(pid)
    assert admitted == 16
    ended = children.reap()
    assert len(ended) == 16, "they are no children of ours, and forgotten"
    assert sum(children.admit(0) for _ in range(1000)) < 200


def test_children_that_cannot_be_killed_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that reads each request and answers none keeps each child, and says that it is well."""
    pids, ends = itertools.count(10**9), list[socket.socket]()

    def start(self: announce.Announcer) -> None:
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = next(pids)
        ends.append(theirs)

    monkeypatch.setattr(announce.Announcer, "_start", start)
    children = Children()
    announcer = announce.Announcer(-1, "/nowhere", 1, children.crowded)
    codes = []
    for number in range(100):
        codes.append(announcer.ask(f"{number:016x}", "rename", "pw", 0, 2 * number))
        list(announcer.mind(2 * number + 1.5, children.bury))
    assert codes == [None] * 8 + [errno.EAGAIN] * 92
    children.reap()  # they have ended
    assert announcer.ask("f" * 16, "rename", "pw", 0, 1000) is None
    announcer.end(children.bury)
    for end in ends:
        end.close()


def test_a_longer_message_is_not_sent_and_nothing_breaks(worker: Any) -> None:
    channel = ipc.Channel(worker.theirs)
    assert not channel.send("heartbeat", causes="x" * ipc.MAX_DATAGRAM)
    assert channel.send("heartbeat", causes="x")


# --- whether the mount is there -------------------------------------------------------------------------------------


def test_a_mount_table_that_changes_all_the_time_is_read_ten_times_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = Mounted(7, 1, 40, "/mnt/kv", shared=False, fstype="fuse.keyvaultfs", source="v")
    read: list[float] = []
    there: list[Mounted | None] = [ours]
    now = 100.0

    def looked(_: Mounted) -> Mounted | None:
        read.append(now)
        return there[0]

    monkeypatch.setattr("keyvaultfs.keeper.mountinfo.now", looked)
    with open(os.devnull) as device:
        presence = Presence(ours, device.fileno())
        while now < 110:
            assert presence.check(now, changed=True) is None
            now += 0.001
        assert 90 <= len(read) <= 110
        presence.check(now, changed=True)
        there[0] = None
        presence.check(now, changed=True)
        assert presence.check(now + 0.2, changed=False) is None, "the connection lives on"
        assert presence.gone, "a change is not forgotten"
        os.close(presence.fd)


# --- logs -----------------------------------------------------------------------------------------------------------


def fill(fd: int) -> None:
    os.set_blocking(fd, False)
    try:
        while True:
            os.write(fd, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(fd, True)


@pytest.mark.parametrize("kind", ["pipe", "socket", "hidden pipe"])
def test_a_standard_error_that_nobody_reads_is_not_waited_for(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "socket":
        reader, writer = socket.socketpair()
        reading, writing = reader.detach(), writer.detach()
    else:
        reading, writing = os.pipe()
    if kind == "hidden pipe":
        monkeypatch.setattr(Stderr, "_open_anew", lambda _: False)
    stderr = Stderr(writing)
    fill(writing)
    signal.alarm(10)
    try:
        for number in range(1000):
            stderr.write(b"line %d\n" % number)
        assert not fcntl.fcntl(writing, fcntl.F_GETFL) & os.O_NONBLOCK, "that is not ours to set"
        os.set_blocking(reading, False)
        text = b""
        for _ in range(1000):
            try:
                text += os.read(reading, 1 << 20)
            except BlockingIOError:
                break
            stderr.flush()
    finally:
        signal.alarm(0)
    lines = text.lstrip(b"x").split(b"\n")
    assert lines[0] == b"line 0"
    assert b"744 lines of this log are lost" in text
    os.close(reading)
    stderr.write(b"nobody is there")
    stderr.close()
    os.close(writing)


def test_a_file_is_appended_to_where_its_others_are(tmp_path: Path) -> None:
    with open(tmp_path / "log", "w+b") as file:
        file.write(b"before\n")
        file.flush()
        stderr = Stderr(file.fileno())
        stderr.write(b"line")
        file.write(b"after\n")
        file.flush()
        stderr.close()
        assert (tmp_path / "log").read_bytes() == b"before\nline\nafter\n"


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A sink on standard error as the journal has it, and what it wrote."""
    reading, writing = os.pipe()
    found = os.fstat(writing)
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    monkeypatch.setattr("keyvaultfs.keeper.sink._STDERR", writing)
    sink = Sink(foreground=True)

    def lines(text: str) -> bytes:
        sink.line(text)
        return os.read(reading, 1 << 20)

    yield lines
    sink.close()
    os.close(reading)
    os.close(writing)


def test_a_workers_line_forges_no_other_and_wakes_nobody(logged: Any) -> None:
    assert logged("<4>plain") == b"<4>plain\n"
    assert logged("<0>wake up") == b"<3>wake up\n"
    assert logged("<\u00b2>odd") == "<6><\u00b2>odd\n".encode()
    assert logged("<9>odd") == b"<6><9>odd\n"
    forged = logged("<6>a\nMESSAGE=b\r\x1b[2J\u2028c\udc80\x85")
    assert forged.count(b"\n") == 1
    assert b"\x1b" not in forged
    assert forged.decode().rstrip("\n").isprintable()
    assert len(logged("x" * 100_000)) < 4096


def test_no_text_adds_an_assignment_for_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notifier = Notifier()
        monkeypatch.setattr(notify, "time", SimpleNamespace(monotonic=lambda: 100.0))  # all within a second
        notifier.status("fine\nMAINPID=1")
        assert systemd.recv(4096) == b"STATUS=fine MAINPID=1"
        for number in range(100):
            notifier.status(f"flood {number}")
        notifier.send("READY=1")
        assert systemd.recv(4096) == b"READY=1", "a status a second is enough"


def test_an_allowance_fills_up_again() -> None:
    allowance = Allowance(10, 5)
    assert sum(allowance.take(0) for _ in range(100)) == 5
    assert allowance.refused == 95
    assert sum(allowance.take(0.3) for _ in range(100)) == 3
    rng = random.Random(1)
    now, taken = 0.3, 0
    while now < 10.3:
        now += rng.random() / 100
        taken += allowance.take(now)
    assert 95 <= taken <= 105


# --- the charge, between versions -----------------------------------------------------------------------------------

FIRST_RELEASE = (
    b'{"kind": "charge", "charge": "{\\"launch\\": {\\"vault\\": \\"v\\", \\"mountpoint\\": \\"/mnt/kv\\", '
    b'\\"source\\": \\"v\\", \\"options\\": {\\"ttl\\": \\"60\\"}, \\"config\\": null, '
    b'\\"generic\\": [\\"context=x\\"], '
    b'\\"foreground\\": true, \\"debug\\": false}, \\"init\\": \\"00ff\\", \\"told\\": \\"\\", \\"successor\\": true, '
    b'\\"keeper\\": 7}"}'
)
"""What a keeper of version 0.1.0 sends to the worker that an upgrade brings."""


def received(data: bytes) -> ipc.Charge:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        theirs.send(data)
        message = ipc.Channel(ours).receive()
    assert message is not None
    return ipc.Charge.unpack(message.facts["charge"])


def test_a_keeper_of_the_first_release_is_understood() -> None:
    charge = received(FIRST_RELEASE)
    assert charge.launch.options == {"ttl": "60"}
    assert charge.launch.generic == ("context=x",)
    assert (charge.init, charge.successor, charge.keeper, charge.lean) == ("00ff", True, 7, 0)
    again = charge._replace(init_answer="abcd")
    assert json.loads(again.pack())["told"] == "abcd", "the name that workers of that release read"
    assert ipc.Charge.unpack(again.pack()).init_answer == "abcd"


def test_a_charge_may_have_fields_of_a_later_version_and_lack_ours() -> None:
    data = json.loads(received(FIRST_RELEASE).pack())
    data |= {"moon": "full"}
    data["launch"] |= {"tide": ["high"]}
    for name in ("init", "told", "successor", "keeper", "lean"):
        del data[name]
    for name in ("source", "options", "config", "generic", "foreground", "debug"):
        del data["launch"][name]
    charge = ipc.Charge.unpack(json.dumps(data))
    assert charge.launch == ipc.Launch(vault="v", mountpoint="/mnt/kv")
    assert not charge.successor


def test_messages_of_an_earlier_worker_may_lack_fields() -> None:
    message = ipc.Message("ready", {})
    assert message.text("told") == ""
    assert message.texts("notes") == []


def test_after_kills_for_lack_of_memory_a_start_waits_and_then_there_is_none() -> None:
    supervisor = Supervisor()
    now, waits = 100.0, []
    for times in range(1, 6):
        supervisor.started(now)
        supervisor.beat(now)
        supervisor.ended(now)
        assert supervisor.out_of_memory(now) == times
        began = now
        while supervisor.step(now) is Step.NOTHING:
            now += 0.05
        assert supervisor.step(now) is Step.START
        waits.append(now - began)
    assert waits == sorted(waits)
    assert 0.2 < waits[0] < 0.4
    supervisor.started(now)
    supervisor.ended(now)
    assert supervisor.out_of_memory(now) == 6
    assert supervisor.step(now) is Step.GIVE_UP
    supervisor.started(now)
    supervisor.ended(now + 700)
    assert supervisor.out_of_memory(now + 700) == 1, "those of long ago do not count"


def test_who_kills_workers_that_have_just_begun_takes_no_values_from_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Five in a row, each before its first heartbeat; and then three that end by themselves."""
    workforce = object.__new__(Workforce)
    workforce.supervisor = Supervisor()
    workforce.succession = Succession(workforce.supervisor)
    workforce.served = True
    workforce._sink = sink = FakeSink()  # type: ignore[assignment]
    workforce._memory = SimpleNamespace(struck=lambda: False)  # type: ignore[assignment]
    workforce._inheritance = left = Inheritance(0)
    for fd in left.descriptors().values():
        os.write(fd, b"x")
    monkeypatch.setattr(workforce, "_last_words_of", lambda _: "nothing")
    killed_by = [signal.SIGKILL] * 5 + [0] * 3
    for now, number in enumerate(killed_by):
        process: Any = SimpleNamespace(pid=now, killed_by=number)
        workforce.succession.began(process, now)
        for act, one in workforce.succession.turn(now, lambda _: True):
            assert (act, one) == (Act.BURY, process)
            workforce.act(act, one, quiet=False)
        workforce._drop_what_may_kill()
        assert os.fstat(left.descriptors()[ipc.VALUES_FD]).st_size == int(now < 7), now
        assert os.fstat(left.descriptors()[ipc.TABLE_FD]).st_size == 1
    close(left)
    assert [text for text in sink.said if "begins without" in text] == [
        "3 workers could not serve: the next one begins without values"
    ]


@pytest.mark.parametrize(
    ("status", "keeper"),
    [
        (b'{"keeper": 4711}', 4711),
        (b'{"keeper": true}', None),
        (b'{"keeper": "\x1b[2J"}', None),
        (b"[]", None),
        (b"[" * 100_000, None),
        (b'{"keeper": ' + b"9" * 100, None),
        (b'{"keeper": 4711' + b" " * (1 << 20) + b"}", None),
        (None, None),
    ],
    ids=range(8),
)
def test_who_holds_a_mount_is_asked_of_it_with_care(
    status: bytes | None, keeper: int | None, tmp_path: Path
) -> None:
    """Anybody's may be there, and one that never answers, as a FIFO."""
    (tmp_path / ".keyvaultfs").mkdir()
    path = tmp_path / ".keyvaultfs/status"
    if status is None:
        os.mkfifo(path)
    else:
        path.write_bytes(status)
    assert mounting._keeper_of(str(tmp_path)) == keeper


# --- what a worker leaves -------------------------------------------------------------------------------------------


def close(left: Inheritance) -> None:
    for fd in left.descriptors().values():
        os.close(fd)


def test_what_is_dropped_is_out_of_reach_of_whoever_still_has_it() -> None:
    left = Inheritance(0)
    number = ipc.TABLE_FD
    theirs = os.dup(left.descriptors()[number])
    os.write(theirs, b"x" * 100)
    left.drop(number)
    assert os.fstat(theirs).st_size == 0, "and its memory is free at once"
    os.pwrite(theirs, b"again", 0)
    assert os.fstat(left.descriptors()[number]).st_size == 0
    left.drop(number, handed=True)
    ours = os.fstat(left.descriptors()[number])
    left.drop(number, handed=True)
    assert os.fstat(left.descriptors()[number]).st_ino == ours.st_ino, "whoever was handed it keeps it"
    os.close(theirs)
    close(left)


def test_what_is_left_has_a_bound() -> None:
    left = Inheritance(1 << 30)
    fds = left.descriptors()
    sizes = {ipc.TABLE_FD: 100 << 20, ipc.VALUES_FD: 8 << 30, ipc.READERS_FD: 5 << 20}
    for number, size in sizes.items():
        os.ftruncate(fds[number], size)
    assert left.drop_what_is_too_large(in_need=False, handed=False) == []
    assert left.drop_what_is_too_large(in_need=True, handed=False) == ["table"]
    for number in sizes:
        os.ftruncate(fds[number], 1 << 45)
    assert left.drop_what_is_too_large(in_need=False, handed=False) == ["table", "values", "readers"]
    assert {os.fstat(fd).st_size for fd in fds.values()} == {0}
    close(left)


def test_nobody_can_seal_what_is_left_or_cut_what_the_keeper_has_mapped() -> None:
    left, fixed = Inheritance(0), memory("test", 4096)
    for fd in (*left.descriptors().values(), fixed):
        with pytest.raises(PermissionError):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    for size in (0, 8192):
        with pytest.raises(PermissionError):
            os.ftruncate(fixed, size)
    os.pwrite(fixed, b"x", 100)
    os.close(fixed)
    close(left)
