"""The mount outlives its worker, whatever the worker was doing when it ended."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.mount import PATIENCE, ROOT, in_flight, mounts_below, run, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.mount import Mount
    from tests.support.vault import VaultProcess

    Mounter = Callable[..., Mount]

WITH_AND_WITHOUT_RESEND = pytest.mark.parametrize("resend", ["resend=yes", "resend=no"])


def gone(pid: int) -> bool:
    """Whether a process has ended and been reaped."""
    return not Path(f"/proc/{pid}").exists()


def kill_worker(kv: Mount) -> int:
    """SIGKILL, and the pid that it had."""
    pid = kv.worker()
    os.kill(pid, signal.SIGKILL)
    return pid


class Readers:
    """Threads that read one file over and over, each time a fresh open.

    Args:
        path: the file.
        number: how many threads.
        valid: whether a text is one that the file can have.
        in_flight_may_fail: where the kernel cannot send a dead worker's requests again, a read that it had ends with
            ESTALE, and so does an open that a rotation sends back as well (README).

    Attributes:
        problems: what must not be.
        sent_back: how many opens failed by a rotation and a death.
    """

    def __init__(
        self, path: Path, number: int, valid: Callable[[str], bool], *, in_flight_may_fail: bool = False
    ) -> None:
        self._in_flight_may_fail = in_flight_may_fail
        self.problems: list[str] = []
        self.reads = self.sent_back = 0
        self.longest = 0.0
        self._began = [0.0] * number
        """by reader: when its last read began"""
        self._stop = threading.Event()
        self._path = path
        self._valid = valid
        self._threads = [threading.Thread(target=self._run, args=(one,)) for one in range(number)]
        for thread in self._threads:
            thread.start()

    def _run(self, own: int) -> None:
        while not self._stop.is_set():
            begin = time.monotonic()
            try:
                text = self._path.read_text()
                if not self._valid(text):
                    self.problems.append(f"torn: {len(text)} characters")
            except OSError as exc:
                if not self._in_flight_may_fail or exc.errno != errno.ESTALE:
                    self.problems.append(str(exc))
                elif not in_flight(exc):
                    self.sent_back += 1
            self.longest = max(self.longest, time.monotonic() - begin)
            self.reads += 1
            self._began[own] = begin
            time.sleep(0.002)

    def wait_for_all(self) -> None:
        """Until each reader has ended a read that it began after now."""
        now = time.monotonic()
        wait_until(lambda: all(began > now for began in self._began), "a new read by each reader")

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


def whole(text: str) -> bool:
    """Whether a value made by `value` is whole."""
    number, _, rest = text.partition(":")
    return rest == "x" * (int(number) * 97 % 20_000)


def value(number: int) -> str:
    """A value that shows whether it is torn; lengths differ from one to the next."""
    return f"{number}:" + "x" * (number * 97 % 20_000)


@pytest.mark.timeout(240)
@WITH_AND_WITHOUT_RESEND
def test_twenty_kills_under_sixteen_readers_and_a_rotation_every_second(
    vault: VaultProcess, mount: Mounter, resend: str, thorough: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, kills = random.Random(4), 20 if thorough else 6
    vault.set("pw", value(1))
    kv = mount("ttl=1", resend)
    assert whole((kv / "pw").read_text())
    number, rotate_at = 1, time.monotonic()
    with (kv / "pw").open() as held:
        readers = Readers(kv / "pw", 16, whole, in_flight_may_fail=resend == "resend=no")
        try:
            for _ in range(kills):
                end = time.monotonic() + rng.uniform(0.2, 1.2)
                while time.monotonic() < end:
                    if time.monotonic() >= rotate_at:
                        number, rotate_at = number + 1, time.monotonic() + 1
                        vault.set("pw", value(number))
                    time.sleep(0.01)
                pid = kill_worker(kv)
                wait_until(lambda pid=pid: gone(pid) and kv.has_worker(), "a new worker")  # type: ignore[misc]
                # Without RESEND the kernel repeats an open once: one that meets two deaths fails (README).
                readers.wait_for_all()
        finally:
            readers.stop()
        assert held.read() == value(1)
    assert readers.problems == [], kv.log()[-3000:]
    assert readers.sent_back <= 2, "by chance, and not each that waits for a new worker"
    kv.wait_for("pw", value(number))
    with capsys.disabled():
        print(f"\n  {kills} kills ({resend}): {readers.reads} reads, the longest {readers.longest:.2f} s")


@WITH_AND_WITHOUT_RESEND
def test_twelve_hanging_lookups_are_served_by_the_successor_and_the_corpse_goes(
    vault: VaultProcess, mount: Mounter, resend: str
) -> None:
    names = [f"slow-{number}" for number in range(12)]
    vault.bulk([{"name": name, "value": f"value of {name}"} for name in names])
    vault.made_up(120)
    vault.set("held", "first")
    kv = mount("ttl=2", "timeout=20", resend)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context((kv / "held").open())
        vault.set("held", "second")
        kv.wait_for("held", "second")
        second = stack.enter_context((kv / "held").open())
        # An event and a notification wait, a directory is half read, two versions are open.
        listing = stack.enter_context(os.scandir(kv.where))
        begun = [next(listing).name for _ in range(10)]
        vault.fault(op="get", name="slow-*", hang=True)
        waiting = {name: subprocess.Popen(["cat", kv / name], stdout=subprocess.PIPE) for name in names}
        wait_until(lambda: len(vault.requests("get")) >= 13, "twelve look-ups to hang")
        vault.set("held", "third")
        vault.clear_faults()  # those that hang do so still, and what the successor asks for is answered
        pid = kill_worker(kv)
        for name, process in waiting.items():
            out, _ = process.communicate(timeout=60)
            assert (process.returncode, out) == (0, f"value of {name}".encode())
        assert first.read() == "first"
        assert second.read() == "second"
        names_listed = begun + [entry.name for entry in listing]
        assert len(names_listed) == len(set(names_listed)) == 133
        kv.wait_for("held", "third")
        wait_until(lambda: gone(pid), "the corpse to be reaped")


@WITH_AND_WITHOUT_RESEND
def test_every_cached_value_is_served_after_a_kill_during_an_outage(
    vault: VaultProcess, mount: Mounter, resend: str
) -> None:
    names = vault.made_up(60, size=500)
    kv = mount("ttl=60", "timeout=3", resend)
    before = {name: (kv / name).read_text() for name in names}
    vault.outage("both")
    pid = kill_worker(kv)
    wait_until(lambda: gone(pid) and kv.has_worker(), "a new worker")
    assert {name: (kv / name).read_text() for name in names} == before
    # And so it is once more with nothing left in the kernel.
    run("sh", "-c", "echo 3 > /proc/sys/vm/drop_caches")
    assert {name: (kv / name).read_text() for name in names} == before


def test_watches_bind_mounts_and_working_directories_live_through_a_takeover(
    vault: VaultProcess, mount: Mounter, tmp_path: Path
) -> None:
    vault.set("pw", "first")
    vault.set("bound", "one")
    kv = mount("ttl=2")
    target = tmp_path / "bound"
    target.touch()
    run("mount", "--bind", kv / "bound", target)
    shell = subprocess.Popen(
        ["sh", "-c", "read _; cat pw"], cwd=kv.where, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    watch = subprocess.Popen(
        ["inotifywait", "-e", "delete_self", kv / "pw"], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert watch.stderr is not None
        while b"established" not in (line := watch.stderr.readline()):
            assert line, "it has ended"
        pid = kill_worker(kv)
        wait_until(lambda: gone(pid) and kv.has_worker(), "a new worker")
        vault.set("pw", "second")
        vault.set("bound", "two and more")
        wait_until(lambda: watch.poll() == 0, "the watch to fire")
        wait_until(lambda: target.read_text() == "two and more", "the bind mount to follow")
        out, _ = shell.communicate(b"\n", timeout=30)
        assert out == b"second"
    finally:
        for process in (watch, shell):
            process.kill()
            process.communicate()
        run("umount", target)


def test_a_stopped_worker_is_detected_and_replaced(vault: VaultProcess, mount: Mounter) -> None:
    vault.set("pw", "x")
    kv = mount()
    pid = kv.worker()
    os.kill(pid, signal.SIGSTOP)
    assert (kv / "pw").read_text() == "x"
    kv.says(f"worker {pid} hangs")
    # The keeper waits for no corpse: it may still be there beside its successor.
    wait_until(lambda: gone(pid), "the hung worker to go")
    assert kv.has_worker()


def test_sighup_replaces_the_worker_without_an_error_for_readers(vault: VaultProcess, mount: Mounter) -> None:
    vault.set("pw", value(5))
    kv = mount()
    readers = Readers(kv / "pw", 4, whole)
    try:
        for _ in range(3):
            pid = kv.worker()
            kv.process.send_signal(signal.SIGHUP)
            wait_until(lambda pid=pid: gone(pid) and kv.has_worker(), "the new worker")  # type: ignore[misc]
    finally:
        readers.stop()
    assert readers.problems == [], kv.log()[-3000:]


def test_when_the_new_worker_cannot_start_the_old_one_stays(
    vault: VaultProcess, mount: Mounter, tmp_path: Path
) -> None:
    vault.set("pw", "x")
    file = tmp_path / "kv.toml"
    file.write_text("ttl = 100\n")
    kv = mount(f"config={file}")
    pid = kv.worker()
    file.write_text("ttl = 'never'\n")
    kv.process.send_signal(signal.SIGHUP)
    kv.says("the old one stays")
    assert kv.worker() == pid
    assert (kv / "pw").read_text() == "x"


@pytest.mark.slow
def test_a_worker_that_can_never_start_ends_in_a_clean_unmount(
    vault: VaultProcess, mount: Mounter, tmp_path: Path
) -> None:
    file = tmp_path / "kv.toml"
    file.write_text("ttl = 100\n")
    kv = mount(f"config={file}")
    file.write_text("ttl = 'never'\n")
    kill_worker(kv)
    assert kv.process.wait(60) == 1
    assert "workers in a row could not serve" in kv.log()
    assert "ttl" in kv.log()
    assert mounts_below(kv.where) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unmounts_also_a_busy_mount_and_ends_with_0(
    vault: VaultProcess, mount: Mounter, number: signal.Signals
) -> None:
    vault.set("pw", "x")
    kv = mount()
    worker = kv.worker()
    fd = os.open(kv / "pw", os.O_RDONLY)
    kv.process.send_signal(number)
    assert kv.process.wait(PATIENCE) == 0
    assert mounts_below(kv.where) == []
    with contextlib.suppress(OSError):  # the connection has gone with them
        os.close(fd)
    wait_until(lambda: gone(worker), "the worker to end")


def test_an_unmount_from_outside_ends_both_processes(vault: VaultProcess, mount: Mounter) -> None:
    vault.set("hangs", "x")
    vault.fault(op="get", hang=True)
    kv = mount("timeout=60")
    worker = kv.worker()
    waiting = subprocess.Popen(["cat", kv / "hangs"], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: bool(vault.requests("get")), "a look-up to hang")
        run("umount", "--lazy", kv.where)
        waiting.kill()
        assert kv.process.wait(PATIENCE) == 0
        wait_until(lambda: gone(worker), "the worker to end")
    finally:
        waiting.kill()
        waiting.wait()


@pytest.mark.parametrize("state", ["idle", "hanging", "outage"])
def test_the_keepers_death_by_sigkill_leaves_nothing(vault: VaultProcess, mount: Mounter, state: str) -> None:
    vault.bulk([{"name": name, "value": "x"} for name in ("pw", "hangs")])
    kv = mount("timeout=60")
    assert (kv / "pw").read_text() == "x"
    worker = kv.worker()
    waiting = None
    if state == "hanging":
        vault.fault(op="get", name="hangs", hang=True)
        waiting = subprocess.Popen(["cat", kv / "hangs"], stderr=subprocess.DEVNULL)
        wait_until(lambda: bool(vault.requests("get", "hangs")), "a look-up to hang")
    elif state == "outage":
        vault.outage("both", "silent")
    kv.process.kill()
    kv.process.wait(PATIENCE)
    wait_until(lambda: gone(worker), "the worker to end")
    if waiting is not None:
        assert waiting.wait(PATIENCE) != 0
    with pytest.raises(OSError, match="not connected"):
        (kv / "pw").read_text()
    # The stale mount point is cleaned by the next mount there.
    vault.clear_faults()
    kv.start()
    assert (kv / "pw").read_text() == "x"


def test_a_live_mount_is_refused_with_its_pid(vault: VaultProcess, mount: Mounter) -> None:
    kv = mount()
    done = subprocess.run(kv.command(), capture_output=True, text=True, check=False, env=kv.environment())
    assert done.returncode == 1
    assert str(kv.process.pid) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_worker_gives_up_what_status_says(vault: VaultProcess, mount: Mounter) -> None:
    vault.set("pw", "x")
    kv = mount("run_as=nobody")
    assert (kv / "pw").read_text() == "x"
    told = kv.status()["privileges"]
    facts = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{kv.worker()}/status").read_text().splitlines()
        if ":\t" in line
    )
    limits = Path(f"/proc/{kv.worker()}/limits").read_text()
    assert facts["Uid"].split() == [str(told["uid"])] * 4
    assert told["uid"] == 65534
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(facts[kind], 16) == 0, kind
    assert (facts["NoNewPrivs"], told["no_new_privileges"]) == ("1", True)
    assert next(line for line in limits.splitlines() if line.startswith("Max core")).split()[4:6] == [
        "0",
        "0",
    ]
    assert told["core_limit"] == 0
    # What is not dumpable belongs to root, whoever runs it.
    assert (Path(f"/proc/{kv.worker()}/mem").stat().st_uid, told["dumpable"]) == (0, False)
    locked = int(facts["VmLck"].split()[0])
    assert bool(locked) == told["memory_locked"]


def test_the_keepers_memory_never_holds_a_secret(vault: VaultProcess, mount: Mounter) -> None:
    canary = "canary-" + "".join(random.Random(7).choices("abcdef0123456789", k=40))
    vault.set("pw", canary)
    kv = mount()
    assert (kv / "pw").read_text() == canary
    os.kill(kv.worker(), signal.SIGKILL)
    assert (kv / "pw").read_text() == canary
    needle = canary.encode()
    assert not holds(kv.process.pid, needle)
    assert holds(kv.worker(), needle), "the scan finds what is there"


def holds(pid: int, needle: bytes) -> bool:
    """Whether a process's memory holds some bytes."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            words = line.split()
            if "r" not in words[1] or line.rstrip().endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            start, end = (int(part, 16) for part in words[0].split("-"))
            memory.seek(start)
            with contextlib.suppress(OSError):
                if needle in memory.read(end - start):
                    return True
    return False


def test_the_keeper_loads_neither_http_nor_trio(mount: Mounter) -> None:
    kv = mount()
    maps = Path(f"/proc/{kv.process.pid}/maps").read_text()
    assert "_ssl" not in maps
    assert "libfuse" not in maps


def test_a_worker_that_raises_in_every_handler_gives_eio_and_keeps_the_mount_for_a_mended_one(
    vault: VaultProcess, mount: Mounter, tmp_path: Path
) -> None:
    vault.set("pw", "x")
    installed = tmp_path / "installed"
    # What Python has compiled is left out: another run of tests may be writing it now.
    shutil.copytree(ROOT / "src", installed, ignore=shutil.ignore_patterns("__pycache__"))
    kv = mount("run_as=root", source=installed)
    with (kv / "pw").open() as held:
        code = installed / "keyvaultfs/filesystem/requests.py"
        whole = code.rename(code.with_name("whole_requests.py"))
        code.write_text(BROKEN_REQUESTS)
        broken = upgraded(kv)
        run("sh", "-c", "echo 3 > /proc/sys/vm/drop_caches")
        for name in ("pw", "absent", "pw"):
            with pytest.raises(OSError, match="Input/output") as caught:
                (kv / name).read_text()
            assert caught.value.errno == errno.EIO
        kv.says("bug in lookup: ValueError")
        assert "p@ss" not in kv.log()
        assert kv.worker() == broken, "an exception of a handler ends no worker"
        whole.rename(code)
        upgraded(kv)
        assert held.read() == "x"
    assert (kv / "pw").read_text() == "x"


BROKEN_REQUESTS = """
import functools
from keyvaultfs.filesystem import whole_requests
from keyvaultfs.filesystem.whole_requests import *

def with_a_bug(decorate):
    def decorator(fn):
        @functools.wraps(fn)
        def handler(*args, **kwargs):
            return int("p@" + "ss")
        return decorate(handler)
    return decorator

request, open_request, release_request = (
    with_a_bug(getattr(whole_requests, name)) for name in ("request", "open_request", "release_request")
)
"""


def upgraded(kv: Mount) -> int:
    """The pid of a worker of the code that is installed now."""
    before = kv.worker()
    kv.process.send_signal(signal.SIGHUP)
    kv.says_again("has taken over")
    wait_until(lambda: gone(before), "the worker of the earlier code to go")
    return kv.worker()
