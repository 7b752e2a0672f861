"""The mount lives through what an ordinary user, a worker that somebody has taken over, and the machine do to it."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keyvaultfs import ipc
from keyvaultfs.keeper import mountinfo
from tests.support.mount import KEYVAULTFS, PATIENCE, Mount, environment, mounts_below, run, wait_until
from tests.support.stolen import descriptor_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.vault import VaultProcess

    Mounter = Callable[..., Mount]


def over(where: Path, name: str = "cover") -> None:
    run("mount", "-t", "tmpfs", name, where)


def uncover(where: Path) -> None:
    while str(where) in mounts_below(where):
        run("umount", "--lazy", where)


def lines_of(where: Path) -> list[str]:
    return [one.fstype for one in mountinfo.table() if one.mountpoint == str(where)]


# --- names in the mount table ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", ["\r", "\x0b", "\x1c", "\x85", "\u2028", "a\nb", " - ", "\udc80"], ids=ascii)
def test_no_name_of_a_mounted_folder_ends_a_keeper(
    odd: str, vault: VaultProcess, mount: Mounter, tmp_path: Path
) -> None:
    vault.set("pw", "x")
    kv = mount()
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + odd.encode(errors="surrogateescape")))
    folder.mkdir()
    run("mount", "-t", "tmpfs", "evil", folder)
    try:
        time.sleep(0.5)  # two turns of its loop
        assert kv.process.poll() is None, kv.log()
        os.kill(kv.worker(), signal.SIGKILL)
        assert (kv / "pw").read_text() == "x"
        assert "trouble" not in kv.log()
    finally:
        run("umount", folder)


# --- its own mount and no other -------------------------------------------------------------------------------------


@pytest.mark.parametrize("covers", [1, 2])
def test_sigterm_unmounts_ours_from_beneath_and_leaves_what_covers_it(
    covers: int, vault: VaultProcess, mount: Mounter
) -> None:
    kv = mount()
    for _ in range(covers):
        over(kv.where)
    (kv / "theirs").write_text("theirs")
    try:
        kv.process.send_signal(signal.SIGTERM)
        assert kv.process.wait(PATIENCE) == 0, kv.log()
        assert lines_of(kv.where) == ["tmpfs"] * covers
        assert (kv / "theirs").read_text() == "theirs"
    finally:
        uncover(kv.where)


def test_sigterm_unmounts_ours_from_beneath_a_bind_mount_of_itself(mount: Mounter) -> None:
    kv = mount()
    run("mount", "--bind", kv.where, kv.where)
    assert len(lines_of(kv.where)) == 2
    try:
        kv.process.send_signal(signal.SIGTERM)
        assert kv.process.wait(PATIENCE) == 0, kv.log()
        assert len(lines_of(kv.where)) == 1, "the bind mount is not ours to take away"
    finally:
        uncover(kv.where)


def test_a_covered_mount_on_a_shared_folder_goes_as_well(vault: VaultProcess, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    run("mount", "-t", "tmpfs", "shared", folder)
    run("mount", "--make-shared", folder)
    (folder / "kv").mkdir()
    kv = Mount(vault, folder / "kv")
    try:
        kv.start()
        over(kv.where)
        kv.process.send_signal(signal.SIGTERM)
        assert kv.process.wait(PATIENCE) == 0, kv.log()
        assert lines_of(kv.where) == ["tmpfs"]
    finally:
        uncover(kv.where)
        kv.destroy()
        run("umount", folder)


def test_a_moved_mount_is_followed(vault: VaultProcess, mount: Mounter, tmp_path: Path) -> None:
    vault.set("pw", "x")
    kv = mount()
    there = tmp_path / "there"
    there.mkdir()
    run("mount", "--make-private", _parent_of(kv.where))
    run("mount", "--move", kv.where, there)
    over(kv.where)
    try:
        time.sleep(0.5)
        os.kill(kv.worker(), signal.SIGKILL)
        assert (there / "pw").read_text() == "x"
        kv.process.send_signal(signal.SIGTERM)
        assert kv.process.wait(PATIENCE) == 0, kv.log()
        assert lines_of(there) == []
        assert lines_of(kv.where) == ["tmpfs"]
    finally:
        uncover(kv.where)


def _parent_of(where: Path) -> str:
    table = mountinfo.table()
    ours = next(one for one in table if one.mountpoint == str(where))
    return next(one.mountpoint for one in table if one.number == ours.parent)


def test_a_folder_above_may_be_renamed(vault: VaultProcess, tmp_path: Path) -> None:
    where = tmp_path / "a" / "kv"
    where.mkdir(parents=True)
    kv = Mount(vault, where)
    try:
        kv.start()
        (tmp_path / "a").rename(tmp_path / "z")
        kv.process.send_signal(signal.SIGTERM)
        assert kv.process.wait(PATIENCE) == 0, kv.log()
        assert mounts_below(tmp_path) == []
    finally:
        kv.destroy()


def test_an_aborted_connection_fails_the_keeper_and_leaves_no_dead_mount(
    vault: VaultProcess, mount: Mounter, tmp_path: Path
) -> None:
    kv = mount()
    (ours,) = (one for one in mountinfo.table() if one.mountpoint == str(kv.where))
    control = tmp_path / "fusectl"
    control.mkdir()
    run("mount", "-t", "fusectl", "fusectl", control)
    try:
        (control / str(ours.minor) / "abort").write_text("1")
        assert kv.process.wait(PATIENCE) == 1, "so that systemd starts it again"
        assert "aborted" in kv.log()
        assert lines_of(kv.where) == []
    finally:
        run("umount", control)


# --- a worker that somebody has taken over --------------------------------------------------------------------------


def test_garbage_from_a_worker_is_noise(vault: VaultProcess, mount: Mounter) -> None:
    vault.set("pw", "x")
    kv = mount()
    rng = random.Random(1)
    odd = [b"{}", b"null", b'{"kind": "ready", "told": 7}', b'{"kind": "ready", "told": "zz"}', b"[" * 60_000]
    odd += [b'{"kind": "heartbeat", "causes": ' + b"9" * 100_000 + b"}", b"x" * 140_000]
    odd += [b'{"kind": "lookup", "name": "../../../etc/shadow"}', b'{"kind": "probed", "words": {}}']
    with descriptor_of(kv.worker(), ipc.CHANNEL_FD) as fd, socket.socket(fileno=os.dup(fd)) as channel:
        channel.setblocking(True)
        for data in odd:
            channel.send(data)
        for _ in range(100):
            channel.send(rng.randbytes(rng.randrange(1, 2000)))
    kv.says("sent what is no message")
    assert (kv / "pw").read_text() == "x"
    os.kill(kv.worker(), signal.SIGKILL)
    assert (kv / "pw").read_text() == "x"
    assert kv.log().count("is no message") == 1
    assert "trouble" not in kv.log()


def test_a_worker_cannot_fill_the_machine_with_children_or_the_log(
    vault: VaultProcess, mount: Mounter
) -> None:
    kv = mount()
    seen: set[int] = set()
    children = Path(f"/proc/{kv.process.pid}/task/{kv.process.pid}/children")
    with (
        descriptor_of(kv.worker(), ipc.CHANNEL_FD) as fd,
        descriptor_of(kv.worker(), ipc.LOG_FD) as log,
        socket.socket(fileno=os.dup(fd)) as channel,
    ):
        channel.setblocking(False)
        end = time.monotonic() + 2
        while time.monotonic() < end:
            for _ in range(100):
                with contextlib.suppress(BlockingIOError):
                    channel.send(b'{"kind": "poke"}')
                with contextlib.suppress(BlockingIOError):
                    os.write(log, b"<0>noise\n")
            seen |= set(map(int, children.read_text().split()))
    assert len(seen) < 1000
    kv.says("lines of the worker were too many")
    assert kv.log().count("noise") < 5000
    run("umount", kv.where, tries=50)  # the last of the children may still ask the mount
    assert kv.process.wait(PATIENCE) == 0


def test_a_workers_log_forges_nothing(vault: VaultProcess, mount: Mounter) -> None:
    kv = mount()
    with descriptor_of(kv.worker(), ipc.LOG_FD) as log:
        os.write(log, b"<4>one\rkeyvaultfs: two\x1b[2J\xe2\x80\xa8three\n")
    kv.says("one\\rkeyvaultfs: two\\x1b[2J\\u2028three")


def test_links_are_not_followed_out_of_the_mount(mount: Mounter) -> None:
    kv = mount()
    line = next(
        line for line in Path("/proc/self/mountinfo").read_text().split("\n") if f" {kv.where} " in line
    )
    assert "nosymfollow" in line.split(" ")[5]


def test_a_worker_that_closes_its_channel_is_replaced(vault: VaultProcess, mount: Mounter) -> None:
    vault.set("pw", "x")
    kv = mount()
    pid = kv.worker()
    with descriptor_of(pid, ipc.CHANNEL_FD) as fd, socket.socket(fileno=os.dup(fd)) as channel:
        channel.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: kv.has_worker() and kv.worker() != pid, "another worker")
    assert (kv / "pw").read_text() == "x"


@pytest.mark.slow
@pytest.mark.parametrize("fd", [ipc.TABLE_FD, ipc.VALUES_FD], ids=["table", "values"])
def test_what_a_worker_has_broken_for_its_successors_is_dropped(
    fd: int, vault: VaultProcess, mount: Mounter
) -> None:
    for number in range(10):
        vault.set(f"s{number}", f"value {number}")
    kv = mount()
    for number in range(10):
        (kv / f"s{number}").read_text()
    pid = kv.worker()
    with descriptor_of(pid, fd) as memory:
        os.kill(pid, signal.SIGSTOP)
        os.pwrite(memory, random.Random(1).randbytes(os.fstat(memory).st_size), 0)
        os.kill(pid, signal.SIGKILL)
        for number in range(10):
            assert (kv / f"s{number}").read_text() == f"value {number}"
    kv.says("the next one begins without")
    assert len(os.listdir(kv.where)) == 10


# --- a machine that has too little ----------------------------------------------------------------------------------


def test_a_worker_that_cannot_be_started_is_tried_again(vault: VaultProcess, mount: Mounter) -> None:
    vault.set("pw", "x")
    kv = mount()
    pid = kv.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (4, before[1]))  # no descriptor is to be had: EMFILE
    worker = kv.worker()
    os.kill(worker, signal.SIGKILL)
    kv.says("trouble in")
    assert kv.process.poll() is None
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    assert (kv / "pw").read_text() == "x"
    assert kv.worker() != worker


def test_a_standard_error_that_nobody_reads_stops_nothing(vault: VaultProcess, tmp_path: Path) -> None:
    vault.set("pw", "x")
    where = tmp_path / "kv"
    where.mkdir()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    command = [*KEYVAULTFS, "mount", "-f", "-d", vault.url, str(where), "-o", vault.mount_options()]
    keeper = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=writing, env=environment())
    try:
        wait_until(lambda: lines_of(where) != [], "the mount")
        assert (where / "pw").read_text() == "x"
        children = Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children")
        for child in children.read_text().split():
            with contextlib.suppress(ProcessLookupError):  # a helper, which has ended by itself
                os.kill(int(child), signal.SIGKILL)
        assert (where / "pw").read_text() == "x", "a take-over writes to the log"
        flags = Path(f"/proc/{os.getpid()}/fdinfo/{writing}").read_text()
        assert not int(flags.split("flags:")[1].split()[0], 8) & os.O_NONBLOCK
        run("umount", where)
        assert keeper.wait(PATIENCE) == 0
    finally:
        if keeper.poll() is None:
            keeper.kill()
            keeper.wait()
        subprocess.run(["umount", "--lazy", where], check=False, capture_output=True)
        os.close(reading)
        os.close(writing)


def test_where_proc_hides_others_a_users_mount_is_served(vault: VaultProcess) -> None:
    """With hidepid=2 a worker that is not dumpable is invisible to its own keeper, when that is not root."""
    vault.set("pw", "x")
    with tempfile.TemporaryDirectory(prefix="keyvaultfs-test-") as folder:
        Path(folder).chmod(0o755)
        where = Path(folder) / "kv"
        where.mkdir()
        os.chown(where, 65534, 65534)
        shutil.copy(vault.ca_file, f"{folder}/ca.pem")
        script = (
            "mknod $1/fuse c 10 229 && chmod 666 $1/fuse && mount --bind $1/fuse /dev/fuse && "
            "mount -t proc -o hidepid=2 proc /proc && shift && "
            # The interpreter may lie in a folder of root's.
            "exec setpriv --reuid 65534 --regid 65534 --clear-groups "
            '--inh-caps +dac_read_search --ambient-caps +dac_read_search "$@"'
        )
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", folder]
        command += [*KEYVAULTFS, "mount", "-f", vault.url, str(where)]
        command += ["-o", f"{vault.mount_options()},ca_file={folder}/ca.pem"]
        log = Path(folder) / "log"
        with log.open("wb") as file:
            keeper = subprocess.Popen(command, stderr=file, stdin=subprocess.DEVNULL, env=environment())
        try:
            wait_until(lambda: workers_of(keeper.pid) != [] or keeper.poll() is not None, "a worker")
            time.sleep(5)  # more than three heartbeats
            assert keeper.poll() is None, log.read_text()
            assert "died" not in log.read_text()
            for worker in workers_of(keeper.pid):
                os.kill(worker, signal.SIGKILL)
            wait_until(lambda: "has taken over" in log.read_text(), "a take-over")
            assert log.read_text().count("died") == 1
        finally:
            keeper.send_signal(signal.SIGTERM)
            keeper.wait(PATIENCE)
        assert "unmounted" in log.read_text()


def workers_of(keeper: int) -> list[int]:
    """From outside the namespace in which they are hidden."""
    found = []
    for child in Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split():
        with contextlib.suppress(OSError):  # one of the helpers, which has ended meanwhile
            if b"keyvaultfs.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found
