"""What a user types wrong gives one line that names the thing and the mend."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.mount import KEYVAULTFS, environment, mounts_below, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.mount import Mount
    from tests.support.vault import VaultProcess

    Mounter = Callable[..., Mount]


def keyvaultfs(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    words = [*KEYVAULTFS, *(str(one) for one in arguments)]
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment() if env is None else env,
    )


def one_line(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["v" * 30, "{empty}"], ["vault name"]),
        (["http://myvault.vault.azure.net", "{empty}"], ["https://"]),
        (["https://example.com", "{empty}"], ["resource="]),
        (["https://myvault.vault.azure.net/secrets", "{empty}"], ["URL alone"]),
        (["https://my.managedhsm.azure.net", "{empty}"], ["keys only"]),
        (["https://my.privatelink.vaultcore.azure.net", "{empty}"], ["public name"]),
        (["myvault", "{empty}", "-o", "tll=5"], ["tll", "'ttl'"]),
        (["myvault", "{empty}", "-o", "ttl=soon"], ["ttl=soon", "seconds"]),
        (["myvault", "{empty}", "-o", "mode=0999"], ["mode", "octal"]),
        (["myvault", "{empty}", "-o", "uid=no-such-user"], ["uid", "user"]),
        (["myvault", "{empty}", "-o", "client_id=a,object_id=b"], ["exclude each other"]),
        (["myvault", "{empty}", "-o", "ca_file=/no/such/file"], ["ca_file", "file"]),
        (["myvault", "{empty}", "-o", "remount,rw"], ["remount"]),
        (["myvault", "{empty}", "-o", "run_as=no-such-user"], ["run_as"]),
        (["myvault"], ["mount point"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(
    arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    done = keyvaultfs("mount", *(word.format(empty=tmp_path) for word in arguments))
    one_line(done, 2, *words)
    assert mounts_below(tmp_path) == []


def test_a_mount_point_in_a_folder_that_was_removed_is_one_line_and_exit_status_1(tmp_path: Path) -> None:
    script = 'mkdir "$0" && cd "$0" && rmdir "$0" && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", script, tmp_path / "removed", *KEYVAULTFS, "mount", "myvault", "kv"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment(),
    )
    one_line(done, 1, "No such file or directory")


def test_a_mount_point_that_cannot_be_one_is_exit_status_1(vault: VaultProcess, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thing").write_text("x")
    for name, word in (("missing", "mkdir"), ("file", "not a directory"), ("full", "not empty")):
        done = keyvaultfs("mount", vault.url, tmp_path / name, "-o", vault.mount_options())
        one_line(done, 1, str(tmp_path / name), word)


def test_every_mistake_of_a_file_is_told_at_once_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "kv.toml"
    file.write_text('vault = "myvault"\nttl = "soon"\nmode = 400\nclinet_id = "x"\n')
    done = keyvaultfs("mount", "-o", f"config={file}")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert [f"{file}:{number}:" in line for number, line in zip((2, 3, 4), lines, strict=True)] == [True] * 3
    assert "'client_id'" in lines[2]


def test_a_certificate_that_nobody_vouches_for_is_told_and_heals_nothing(
    vault: VaultProcess, tmp_path: Path
) -> None:
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=other", "-keyout", tmp_path / "key",
        "-out", tmp_path / "ca.pem")  # fmt: skip
    where = tmp_path / "kv"
    where.mkdir()
    options = (
        f"imds_endpoint={vault.imds},resource={vault.resource},ca_file={tmp_path / 'ca.pem'},strict,timeout=3"
    )
    done = keyvaultfs("mount", vault.url, where, "-o", options)
    assert done.returncode == 1
    assert "CertificateError" in done.stderr
    assert mounts_below(tmp_path) == []


def test_in_the_background_mount_returns_when_the_file_system_answers(
    vault: VaultProcess, tmp_path: Path
) -> None:
    vault.set("pw", "x")
    where = tmp_path / "kv"
    where.mkdir()
    done = keyvaultfs("mount", vault.url, where, "-o", vault.mount_options())
    try:
        assert done.returncode == 0, done.stderr
        assert (where / "pw").read_text() == "x"
        shown = keyvaultfs("status", where)
        assert shown.stdout.startswith(f"{where} shows {vault.url}\n")
        assert keyvaultfs("refresh", where).stdout.startswith("forgot 1 values")
        source = next(
            line
            for line in Path("/proc/self/mountinfo").read_text(errors="replace").split("\n")
            if str(where) in line
        )
        # The file system is not read-only, this mount of it is.
        assert f"fuse.keyvaultfs {vault.url} " in source
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(source.split()[5].split(","))
    finally:
        run("umount", where)
    assert keyvaultfs("status", where).returncode == 1


def test_a_vault_out_of_reach_mounts_with_a_warning_and_strict_fails(
    vault: VaultProcess, tmp_path: Path
) -> None:
    vault.outage("vault")
    where = tmp_path / "kv"
    where.mkdir()
    strict = keyvaultfs(
        "mount", vault.url, where, "-o", vault.mount_options("strict", "timeout=2", "run_as=root")
    )
    one_line(strict, 1, "strict")
    assert mounts_below(tmp_path) == []
    done = keyvaultfs("mount", vault.url, where, "-o", vault.mount_options("timeout=2"))
    try:
        assert done.returncode == 0
        assert done.stderr
    finally:
        run("umount", where)


USER_STORY = """
set -e
mknod -m 666 {folder}/fuse c 10 229  # where /dev/fuse is root's alone, as in some containers
mount --bind {folder}/fuse /dev/fuse
as_user="setpriv --reuid=65534 --regid=65534 --clear-groups"
# The capability is for reading the interpreter, which may be in a folder of root's.
$as_user --inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search {command}
$as_user cat {where}/pw
$as_user stat -c ' %u %g %a' {where}/pw
$as_user fusermount3 -u {where}
"""


def test_a_user_mounts_by_way_of_fusermount3(vault: VaultProcess) -> None:
    vault.set("pw", "mine")
    with tempfile.TemporaryDirectory(prefix="keyvaultfs-user-") as name:
        folder, where = Path(name), Path(name) / "kv"
        folder.chmod(0o755)
        where.mkdir()
        os.chown(where, 65534, 65534)
        command = shlex.join([*KEYVAULTFS, "mount", vault.url, str(where), "-o", vault.mount_options()])
        story = USER_STORY.format(folder=folder, where=where, command=command)
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", story], capture_output=True, text=True, check=False, env=environment(),
            timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout == "mine 65534 65534 400\n"


def test_the_least_environment_is_enough(vault: VaultProcess, tmp_path: Path) -> None:
    """No PATH, no HOME, closed standard streams, an unprivileged worker, a private directory, another namespace."""
    vault.set("pw", "x")
    folder = Path(tempfile.mkdtemp(prefix="keyvaultfs-least-"))
    folder.chmod(0o755)
    where = folder / "kv"
    where.mkdir()
    options = vault.mount_options("run_as=nobody", "dir_mode=0700", "uid=4321")
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    env = {"PYTHONPATH": environment()["PYTHONPATH"]}
    try:
        command = [*closed, *KEYVAULTFS, "mount", vault.url, str(where), "-o", options]
        done = subprocess.run(command, check=False, env=env | {"PATH": os.environ["PATH"]}, timeout=60)
        assert done.returncode == 0
        reader = ["setpriv", "--reuid=4321", "--clear-groups", "cat", str(where / "pw")]
        assert run(*reader) == "x"
        assert run("unshare", "--mount", *reader) == "x"
        refused = subprocess.run(
            ["setpriv", "--reuid=4322", "--clear-groups", "cat", where / "pw"],
            capture_output=True,
            check=False,
        )
        assert refused.returncode != 0
    finally:
        subprocess.run(["umount", where], check=False, capture_output=True)
        where.rmdir()
        folder.rmdir()


def test_version_and_help_say_what_there_is() -> None:
    assert keyvaultfs("--version").stdout.startswith("keyvaultfs ")
    shown = keyvaultfs("mount", "--help").stdout
    for word in ("ttl=SECONDS", "max_stale", "default 300", "allow_http_loopback"):
        assert word in shown
    assert "resend" not in shown
    assert "--seed" in keyvaultfs("dev", "--help").stdout
    assert keyvaultfs("nonsense").returncode == 2


def test_without_fuse_the_line_says_what_is_missing(vault: VaultProcess, tmp_path: Path) -> None:
    where = tmp_path / "kv"
    where.mkdir()
    hide = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && exec "
    hide += shlex.join([*KEYVAULTFS, "mount", vault.url, str(where), "-o"]) + ' "$0"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hide, vault.mount_options()],
        capture_output=True, text=True, check=False, env=environment(), timeout=60,
    )  # fmt: skip
    one_line(done, 1, "/dev/fuse", "modprobe fuse")
