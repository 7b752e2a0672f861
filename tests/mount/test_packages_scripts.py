"""What the packages' scripts do to mounts, among strangers who want root to do it to something else."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.mount import KEYVAULTFS, PATIENCE, ROOT, environment, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.vault import VaultProcess

ROSTER = (sys.executable, "-m", "keyvaultfs.keeper.roster")
ODD = "kv \r\n1 2 0:9 - fuse.keyvaultfs x user_id=0\\\\040"
AS_USER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
           # For reading the interpreter, which may be in a folder of root's.
           "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")  # fmt: skip
SETUP = """
set -e
mknod -m 666 {folder}/fuse c 10 229  # where /dev/fuse is root's alone, as in some containers
mount --bind {folder}/fuse /dev/fuse
echo user_allow_other > {folder}/fuse.conf
mount --bind {folder}/fuse.conf /etc/fuse.conf
echo ready
exec sleep 600
"""


class Namespace:
    """Mounts and processes of its own: what is done here to all mounts is done to no other test's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[str]] = []
        command = [
            "unshare",
            "--mount",
            "--propagation=private",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]
        self._init = self._popen([*command, "sh", "-c", SETUP.format(folder=folder)])
        assert self._line(self._init) == "ready\n"
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text()
        self.inside = int(children)

    def close(self) -> None:
        self._init.kill()
        for child in self._started:
            child.wait(30)
            assert child.stdout is not None
            child.stdout.close()

    def run(self, *command: object) -> str:
        """Run a program inside; it fails if that does, or hangs."""
        done = subprocess.run(self._words(command), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              check=False, timeout=60, env=environment(), cwd=ROOT)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, *command: object) -> subprocess.Popen[str]:
        """Start a program inside that says a line when it is ready."""
        child = self._popen(self._words(command))
        assert self._line(child)
        return child

    def end(self, child: subprocess.Popen[str]) -> None:
        """End a program that `start` or its like started, and wait for it: what it held is let go."""
        inner = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        for pid in inner or [str(child.pid)]:
            os.kill(int(pid), signal.SIGKILL)
        child.wait(PATIENCE)

    def mount(self, vault: VaultProcess, name: str) -> Path:
        """A mount of root's."""
        where = self.folder / name
        where.mkdir(parents=True)
        self.run(*KEYVAULTFS, "mount", vault.url, where, "-o", vault.mount_options("ttl=2"))
        return where

    def mounts(self) -> set[bytes]:
        """Mount points in the folder, as the kernel spells them."""
        lines = Path(f"/proc/{self.inside}/mountinfo").read_bytes().split(b"\n")
        points = [line.split(b" ")[4] for line in lines if line]
        return {
            point
            for point in points
            if point.startswith(os.fsencode(self.folder)) and b"fuse.conf" not in point
        }

    def status(self, where: Path, name: str) -> str:
        """A fact of the mount's status; one that was opened just before a take-over cannot be read after it."""
        found = []

        def reads() -> bool:
            with contextlib.suppress(AssertionError):
                found.append(self.run("cat", where / ".keyvaultfs/status"))
            return bool(found)

        wait_until(reads, "the status")
        text = found[0]
        return text.partition(f'"{name}": ')[2].partition(",")[0]

    def _words(self, command: tuple[object, ...]) -> list[str]:
        enter = ["nsenter", f"--target={self.inside}", "--mount", "--pid", f"--wd={ROOT}"]
        return [*enter, *(str(word) for word in command)]

    def _popen(self, words: list[str]) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment()
        )
        self._started.append(child)
        return child

    @staticmethod
    def _line(child: subprocess.Popen[str]) -> str:
        assert child.stdout is not None
        return child.stdout.readline()


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    folder = Path(tempfile.mkdtemp(prefix="keyvaultfs-scripts-"))
    folder.chmod(0o755)
    (folder / "home").mkdir()
    os.chown(folder / "home", 65534, 65534)
    try:
        with contextlib.closing(Namespace(folder)) as one:
            yield one
    finally:
        shutil.rmtree(folder)


def stranger(namespace: Namespace, name: str, keeper: int) -> tuple[Path, subprocess.Popen[str]]:
    where = namespace.folder / "home" / name
    where.mkdir()
    os.chown(where, 65534, 65534)
    command = (*AS_USER, sys.executable, ROOT / "tests/support/stranger.py", where, keeper)
    return where, namespace.start(*command)


def test_root_renews_and_unmounts_its_own_and_touches_nothing_of_strangers(
    vault: VaultProcess, namespace: Namespace
) -> None:
    vault.set("pw", "one")
    victim = namespace.start("sh", "-c", "cut -d' ' -f1 /proc/self/stat; exec sleep 500")
    strangers = [
        stranger(namespace, "plain", 1),
        stranger(namespace, f"odd {ODD}", int(namespace.run("pgrep", "-n", "-f", "sleep 500"))),
        stranger(namespace, "silent", 0),
    ]
    kept = namespace.mounts()
    kv, odd = namespace.mount(vault, "kv"), namespace.mount(vault, ODD)
    (namespace.folder / "bound").touch()
    namespace.run("mount", "--bind", kv / "pw", namespace.folder / "bound")
    before = [namespace.status(where, "worker") for where in (kv, odd)]

    namespace.run(*ROSTER, "renew")
    for where, worker in zip((kv, odd), before, strict=True):
        wait_until(lambda: namespace.status(where, "worker") != worker, "a new worker")  # noqa: B023 - at once
        assert namespace.run("cat", where / "pw") == "one"

    namespace.run("sh", "-c", f"cd '{kv}'; exec 3< pw; {' '.join(ROSTER)} unmount")
    assert namespace.mounts() == kept
    assert (
        namespace.run(sys.executable, "-c", "from keyvaultfs.keeper import roster; print(roster.keepers())")
        == "[]\n"
    )
    assert "keyvaultfs.worker" not in namespace.run("ps", "-e", "-o", "args=")
    assert victim.poll() is None
    assert all(process.poll() is None for _, process in strangers)


def test_a_dead_mount_of_roots_is_unmounted_too(vault: VaultProcess, namespace: Namespace) -> None:
    kv = namespace.mount(vault, "kv")
    namespace.run("kill", "-KILL", namespace.status(kv, "keeper"))
    wait_until(
        lambda: "keyvaultfs" not in namespace.run("ps", "-e", "-o", "args="), "the end of its processes"
    )
    assert namespace.mounts() != set()
    namespace.run(*ROSTER, "unmount")
    assert namespace.mounts() == set()


def test_what_a_path_has_become_is_left_alone(vault: VaultProcess, namespace: Namespace) -> None:
    """The folder above a mount point is moved away, and its name leads to a mount of root's, before root acts."""
    home = namespace.folder / "home"
    kv = namespace.mount(vault, "home/folder/kv")
    os.chown(home / "folder", 65534, 65534)
    precious = namespace.folder / "precious"
    (precious / "kv").mkdir(parents=True)
    namespace.run("mount", "-t", "tmpfs", "none", precious / "kv")
    namespace.run(*AS_USER, "mv", home / "folder", home / "moved")
    namespace.run(*AS_USER, "ln", "-s", precious, home / "folder")
    detach = "import sys; from keyvaultfs.keeper.roster import detach; detach(sys.argv[1])"
    before = namespace.mounts()
    namespace.run(sys.executable, "-c", detach, kv)
    assert namespace.mounts() == before
    namespace.run(sys.executable, "-c", detach, home / "moved/kv")
    assert namespace.mounts() == {os.fsencode(precious / "kv")}
