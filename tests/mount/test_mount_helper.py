"""``mount.keyvaultfs``, called by mount(8) itself and in the ways that mount(8) calls it."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keyvaultfs.ipc import Launch
from keyvaultfs.keeper import mountinfo, mounting
from keyvaultfs.settings.options import Settings
from tests.support.mount import environment, mounts_below, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.vault import VaultProcess

HELPER = (sys.executable, "-m", "keyvaultfs.cli.mount_helper")
FSTAB_WORDS = (
    "_netdev,nofail,noauto,user,x-systemd.automount,x-systemd.requires=network-online.target,defaults"
)

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def folder() -> Iterator[Path]:
    """With an empty mount point ``kv``; not in one of pytest's own folders, which are root's alone."""
    made = Path(tempfile.mkdtemp(prefix="keyvaultfs-helper-"))
    made.chmod(0o755)
    (made / "kv").mkdir()
    try:
        yield made
        assert mounts_below(made) == [], "a mount was left behind"
    finally:
        subprocess.run(["umount", "--lazy", made / "kv"], check=False, capture_output=True)
        shutil.rmtree(made)


@pytest.fixture
def nobody_there() -> Iterator[str]:
    """The `-o` words of a vault of which no address answers: a port that is bound and does not listen."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        yield f"imds_endpoint=http://127.0.0.1:{port},resource=https://vault.azure.net,timeout=1"


def helper(*arguments: object) -> Done:
    return subprocess.run(
        [*HELPER, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment(),
    )


def one_line(done: Done, code: int, *words: str) -> None:
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
    for word in words:
        assert word in done.stderr


def umount(where: Path) -> None:
    done = subprocess.run(["umount", where], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def with_mount8(folder: Path, story: str, *lines: str) -> Done:
    """Run a story where mount(8) finds the helper by both types' names and `lines` are fstab.

    mount(8) looks for helpers in /sbin alone. The mount namespace hides this from the machine; the process namespace
    ends the keepers with the story, whatever became of it. `$kv` is the mount point.
    """
    sbin = folder / "sbin"
    sbin.mkdir()
    python = f"PYTHONPATH={shlex.quote(environment()['PYTHONPATH'])} exec {shlex.join(HELPER)}"
    for name in ("mount.keyvaultfs", "mount.fuse.keyvaultfs"):
        (sbin / name).write_text(f'#!/bin/sh\necho "$0 $*" >>{folder}/asked\n{python} "$@"\n')
        (sbin / name).chmod(0o755)
    (folder / "fstab").write_text("".join(f"{line}\n" for line in lines))
    begin = f"set -e\nkv={folder}/kv\nmount --bind {sbin} /sbin\nmount --bind {folder}/fstab /etc/fstab\n"
    return subprocess.run(
        [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("sh", "-c", begin + story),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment(),
    )


# --- by way of mount(8) ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["keyvaultfs", "fuse.keyvaultfs"])
def test_mount8_mounts_by_both_types(kind: str, vault: VaultProcess, folder: Path) -> None:
    vault.set("pw", "x")
    story = f"""
    mount -t {kind} -o ro,{vault.mount_options()} {vault.url} $kv
    cat $kv/pw
    grep -c ' fuse.keyvaultfs {vault.url} ' /proc/self/mountinfo
    umount $kv
    """
    done = with_mount8(folder, story)
    assert (done.returncode, done.stdout) == (0, "x1\n"), done.stderr
    assert (folder / "asked").read_text().startswith(f"/sbin/mount.{kind} {vault.url} {folder}/kv -o ro,")


@pytest.mark.parametrize("kind", ["keyvaultfs", "fuse.keyvaultfs"])
def test_mount_a_twice_mounts_once(kind: str, vault: VaultProcess, folder: Path) -> None:
    vault.set("pw", "x")
    line = f"{vault.url} {folder}/kv {kind} _netdev,nofail,{vault.mount_options()} 0 0"
    story = (
        'mount -a; mount -a; cat $kv/pw; grep -c " $kv .*fuse.keyvaultfs" /proc/self/mountinfo; umount $kv'
    )
    done = with_mount8(folder, story, line)
    assert (done.returncode, done.stdout) == (0, "x1\n"), done.stderr
    assert len((folder / "asked").read_text().splitlines()) == 1


def test_a_line_of_fstab_with_all_that_systemd_and_mount_know_is_mounted(
    vault: VaultProcess, folder: Path
) -> None:
    vault.set("pw", "x")
    line = f"{vault.url} {folder}/kv keyvaultfs {FSTAB_WORDS},ro,mode=0440,{vault.mount_options()} 0 0"
    done = with_mount8(folder, "mount $kv; stat -c %a $kv/pw; umount $kv", line)
    assert (done.returncode, done.stdout) == (0, "440\n"), done.stderr
    # What is said beside this is about the user keyvaultfs, which this machine need not have.
    assert "option" not in done.stderr


def test_what_mount8_asks_for_a_user_is_accepted(folder: Path) -> None:
    """mount(8) gives its privileges up for a line with ``user``; the helper then mounts by fusermount3."""
    line = f"myvault {folder}/kv keyvaultfs noauto,user,ttl=5 0 0"
    story = f"""
    printf '#!/bin/sh\\nid -u; echo "$@"\\n' >{folder}/sbin/mount.keyvaultfs
    setpriv --reuid=65534 --regid=65534 --clear-groups mount $kv
    """
    done = with_mount8(folder, story, line)
    assert done.returncode == 0, done.stderr
    who, asked = done.stdout.splitlines()
    assert who == "65534"
    assert "user" in asked.split()[-1].split(",")
    checked = helper(*asked.split(), "-f")
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("in_fstab", [True, False])
def test_a_remount_keeps_it_read_only(in_fstab: bool, vault: VaultProcess, folder: Path) -> None:
    vault.set("pw", "x")
    line = f"{vault.url} {folder}/kv keyvaultfs noauto,ttl=120,{vault.mount_options()} 0 0"
    story = f"""
    mount -t keyvaultfs -o ro,{vault.mount_options()} {vault.url} $kv
    mount -o remount,ro $kv
    ! mount -o remount,rw $kv
    cat $kv/pw
    umount $kv
    ! mount -t keyvaultfs -o remount,ro {vault.url} $kv
    """
    done = with_mount8(folder, story, *([line] if in_fstab else []))
    assert (done.returncode, done.stdout) == (0, "x"), done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("mount.keyvaultfs: ")]
    told, refused, missing = said if in_fstab else ["", *said]
    assert "remount leaves ttl, " in told or not in_fstab
    assert "stays read-only" in refused
    assert "not a keyvaultfs mount" in missing


def test_a_mount_in_another_namespace_is_seen_there_alone(vault: VaultProcess, folder: Path) -> None:
    vault.set("pw", "x")
    story = f"""
    unshare --mount sleep 60 &
    until [ "$(readlink /proc/$!/ns/mnt)" != "$(readlink /proc/$$/ns/mnt)" ] && grep -qx sleep /proc/$!/comm
    do :; done
    mount -N $! -t keyvaultfs -o ro,{vault.mount_options()} {vault.url} $kv
    nsenter --target $! --mount cat $kv/pw
    ls -A $kv
    nsenter --target $! --mount umount $kv
    kill $!
    """
    done = with_mount8(folder, story)
    assert (done.returncode, done.stdout) == (0, "x"), done.stderr
    assert " -N /proc/" in (folder / "asked").read_text()


def test_a_namespace_of_a_users_own_is_not_entered(vault: VaultProcess, folder: Path) -> None:
    """Its Python would be root's: whoever made it has put there what he likes."""
    story = f"""
    unshare --user --map-root-user --mount sleep 60 &
    until [ "$(readlink /proc/$!/ns/mnt)" != "$(readlink /proc/$$/ns/mnt)" ] && grep -qx sleep /proc/$!/comm
    do :; done
    mount -N $! -t keyvaultfs -o ro,{vault.mount_options()} {vault.url} $kv || echo $?
    kill $!
    """
    done = with_mount8(folder, story)
    assert done.stdout == "1\n"
    assert "another user namespace" in done.stderr


# --- in the ways that mount(8) calls it ------------------------------------------------------------------


def test_it_returns_when_the_mount_answers(vault: VaultProcess, folder: Path) -> None:
    vault.set("pw", "x")
    done = helper(vault.url, folder / "kv", "-o", vault.mount_options("ro", "run_as=root"))
    assert (folder / "kv/pw").read_text() == "x"
    umount(folder / "kv")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("which", ["vault", "both"])
def test_it_mounts_while_nobody_answers_and_heals(which: str, vault: VaultProcess, folder: Path) -> None:
    vault.set("pw", "x")
    vault.outage(which)
    options = vault.mount_options("ro", "run_as=root", "timeout=2")
    one_line(
        helper(vault.url, folder / "kv", "-o", options), 0, "mounted, but the vault cannot be read yet: "
    )
    with pytest.raises(OSError, match=r"Input/output error|timed out"):
        (folder / "kv/pw").read_text()
    vault.clear_faults()

    def heals() -> bool:
        with contextlib.suppress(OSError):
            return (folder / "kv/pw").read_text() == "x"
        return False

    wait_until(heals, "the mount to heal")
    umount(folder / "kv")


def test_a_failed_mount_is_exit_status_32(vault: VaultProcess, folder: Path) -> None:
    (folder / "file").touch()
    for name, word in (("missing", "mkdir"), ("file", "not a directory"), (".", "not empty")):
        one_line(helper(vault.url, folder / name, "-o", vault.mount_options()), 32, word)


def test_strict_fails_with_32_when_nobody_answers(nobody_there: str, folder: Path) -> None:
    done = helper("https://127.0.0.1:1", folder / "kv", "-o", f"{nobody_there},strict,run_as=root")
    one_line(done, 32, "strict")


def test_what_is_mounted_already_fails_with_32_and_names_who(nobody_there: str, folder: Path) -> None:
    command = ("https://127.0.0.1:1", folder / "kv", "-o", nobody_there)
    assert helper(*command).returncode == 0
    again = helper(*command)
    umount(folder / "kv")
    one_line(again, 32, "mounted already", "process")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["myvault", "{kv}", "-o", "tll=5"], ["'tll'", "'ttl'"]),
        (["myvault", "{kv}", "-o", "_netdv"], ["'_netdv'", "'_netdev'"]),
        (["myvault", "{kv}", "-o", "ttl=soon"], ["ttl=soon", "seconds"]),
        (["http://myvault.vault.azure.net", "{kv}"], ["https://"]),
        (["myvault", "{kv}", "-N", "/no/such/namespace"], ["-N /no/such/namespace"]),
        (["myvault", "{kv}", "-N", "/dev/null"], ["-N /dev/null"]),
        (["myvault", "{kv}", "-o", "remount,ro,tll=5"], ["'tll'", "'ttl'"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_1(
    arguments: list[str], words: list[str], folder: Path
) -> None:
    one_line(helper(*(word.format(kv=folder / "kv") for word in arguments)), 1, *words)


@pytest.mark.parametrize(
    "arguments", [[], ["myvault"], ["myvault", "/mnt", "/mnt"], ["-q", "myvault", "/mnt"]]
)
def test_a_wrong_call_shows_how_and_is_exit_status_1(arguments: list[str]) -> None:
    done = helper(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("usage: mount.keyvaultfs ")


def test_sloppy_ignores_what_nobody_knows_and_nothing_else(folder: Path) -> None:
    call = ("myvault", folder / "kv", "-sfn", "-o")
    assert helper(*call, "tll=5,ttl=5,client_id=a\\,b").returncode == 0
    one_line(helper(*call, "tll=5,ttl=soon"), 1, "ttl=soon")


def test_fake_checks_everything_and_mounts_nothing(folder: Path) -> None:
    done = helper("-fv", "myvault", folder / "kv", "-o", "ro,ttl=5")
    assert (done.returncode, mounts_below(folder)) == (0, [])
    one_line(done, 0, f"myvault on {folder}/kv")
    one_line(helper("-f", "myvault", folder / "kv", "-o", "mode=0999"), 1, "octal")


def test_generic_options_are_accepted(folder: Path) -> None:
    more = (
        "users,owner,group,ro,nosuid,nodev,noexec,relatime,comment=x,x-gvfs-show,X-mount.mkdir,_rnetdev,auto"
    )
    done = helper(
        "myvault", folder / "kv", "-f", "-n", "-t", "fuse.keyvaultfs", "-o", f"{FSTAB_WORDS},{more}"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_rw_mounts_read_only_with_a_note(nobody_there: str, folder: Path) -> None:
    done = helper("https://127.0.0.1:1", folder / "kv", "-o", f"rw,{nobody_there}")
    (there,) = (one for one in mountinfo.table() if one.mountpoint == str(folder / "kv"))
    flags = os.statvfs(folder / "kv").f_flag
    umount(folder / "kv")
    assert (done.returncode, there.fstype) == (0, "fuse.keyvaultfs")
    assert flags & os.ST_RDONLY
    assert "mount.keyvaultfs: mounted read-only" in done.stderr


def test_the_least_environment_is_enough(vault: VaultProcess, folder: Path) -> None:
    """As an init may call it: no PATH, no HOME, no standard streams, and something to say."""
    vault.set("pw", "x")
    program = folder / "mount.keyvaultfs"
    paths = os.pathsep.join(path for path in sys.path if path)
    program.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(paths)} exec {shlex.join(HELPER)} "$@"\n')
    program.chmod(0o755)
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", "/usr/bin/env", "-i", str(program)]
    call = [*closed, vault.url, str(folder / "kv"), "-o", vault.mount_options("rw")]
    done = subprocess.run(call, check=False, timeout=60)
    assert done.returncode == 0
    assert (folder / "kv/pw").read_text() == "x"
    umount(folder / "kv")
    assert subprocess.run([*closed, "myvault", folder / "kv", "-o", "tll=5"], check=False).returncode == 1


def test_a_full_disk_under_its_words_fails_no_mount(folder: Path) -> None:
    with Path("/dev/full").open("w") as full:
        call = [*HELPER, "-f", "myvault", str(folder / "kv"), "-o", "rw"]
        assert subprocess.run(call, check=False, stderr=full, env=environment()).returncode == 0


# --- SELinux ---------------------------------------------------------------------------------------------


def test_contexts_reach_the_kernel(nobody_there: str, folder: Path) -> None:
    """A kernel without SELinux refuses the word, which it could not had it not been told."""
    options = f'{nobody_there},run_as=root,ro,context="system_u:object_r:tmp_t:s0:c1,c2"'
    done = helper("https://127.0.0.1:1", folder / "kv", "-o", options)
    if Path("/sys/fs/selinux").is_dir():
        table = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        umount(folder / "kv")
        (line,) = (line for line in table if str(folder / "kv") in line)
        assert "context=" in line
    else:
        one_line(done, 32, "Invalid argument", "SELinux", "context=system_u:object_r:tmp_t:s0:c1,c2")


def test_contexts_are_quoted_as_the_kernel_wants_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A context has commas, at which the kernel would split it (SELinux's selinux_sb_eat_lsm_opts)."""
    told: list[str] = []

    class Libc:
        def mount(self, *arguments: bytes | int) -> int:
            told.append(bytes(arguments[4]).decode())
            return 0

    monkeypatch.setattr(mounting, "_libc", Libc())
    generic = ("context=a:b:c:s0:c1,c2", "rootcontext=d:e:f")
    launch = Launch(vault="v-1", mountpoint=str(tmp_path), source="v-1", generic=generic)
    os.close(mounting.mount(launch, Settings(rename=False)).device)
    assert told[0].endswith(',context="a:b:c:s0:c1,c2",rootcontext="d:e:f"')


# --- a vault's name that is also a file's ----------------------------------------------------------------


def test_mount8_finds_a_vault_whose_name_is_also_a_folders(folder: Path) -> None:
    """mount(8) makes a path of the source when there is one; the helper makes the name of it again."""
    story = f"""
    cd {folder}
    mkdir mytestkeyvault
    mount -t keyvaultfs -o run_as=root,timeout=1,imds_endpoint=http://127.0.0.1:1 mytestkeyvault $kv
    grep -c ' - fuse.keyvaultfs mytestkeyvault ' /proc/self/mountinfo
    umount $kv
    """
    done = with_mount8(folder, story)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert f" {folder}/mytestkeyvault " in (folder / "asked").read_text()


@pytest.mark.parametrize("name", ["elsewhere/my-vault", "link", "my.vault"])
def test_a_path_that_may_mean_another_vault_is_a_sentence(name: str, folder: Path) -> None:
    """A link's name is lost when mount(8) has followed it."""
    (folder / "elsewhere/my-vault").mkdir(parents=True)
    (folder / "target").mkdir()
    (folder / "my.vault").mkdir()
    (folder / "link").symlink_to("target")
    story = f"""
    cd {folder}
    ! mount -t keyvaultfs {name} $kv
    """
    done = with_mount8(folder, story)
    assert done.returncode == 0, done.stderr
    assert f"{(folder / name).resolve()} is no vault" in done.stderr
    assert "write the URL" in done.stderr
