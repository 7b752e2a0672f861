"""Keeper and worker take nothing from who started them: no file, lock, session, keyring, limit or variable."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.mount import KEYVAULTFS, environment, links, mounts_below, run, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.vault import VaultProcess

    Started = Callable[..., "Background"]


class Background:
    """A mount that went into the background, and its two processes."""

    def __init__(self, where: Path) -> None:
        status = json.loads((where / ".keyvaultfs/status").read_text())
        self.where = where
        self.keeper: int = status["keeper"]
        self.worker: int = status["worker"]

    def each(self) -> tuple[int, int]:
        return self.keeper, self.worker


@pytest.fixture
def started(vault: VaultProcess, tmp_path: Path) -> Iterator[Started]:
    """Mounts in the background, by the installed command unless another is given."""
    vault.set("pw", "x")
    mounts: list[Path] = []

    def start(
        command: tuple[object, ...] = KEYVAULTFS,
        options: str = "",
        env: dict[str, str] | None = None,
        reads: bool = True,
        **kwargs: object,
    ) -> Background:
        where = tmp_path / f"kv{len(mounts)}"
        where.mkdir()
        mounts.append(where)
        text = vault.mount_options() + (f",{options}" if options else "")
        words = [str(word) for word in (*command, "mount", vault.url, where, "-o", text)]
        done = subprocess.run(
            words,
            check=False,
            stdin=subprocess.DEVNULL,
            env=environment() | (env or {}),
            timeout=60,
            **kwargs,
        )  # type: ignore[call-overload]
        assert done.returncode == 0
        assert not reads or (where / "pw").read_text() == "x"
        return Background(where)

    yield start
    for where in mounts:
        if str(where) in mounts_below(where):
            keeper = Background(where).keeper
            run("umount", where)
            wait_until(lambda keeper=keeper: not alive(keeper), "the keeper to end")  # type: ignore[misc]


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def variables(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/environ").read_bytes().decode()
    return dict(one.split("=", 1) for one in text.split("\0") if "=" in one)


def test_no_descriptor_or_lock_of_the_caller_is_kept(started: Started, tmp_path: Path) -> None:
    secret = tmp_path / "root's"
    secret.write_text("")
    secret.chmod(0o600)
    with secret.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        reading, writing = os.pipe()
        mount = started(pass_fds=[lock.fileno(), writing])
        os.close(writing)
    assert os.read(reading, 1) == b"", "the end of the pipe comes"
    os.close(reading)
    with secret.open() as again:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for pid in mount.each():
        assert not [link for link in links(pid) if str(tmp_path) in link]


ORDERS = {
    "SSLKEYLOGFILE": "/nonexistent/keys",
    "SSL_CERT_FILE": "/nonexistent/ca",
    "OPENSSL_CONF": "/nonexistent/conf",
    "REQUESTS_CA_BUNDLE": "/nonexistent/ca",
    "HTTPS_PROXY": "http://u:p@127.0.0.1:9",
    "all_proxy": "socks5://127.0.0.1:9",
    "PYTHONSTARTUP": "/nonexistent",
    "PYTHONWARNINGS": "error",
    "PYTHONMALLOC": "debug",
    "PYTHONUSERBASE": "/nonexistent",
    "LD_BIND_NOW": "1",
    "MALLOC_CHECK_": "3",
    "HOME": "/nonexistent",
    "TMPDIR": "/nonexistent",
    "SSH_AUTH_SOCK": "/nonexistent",
    "AZURE_CLIENT_SECRET": "p@ss",
}


def test_no_order_in_the_environment_reaches_them(started: Started) -> None:
    harmless = {"LANG": "C.UTF-8", "TZ": "UTC", "LC_TIME": "C"}
    mount = started(env=ORDERS | harmless)
    for pid in mount.each():
        found = {name for name in variables(pid) if not name.startswith("COVERAGE_")}
        assert found == {*harmless, "LC_ALL", "PATH"}


def test_status_says_how_the_worker_is_confined(started: Started) -> None:
    mount = started()
    said = json.loads((mount.where / ".keyvaultfs/status").read_text())["privileges"]
    kernel = Path(f"/proc/{mount.worker}/status").read_text()
    assert said["system_calls_filtered"] is ("Seccomp:\t2" in kernel)
    assert said["system_calls_filtered"]
    assert said["landlock"] >= 0


def test_no_tls_key_is_ever_logged(started: Started, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    started(env={"SSLKEYLOGFILE": str(keys)})
    assert not keys.exists()


@pytest.mark.parametrize("script", ["keyvaultfs", "mount.keyvaultfs"])
def test_the_commands_take_no_module_from_the_environment_or_the_folder(
    script: str, vault: VaultProcess, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    trap.mkdir()
    for name in ("trio", "requests", "json", "re", "argparse", "sitecustomize", "keyvaultfs"):
        (trap / f"{name}.py").write_text("raise SystemExit('trapped')\n")
    where = tmp_path / "kv"
    where.mkdir()
    command = Path(sysconfig.get_path("scripts")) / script  # Debian's pip puts them into /usr/local
    words = [command] if script == "mount.keyvaultfs" else [command, "mount"]
    for name, value in (
        ("PYTHONPATH", str(trap)),
        ("PYTHONHOME", "/nonexistent"),
        ("PYTHONINSPECT", "1"),
        ("PYTHONEXECUTABLE", "/nonexistent"),
        ("__PYVENV_LAUNCHER__", "/nonexistent"),
    ):
        done = subprocess.run(
            [*words, vault.url, where, "-o", vault.mount_options()],
            cwd=trap,
            env={"PATH": "/usr/bin:/bin", name: value},
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        keeper = Background(where).keeper
        run("umount", where)
        wait_until(lambda keeper=keeper: not alive(keeper), "the keeper to end")  # type: ignore[misc]


def test_the_session_the_folder_and_the_mask_are_their_own(started: Started, tmp_path: Path) -> None:
    mount = started(cwd=tmp_path, umask=0)
    for pid in mount.each():
        assert os.getsid(pid) != os.getsid(0)
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert "Umask:\t0077" in Path(f"/proc/{pid}/status").read_text()
    assert os.getsid(mount.worker) == mount.worker


def test_a_current_folder_that_was_removed_is_no_hindrance(started: Started, tmp_path: Path) -> None:
    folder = tmp_path / "removed"
    folder.mkdir()

    def remove() -> None:
        os.chdir(folder)
        folder.rmdir()

    started(preexec_fn=remove)


KEYRING = """
import ctypes, platform, subprocess, sys
libc = ctypes.CDLL(None)
base = 248 if platform.machine() == "x86_64" else 217  # add_key, request_key, keyctl
join, set_permissions, session = 1, 5, -3
assert libc.syscall(base + 2, join, None) > 0
key = libc.syscall(base, b"user", sys.argv[1].encode(), b"root's", 6, session)
assert key > 0
assert libc.syscall(base + 2, set_permissions, key, 0x3F3F0000) == 0
sys.exit(subprocess.call(sys.argv[2:]))
"""


def test_no_key_of_the_callers_session_is_kept(started: Started) -> None:
    """A key lives as long as some process has the session keyring that it is in."""
    name = f"keyvaultfs-test-{os.getpid()}"
    started(command=(sys.executable, "-c", KEYRING, name, *KEYVAULTFS))
    wait_until(lambda: name not in Path("/proc/keys").read_text(), "the end of the key")


@pytest.mark.parametrize("command", [(), ("nohup",)])
def test_limits_and_signals_of_the_caller_stop_nothing(command: tuple[str, ...], started: Started) -> None:
    def narrow() -> None:
        for kind, soft in (
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_NOFILE, 10),
            (resource.RLIMIT_CPU, 5),
        ):
            resource.setrlimit(kind, (soft, resource.getrlimit(kind)[1]))
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP])

    # The command itself would leave half of a compiled module behind.
    env = {"PYTHONDONTWRITEBYTECODE": "1"}
    mount = started(command=(*command, *KEYVAULTFS), env=env, preexec_fn=narrow)
    for pid in mount.each():
        for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_CPU):
            soft, hard = resource.prlimit(pid, kind)
            assert soft == hard or soft >= 65536
    os.kill(mount.keeper, signal.SIGHUP)
    wait_until(lambda: not alive(mount.worker), "another worker")
    assert (mount.where / "pw").read_text() == "x"
    os.kill(mount.keeper, signal.SIGTERM)
    wait_until(lambda: mounts_below(mount.where) == [], "the unmount")


@pytest.mark.parametrize(
    ("kind", "most", "word"),
    [
        (resource.RLIMIT_FSIZE, 0, "ulimit -f"),
        (resource.RLIMIT_FSIZE, 1000, "ulimit -f"),
        (resource.RLIMIT_NOFILE, 14, "ulimit -n"),
        (resource.RLIMIT_NOFILE, 20, "ulimit -n"),
    ],
)
def test_a_limit_that_may_not_be_raised_is_a_sentence(
    kind: int, most: int, word: str, vault: VaultProcess, tmp_path: Path
) -> None:
    """As in a container whose root lacks CAP_SYS_RESOURCE."""
    command = ["setpriv", "--inh-caps=-sys_resource", "--bounding-set=-sys_resource", *KEYVAULTFS, "mount"]
    done = subprocess.run(
        [*command, vault.url, tmp_path, "-o", vault.mount_options()],
        env=environment() | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(kind, (most, most)),
        timeout=60,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert word in done.stderr
    assert mounts_below(tmp_path) == []


def test_a_proxys_password_is_in_no_command_line(started: Started, tmp_path: Path) -> None:
    file = tmp_path / "proxy"
    file.write_text("http://user:p%40ssw0rd@127.0.0.1:9\n")
    mount = started(options=f"https_proxy=@{file}", reads=False)
    for pid in mount.each():
        for name in ("cmdline", "environ"):
            assert b"ssw0rd" not in Path(f"/proc/{pid}/{name}").read_bytes()
