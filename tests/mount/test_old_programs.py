"""Programs of any age: the oldest are the ones that read their passwords from files."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.mount import ROOT, run, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.mount import Mount
    from tests.support.vault import VaultProcess

    Mounter = Callable[..., Mount]


def test_a_32_bit_program_without_large_file_support_sees_everything(
    vault: VaultProcess, mount: Mounter, tmp_path: Path
) -> None:
    program = tmp_path / "program32"
    run("gcc", "-m32", "-static", "-O1", "-o", program, ROOT / "tests/support/program32.c")
    vault.made_up(300)
    vault.set("pw", "old")
    vault.set("pw", "a new one")
    kv = mount()
    names = ["pw", "s001", "s299"]
    assert run(program, kv.where, *(kv / name for name in names)) == "301 names\n"
    control = kv / ".keyvaultfs"
    assert run(program, control, control / "status", control / "metrics") == "5 names\n"
    (kv / ".keyvaultfs/versions/pw").stat()
    assert run(program, kv / ".keyvaultfs/versions/pw") == "2 names\n"
    assert max(entry.inode() for entry in os.scandir(kv.where)) < 1 << 32


@pytest.mark.parametrize("resend", ["resend=yes", "resend=no"])
def test_an_open_directory_of_versions_shows_the_same_secret_after_a_take_over(
    vault: VaultProcess, mount: Mounter, resend: str
) -> None:
    versions = {name: vault.set(name, f"value of {name}") for name in ("aaa", "bbb")}
    kv = mount(resend)
    numbers = {name: (kv / ".keyvaultfs/versions" / name).stat().st_ino for name in ("bbb", "aaa")}
    fd = os.open(kv / ".keyvaultfs/versions/aaa", os.O_RDONLY | os.O_DIRECTORY)
    try:
        pid = kv.worker()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: kv.has_worker() and kv.worker() != pid, "a new worker")
        # In the opposite order of the first time.
        for name in ("bbb", "aaa"):
            assert (kv / ".keyvaultfs/versions" / name).stat().st_ino == numbers[name]
        assert os.listdir(fd) == [versions["aaa"]]
        found = os.open(versions["aaa"], os.O_RDONLY, dir_fd=fd)
        assert os.read(found, 99) == b"value of aaa"
        os.close(found)
        assert os.fstat(fd).st_ino == numbers["aaa"]
    finally:
        os.close(fd)


def test_a_worker_that_cannot_read_the_table_leaves_the_mount_to_the_old_one(
    vault: VaultProcess, mount: Mounter
) -> None:
    vault.set("pw", "x")
    kv = mount()
    assert (kv / "pw").read_text() == "x"
    worker = kv.worker()
    table = f"/proc/{kv.process.pid}/fd"
    (memfd,) = [
        f"{table}/{fd}" for fd in os.listdir(table) if "keyvaultfs-table" in os.readlink(f"{table}/{fd}")
    ]
    fd = os.open(memfd, os.O_RDWR)
    layout = os.pread(fd, 4, 8)
    os.pwrite(fd, (99).to_bytes(4, "little"), 8)
    kv.process.send_signal(signal.SIGHUP)
    kv.says("the old one stays: UnknownLayout: the table of inodes has layout 99")
    assert (kv / "pw").read_text() == "x"
    assert kv.worker() == worker
    os.pwrite(fd, layout, 8)
    os.close(fd)
    kv.process.send_signal(signal.SIGHUP)
    kv.says("has taken over")
    wait_until(lambda: kv.worker() != worker, "a new worker")
    assert (kv / "pw").read_text() == "x"
