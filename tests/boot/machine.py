"""A Debian with a real systemd, in a folder: made by debootstrap once, booted by systemd-nspawn."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import roots
from tests.support.mount import ROOT, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SUITE = os.environ.get("SUITE") or "bookworm"
"""Which release of Debian the machines are; Debian 12 unless `make boot SUITE=…` says otherwise."""

_BASE = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "iproute2",
    "ca-certificates",
    "procps",
    "python3",
    "nftables",
    "adduser",
)
_BOOT_SECONDS = 120.0
_NUMBERS = itertools.count()
"""Machines have names of their own: what nspawn keeps of one is in a folder of that name, for parallel runs too."""
_COMMAND_SECONDS = 120.0
_WAIT_SECONDS = 60.0


def package() -> Path:
    """The Debian package that `make package` built last."""
    found = sorted((ROOT / "dist").glob("keyvaultfs_*_all.deb"), key=lambda path: path.stat().st_mtime)
    assert found, "there is no package in dist/: make package"
    return found[-1]


def renamed(deb: Path, version: str, folder: Path) -> Path:
    """The same package under another version's name."""
    tree = folder / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", deb, tree], check=True)
    for file in (tree / "DEBIAN/control", *tree.rglob("*.dist-info/METADATA")):
        file.write_text(re.sub(r"(?m)^Version: .*$", f"Version: {version}", file.read_text(), count=1))
    for installed in tree.rglob("keyvaultfs-*.dist-info"):
        installed.rename(installed.with_name(f"keyvaultfs-{version}.dist-info"))
    made = folder / "keyvaultfs.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", tree, made], check=True, stdout=subprocess.DEVNULL
    )
    return made


def base(deb: Path) -> Path:
    """The root that machines are copied from, without the package but with what it wants at hand for apt."""
    wanted = []
    for field in ("Depends", "Recommends"):
        done = subprocess.run(["dpkg-deb", "--field", deb, field], capture_output=True, text=True, check=True)
        wanted += [word.split()[0].partition(":")[0] for word in done.stdout.split(",") if word.strip()]
    return roots.base(SUITE, _BASE, wanted)


class Machine:
    """One machine: its disk stays over several boots.

    Args:
        root: its root file system.
        network: the process in whose network namespace it lives.
    """

    def __init__(self, root: Path, network: int) -> None:
        self.root = root
        self._network = network
        self._console = root.with_name(root.name + ".console")
        self._process: subprocess.Popen[bytes] | None = None
        self.before: set[str] = set()
        """files before the package was installed"""
        self.started = ""
        """units that the installation started"""

    def write(self, path: str, content: str | bytes) -> None:
        """A file on its disk, whether it runs or not."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)

    def files(self) -> set[str]:
        """What is on its disk, but for logs, caches and what every boot or apt run makes anew."""
        found = self.run("find", "/", "-xdev", "-not", "-path", "/root/*", "-not", "-path", "/var/log/*")
        passing = re.compile(
            r"^/(var/(cache|lib/(apt|dpkg|systemd)|tmp)|tmp|mnt|run|etc/.*-)(/|$)|/__pycache__(/|$)"
        )
        return {path for path in found.splitlines() if not passing.search(path)}

    def enable(self, unit: str, target: str = "multi-user.target") -> None:
        """Have a unit start at boot, as `systemctl enable` does, while the machine is off."""
        wants = self.root / f"etc/systemd/system/{target}.wants"
        wants.mkdir(parents=True, exist_ok=True)
        template = unit.partition("@")[0] + "@.service" if "@" in unit else unit
        where = next(
            folder
            for folder in ("/etc/systemd/system", "/lib/systemd/system")
            if (self.root / folder.lstrip("/") / template).exists()
        )
        (wants / unit).symlink_to(f"{where}/{template}")

    def boot(self) -> float:
        """Boot, and wait until systemd says that all is up.

        Returns:
            How many seconds that took.
        """
        begin = time.monotonic()
        devices = [f"--bind={path}" for path in ("/dev/fuse", "/dev/autofs") if Path(path).exists()]
        command = ["systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}",
                   f"--machine=keyvaultfs-{os.getpid()}-{next(_NUMBERS)}",
                   "--register=no", "--keep-unit",
                   f"--network-namespace-path=/proc/{self._network}/ns/net", *devices,
                   "--capability=CAP_SYS_ADMIN,CAP_NET_ADMIN", "--resolv-conf=off", "--timezone=off",
                   "--link-journal=no", "--console=pipe"]  # fmt: skip
        env = dict(os.environ)
        if SUITE not in {
            "bookworm",
            "trixie",
        }:  # systemd from 258 on starts on nothing else, whatever this host has
            env["SYSTEMD_NSPAWN_UNIFIED_HIERARCHY"] = "1"
        with self._console.open("ab") as console:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=env
            )
        wait_until(self._answers, "systemd to answer", _BOOT_SECONDS)
        state = self.run("systemctl", "is-system-running", "--wait", check=False).strip()
        took = time.monotonic() - begin
        assert state == "running", (
            f"{state}\n{self.run('systemctl', '--failed', '--no-pager')}\n{self.journal()}"
        )
        return took

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"it ended: {self._console.read_text(errors='replace')}"
        with contextlib.suppress(LookupError, OSError):
            done = subprocess.run(
                [*self._enter(), "systemctl", "is-system-running"],
                capture_output=True, text=True, check=False, timeout=_COMMAND_SECONDS,
            )  # fmt: skip
            return done.stdout.strip() in {"initializing", "starting", "running", "degraded"}
        return False

    def leader(self) -> int:
        """Its process 1, as this machine numbers it."""
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for child in children:
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    return int(child)
        raise LookupError("it has no process 1 yet")

    def _enter(self, user: str = "root") -> list[str]:
        become = [] if user == "root" else ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        words = ["nsenter", f"--target={self.leader()}", "--all", "--root", "--wd", "env", "-i"]
        return [*words, f"PATH={roots.PATH}", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", *become]

    def fetch_release(self, suite: str) -> None:
        """While it is off, have its apt fetch all that an upgrade to another release of Debian wants."""
        sources = self.root / "etc/apt/sources.list"
        sources.write_text(sources.read_text().replace(SUITE, suite))
        with roots.online(self.root):
            roots.apt(self.root, "update")
            roots.apt(self.root, "--yes", "--download-only", "dist-upgrade")

    def run(
        self, *command: str, user: str = "root", check: bool = True, seconds: float = _COMMAND_SECONDS
    ) -> str:
        """Run a program inside, and return what it printed, both streams.

        A failure fails the test, unless `check` is off.
        """
        done = subprocess.run(
            [*self._enter(user), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=seconds,
        )
        said = done.stdout.decode(errors="replace")
        assert done.returncode == 0 or not check, (
            f"{command}: status {done.returncode}: {said}\n{self.journal()}"
        )
        return said

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait for a condition inside; its failure shows the journal."""
        try:
            wait_until(holds, what, _WAIT_SECONDS)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.journal()}") from None

    def timed(self, *command: str) -> float:
        """Run a program inside; the seconds that it took, to be shown."""
        begin = time.monotonic()
        self.run(*command)
        return time.monotonic() - begin

    def can(self, *command: str, user: str = "root") -> bool:
        """Whether a program succeeds inside."""
        done = subprocess.run([*self._enter(user), *command], stdin=subprocess.DEVNULL, capture_output=True,
                              check=False, timeout=_COMMAND_SECONDS)  # fmt: skip
        return done.returncode == 0

    def start(self, *command: str, user: str = "root") -> subprocess.Popen[str]:
        """Start a program inside that outlives this call; it ends with the machine."""
        return subprocess.Popen([*self._enter(user), *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)  # fmt: skip

    def journal(self, *arguments: str) -> str:
        """The journal of this boot, its end."""
        with contextlib.suppress(LookupError, OSError):
            done = subprocess.run(
                [*self._enter(), "journalctl", "--boot", "--no-pager", "--lines=60", *arguments],
                capture_output=True, text=True, check=False, timeout=_COMMAND_SECONDS,
            )  # fmt: skip
            return done.stdout
        return "(it does not run)"

    def last_journal(self) -> str:
        """The journal of its last boot, when it is off."""
        assert self._process is not None
        assert self._process.poll() is not None
        command = ["journalctl", f"--root={self.root}", "--boot=-0", "--no-pager"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def console(self) -> str:
        """What it has written to its console, in all boots."""
        return self._console.read_text(errors="replace")

    def poweroff(self) -> float:
        """Shut down in good order.

        Returns:
            How many seconds that took.
        """
        assert self._process is not None
        begin = time.monotonic()
        self.run("systemctl", "poweroff", "--no-block")
        assert self._process.wait(_BOOT_SECONDS) == 0, self.console()[-3000:]
        return time.monotonic() - begin

    def destroy(self) -> None:
        """Whatever happened, leave nothing."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(LookupError, OSError):
                os.kill(self.leader(), signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def above(below: Path, network: int) -> Iterator[Machine]:
    """A machine of its own, off; gone at the end. What it writes lies over the disk `below`, which stays as it is."""
    with roots.above(below) as root:
        machine = Machine(root, network)
        try:
            yield machine
        finally:
            machine.destroy()
