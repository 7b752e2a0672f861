"""Files belong to who mounts: the user that the workers became reads nobody's secrets."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.mount import KEYVAULTFS, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.mount import Mount
    from tests.support.vault import VaultProcess

    Mounter = Callable[..., Mount]

CANARY = "canary-50b1c2"
LOOK_AROUND = """
import ctypes, glob, os, sys
mount, worker = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
got = []
def tried(what, call):
    try:
        got.append((what, call()))
    except OSError:
        pass
for path in (f"{mount}/pw", f"{mount}/.keyvaultfs/status", f"{mount}/.keyvaultfs/versions/pw"):
    tried(path, lambda: open(path).read())
tried("control", lambda: os.listdir(f"{mount}/.keyvaultfs"))
for name in ("mem", "maps", "environ", "stack", "syscall"):
    tried(name, lambda: open(f"/proc/{worker}/{name}", "rb").read(1))
for name in ("root", "cwd", "exe"):
    tried(name, lambda: os.readlink(f"/proc/{worker}/{name}"))
for folder in (f"/proc/{worker}/fd", *glob.glob(f"/proc/{worker}/task/*/fd")):
    tried(folder, lambda: os.listdir(folder))
for fd in range(64):
    tried(f"fd {fd}", lambda: open(f"/proc/{worker}/fd/{fd}", "rb").read(1))
    pidfd = os.pidfd_open(int(worker))
    if libc.syscall(438, pidfd, fd, 0) >= 0:
        got.append(("pidfd_getfd", fd))
    os.close(pidfd)
PTRACE_ATTACH, PTRACE_SEIZE = 16, 0x4206
for how in (PTRACE_SEIZE, PTRACE_ATTACH):
    if libc.ptrace(how, int(worker), 0, 0) == 0:
        got.append(("ptrace", how))
print(os.getuid(), got)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where any user may go, as pytest's own folders are not."""
    made = Path(tempfile.mkdtemp(prefix="keyvaultfs-owner-"))
    made.chmod(0o755)
    yield made
    made.rmdir()


def mounted(vault: VaultProcess, where: Path, *options: str) -> int:
    """Mount with a worker that becomes the user daemon; returns the worker's process id."""
    where.mkdir()
    words = vault.mount_options("run_as=daemon", *options)
    run(*KEYVAULTFS, "mount", vault.url, where, "-o", words)
    return int(json.loads((where / ".keyvaultfs/status").read_text())["worker"])


def test_two_mounts_whose_workers_share_a_user_do_not_read_each_others_secrets(
    vault: VaultProcess, folder: Path
) -> None:
    vault.set("pw", CANARY)
    points = folder / "one", folder / "two"
    try:
        workers = [mounted(vault, where) for where in points]
        for where, worker in zip(points, workers, strict=True):
            assert (where / "pw").read_text() == CANARY
            assert os.stat(f"/proc/{worker}/task/{worker}/stat").st_uid == 0  # not dumpable: root's
            status = Path(f"/proc/{worker}/status").read_text()
            assert "\nUid:\t1\t1\t1\t1\n" in status
            for path in (where, where / "pw", where / ".keyvaultfs", where / ".keyvaultfs/status"):
                assert (path.stat().st_uid, path.stat().st_gid) == (0, 0), path
            as_daemon = ["setpriv", "--reuid=daemon", "--regid=daemon", "--clear-groups"]
            said = run(*as_daemon, "/usr/bin/python3", "-c", LOOK_AROUND, where, worker)
            assert said == "1 []\n"
            done = subprocess.run([*as_daemon, "cat", where / "pw"], capture_output=True, check=False)
            assert (done.returncode, b"Permission denied" in done.stderr) == (1, True)
    finally:
        for where in points:
            subprocess.run(["umount", where], check=False, capture_output=True)
            where.rmdir()


def test_who_is_named_as_owner_is_the_owner(vault: VaultProcess, folder: Path) -> None:
    vault.set("pw", CANARY)
    where = folder / "kv"
    try:
        mounted(vault, where, "uid=4321", "gid=4322")
        found = (where / "pw").stat()
        assert (found.st_uid, found.st_gid) == (4321, 4322)
    finally:
        subprocess.run(["umount", where], check=False, capture_output=True)
        where.rmdir()
