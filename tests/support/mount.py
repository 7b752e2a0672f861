"""A real mount, served by other processes, and nothing of it left behind."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.vault import VaultProcess

ROOT = Path(__file__).resolve().parents[2]
KEYVAULTFS = (sys.executable, "-m", "keyvaultfs.cli.main")
PATIENCE = 30.0
_MS_NOSUID_NODEV_NOEXEC, _MS_REMOUNT, _MS_BIND = 14, 32, 4096  # of mount(2)


def environment(source: Path = ROOT / "src") -> dict[str, str]:
    """For children: our code, and nothing else of this process."""
    kept = {key: value for key, value in os.environ.items() if key.startswith(("COVERAGE", "HYPOTHESIS"))}
    return kept | {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "PYTHONPATH": str(source),
        "LC_ALL": "C.UTF-8",
    }


def links(pid: int) -> list[str]:
    """What a process has open, as the links in its ``fd`` say; what it closes meanwhile is left out."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found


def mounts_below(folder: Path) -> list[str]:
    """Mount points below a folder, read from the kernel's table: asking the mount itself may hang with it."""
    lines = Path("/proc/self/mountinfo").read_bytes().split(b"\n")
    points = [os.fsdecode(line.split(b" ")[4].replace(b"\\040", b" ")) for line in lines if line]
    return [point for point in points if Path(point).is_relative_to(folder)]


def is_mount(fd: int, where: Path) -> bool:
    """Whether a descriptor is of what is mounted on `where`, and not of the folder below it."""
    facts = Path(f"/proc/self/fdinfo/{fd}").read_text().split()
    number = facts[facts.index("mnt_id:") + 1].encode()
    lines = [line.split(b" ") for line in Path("/proc/self/mountinfo").read_bytes().split(b"\n") if line]
    return [number, os.fsencode(where).replace(b" ", b"\\040")] in [[line[0], line[4]] for line in lines]


def clear_read_only(where: Path) -> None:
    """Clear the kernel's read-only flags, of a file system and of its mount, as root can.

    By mount(2) itself: newer mount(8) changes a file system by fsconfig(2), through which FUSE takes no change.
    """
    for remount in (_MS_REMOUNT, _MS_REMOUNT | _MS_BIND):
        flags = remount | _MS_NOSUID_NODEV_NOEXEC
        assert ctypes.CDLL(None).mount(None, os.fsencode(where), None, flags, None) == 0


def wait_until(holds: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Wait for a condition of another process; fails with `what`."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:.0f} s in vain for: {what}")
        time.sleep(0.01)


def in_flight(exc: OSError) -> bool:
    """Whether a read of an open file failed as it does where a dead worker had its request and the kernel lost it.

    Kernels without RESEND repeat a look-up and an open, and nothing else (README).
    """
    return exc.errno == errno.ESTALE and exc.filename is None


def run(*command: object, stdin: str | None = None, tries: int = 1) -> str:
    """Run a program to its end and return what it printed, both streams; its failure fails the test."""
    words = [str(word) for word in command]
    for left in range(tries, 0, -1):
        done = subprocess.run(
            words,
            input=None if stdin is None else stdin.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=60,
        )
        if done.returncode == 0:
            return done.stdout.decode()
        if left > 1:
            time.sleep(0.1)
    raise AssertionError(f"{words}: exit status {done.returncode}: {done.stdout!r}")


class Mount:
    """``keyvaultfs mount -f`` as a child process.

    Args:
        vault: what is mounted.
        where: the mount point.
        options: more ``-o`` options; later ones win.
        source: the folder that the package is imported from.
    """

    def __init__(
        self,
        vault: VaultProcess,
        where: Path,
        options: tuple[str, ...] = (),
        debug: bool = False,
        source: Path = ROOT / "src",
    ) -> None:
        self.vault = vault
        self.where = where
        self.options = options
        self.debug = debug
        self.source = source
        self._said: dict[str, int] = {}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in destroy
        self._process: subprocess.Popen[bytes] | None = None

    def __truediv__(self, name: str) -> Path:
        return self.where / name

    def command(self) -> list[str]:
        """What starts it."""
        text = ",".join((self.vault.mount_options(), *self.options))
        return [
            *KEYVAULTFS,
            "mount",
            "-f",
            *(["-d"] if self.debug else []),
            self.vault.url,
            str(self.where),
            "-o",
            text,
        ]

    def start(self) -> None:
        """Start, and wait until the file system answers or the process died."""
        self._process = subprocess.Popen(
            self.command(),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=self.environment(),
        )
        wait_until(lambda: self.answers() or self.process.poll() is not None, "the mount")
        assert self.process.poll() is None, f"the mount ended: {self.log()}"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The keeper."""
        assert self._process is not None
        return self._process

    def answers(self) -> bool:
        """Whether it is mounted and a statfs is answered.

        Of one and the same mount: where a dead one is being replaced, a path leads from the one question to the next
        to the dead mount, to the plain folder below it, and to the new mount.
        """
        with contextlib.suppress(OSError):
            there = os.open(self.where, os.O_PATH)
            try:
                return is_mount(there, self.where) and os.fstatvfs(there).f_namemax >= 127
            finally:
                os.close(there)
        return False

    def wait_for(self, name: str, text: str) -> None:
        """Read a file until it says `text`."""

        def reads() -> bool:
            with contextlib.suppress(OSError):
                return (self.where / name).read_text() == text
            return False

        wait_until(reads, f"{name} to say what it should")

    def says(self, text: str) -> None:
        """Wait for a text in its log."""
        wait_until(lambda: text in self.log(), f"{text!r} in the log")

    def says_again(self, text: str) -> None:
        """Wait for a text in its log once more than the last time."""
        self._said[text] = self._said.get(text, 0) + 1
        wait_until(lambda: self.log().count(text) >= self._said[text], f"{text!r} in the log again")

    def log(self) -> str:
        """All that it has logged."""
        # Not by seek and read: the mount writes at the same offset.
        fd = self._log.fileno()
        return os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="backslashreplace")

    def status(self) -> dict[str, Any]:
        """The file ``status``."""
        facts: dict[str, Any] = json.loads((self.where / ".keyvaultfs/status").read_text())
        return facts

    def metric(self, name: str, kind: str | None = None) -> int:
        """A number of the file ``metrics``; one with a `kind` is 0 where that kind has not come up."""
        label = "" if kind is None else f'{{kind="{kind}"}}'
        wanted = (f"keyvaultfs_{name}_total{label} ", f"keyvaultfs_{name}{label} ")
        for line in (self.where / ".keyvaultfs/metrics").read_text().splitlines():
            if line.startswith(wanted):
                return int(float(line.rpartition(" ")[2]))
        assert kind is not None, f"there is no metric {name}"
        return 0

    def children(self, *, workers: bool) -> list[int]:
        """Process ids of the keeper's children, from the kernel: of its workers, oldest first, or of all others."""
        found = []
        for child in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                words = Path(f"/proc/{child}/cmdline").read_bytes()
                if words and (b"keyvaultfs.worker" in words) is workers:
                    found.append(int(child))
        return found

    def worker(self) -> int:
        """The worker's process id; where one has just died, its successor's."""
        found: list[int] = []

        def is_there() -> bool:
            found[:] = self.children(workers=True)
            return bool(found)

        wait_until(is_there, "a worker")
        return found[0]

    def has_worker(self) -> bool:
        """Whether a worker serves."""
        with contextlib.suppress(OSError):
            return self.status()["worker"] in self.children(workers=True)
        return False

    def environment(self) -> dict[str, str]:
        """For children."""
        return environment(self.source)

    def stop(self) -> None:
        """Unmount as a user would; a busy mount fails: somebody leaked a descriptor."""
        if self._process is None or self._process.poll() is not None:
            return
        # A child of the keeper may still ask the mount for its statistics; who leaked a descriptor keeps it busy.
        wait_until(
            lambda: subprocess.run(["umount", self.where], check=False, capture_output=True).returncode == 0,
            f"nobody to use {self.where}",
        )
        assert self._process.wait(PATIENCE) == 0, self.log()

    def destroy(self) -> None:
        """Whatever happened, leave nothing."""
        if str(self.where) in mounts_below(self.where.parent):
            subprocess.run(["umount", "--lazy", str(self.where)], check=False, capture_output=True)
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            self._process.kill()
            self._process.wait()
        self._log.close()
