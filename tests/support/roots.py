"""Root file systems of Debian's releases, made by debootstrap once and kept in the folder for temporary files.

They lie in ``keyvaultfs-roots-UID`` there. What wants to write in one puts an overlay over it: see `above`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SECONDS = 1200
_SCRIPTS = Path("/usr/share/debootstrap/scripts")


def environment(**more: str) -> dict[str, str]:
    """For programs in a root: no setting of ours but the proxies."""
    env = {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive"}
    return env | {key: value for key, value in os.environ.items() if key.lower().endswith("_proxy")} | more


def do(command: Sequence[str]) -> None:
    """Run a program; its failure shows the end of what it said."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(),
        check=False,
        timeout=_SECONDS,
    )
    assert done.returncode == 0, f"{list(command)[:4]}: {done.stdout.decode(errors='replace')[-2000:]}"


def base(
    suite: str,
    installed: Sequence[str],
    fetched: Sequence[str] = (),
    finish: tuple[str, Callable[[Path], None]] | None = None,
) -> Path:
    """The root of a release; nothing may be written in it.

    Args:
        suite: the release's name, such as ``bookworm``.
        installed: packages that it has.
        fetched: packages that its apt finds without a network, with what they depend on.
        finish: what else is done to it, once, and a word that changes when that does.
    """
    words = [suite, *installed, "and", *fetched, finish[0] if finish else ""]
    key = hashlib.sha256(" ".join(words).encode()).hexdigest()[:12]
    cache = folder()
    with (cache / f"{suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        root = cache / f"{suite}-{key}"
        if not root.is_dir():
            making = cache / f"{suite}-making"
            shutil.rmtree(making, ignore_errors=True)
            _make(making, suite, installed, fetched)
            if finish:
                finish[1](making)
            making.rename(root)
    return root


def folder() -> Path:
    """Where they are kept."""
    found = Path(tempfile.gettempdir()) / f"keyvaultfs-roots-{os.geteuid()}"
    found.mkdir(mode=0o700, exist_ok=True)
    facts = found.lstat()
    # A stranger's folder of that name would be a root file system of the stranger's.
    assert stat.S_ISDIR(facts.st_mode), f"{found} is no folder"
    assert facts.st_uid == os.geteuid(), f"{found} is another user's"
    assert not facts.st_mode & 0o077, f"{found} is open to others"
    return found


def _make(root: Path, suite: str, installed: Sequence[str], fetched: Sequence[str]) -> None:
    # A release that this debootstrap does not know yet is made as Debian's unstable is.
    script = [] if (_SCRIPTS / suite).exists() else ["", str(_SCRIPTS / "sid")]
    do(["debootstrap", "--variant=minbase", suite, str(root), *script])
    with online(root):
        apt(root, "update")
        install = ["install", "--yes", "--no-install-recommends"]
        if installed:
            (root / "usr/sbin/policy-rc.d").write_text(
                "#!/bin/sh\nexit 101\n"
            )  # nothing is started in a chroot
            (root / "usr/sbin/policy-rc.d").chmod(0o755)
            apt(root, *install, *installed)
            (root / "usr/sbin/policy-rc.d").unlink()
            apt(root, "clean")
        if fetched:
            apt(root, *install, "--download-only", *fetched)


def apt(root: Path, *words: str) -> None:
    """Run apt-get in a root; some packages' scripts want /proc there."""
    script = (
        'mount -t proc proc "$0/proc" && exec chroot "$0" apt-get -o Acquire::Check-Valid-Until=false "$@"'
    )
    do(["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, str(root), *words])


@contextlib.contextmanager
def online(root: Path) -> Iterator[None]:
    """Programs in the root find name servers meanwhile."""
    resolv = root / "etc/resolv.conf"
    before = resolv.read_bytes() if resolv.is_file() else None
    resolv.unlink(missing_ok=True)
    shutil.copy("/etc/resolv.conf", resolv)
    try:
        yield
    finally:
        resolv.unlink()
        if before is not None:
            resolv.write_bytes(before)


@contextlib.contextmanager
def above(below: Path) -> Iterator[Path]:
    """A root of one's own, gone at the end. What is written in it lies over `below`, which stays as it is."""
    parent = Path(tempfile.mkdtemp(prefix="keyvaultfs-test-root-"))
    root, upper, work = (parent / name for name in ("root", "upper", "work"))
    try:
        for layer in (root, upper, work):
            layer.mkdir()
        do(
            [
                "mount",
                "-t",
                "overlay",
                "overlay",
                "-o",
                f"lowerdir={below},upperdir={upper},workdir={work}",
                str(root),
            ]
        )
        try:
            yield root
        finally:
            do(["umount", "--lazy", str(root)])
    finally:
        shutil.rmtree(parent, ignore_errors=True)
