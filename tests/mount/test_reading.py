"""Real programs read a real mount."""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import shlex
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.support.mount import KEYVAULTFS, PATIENCE, clear_read_only, run, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.mount import Mount
    from tests.support.vault import VaultProcess

    Mounter = Callable[..., Mount]

BIG = "".join(f"{number:07d}\n" for number in range(3125))
VALUES = {
    "MyTestSecret": "p@ssw0rd!",
    "lines": "first\nsecond\n\n",
    "big": BIG,
    "unicode": "Grüße, мир, 世界 \U0001f511",
    "empty": "",
    "crlf": "a\r\nb\r\n",
}

NOT_CHECKED_MEANWHILE = ("ttl=86400", "announce=no")
"""What is in use is checked anew in rounds, the first of which is at a random moment of the first ttl."""


@pytest.fixture
def filled(vault: VaultProcess) -> VaultProcess:
    vault.bulk([{"name": name, "value": value} for name, value in VALUES.items()])
    return vault


@pytest.fixture
def kv(filled: VaultProcess, mount: Mounter) -> Mount:
    assert filled.url
    return mount()


def test_cat_prints_a_secret_byte_for_byte(kv: Mount) -> None:
    for name, value in VALUES.items():
        assert run("cat", kv / name) == value


def test_a_legacy_program_gets_the_size_before_it_reads(kv: Mount) -> None:
    for name, value in VALUES.items():
        assert (kv / name).stat().st_size == len(value.encode())


def test_ls_lists_the_vault_in_its_own_spelling(kv: Mount) -> None:
    assert run("ls", "-1", kv.where).splitlines() == sorted(VALUES)


def test_copying_programs_copy_everything(kv: Mount, tmp_path: Path) -> None:
    run("cp", "-r", kv.where, tmp_path / "copied")
    run("rsync", "-a", f"{kv.where}/", tmp_path / "synced")
    run("tar", "-cf", tmp_path / "kv.tar", "-C", kv.where, ".")
    (tmp_path / "untarred").mkdir()
    run("tar", "-xf", tmp_path / "kv.tar", "-C", tmp_path / "untarred")
    for folder in ("copied", "synced", "untarred"):
        copied = {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
        assert copied == {name: value.encode() for name, value in VALUES.items()}, folder


def test_searching_programs_find_what_is_there(kv: Mount) -> None:
    found = run("find", kv.where, "-type", "f", "-size", "-20c", "-name", "My*")
    assert found.strip() == str(kv / "MyTestSecret")
    assert run("grep", "-rl", "second", kv.where).strip() == str(kv / "lines")
    assert ".keyvaultfs" not in run("find", kv.where)


def test_checksums_are_those_of_the_values(kv: Mount) -> None:
    lines = run("sha256sum", *(kv / name for name in VALUES)).splitlines()
    assert [line.split()[0] for line in lines] == [
        hashlib.sha256(value.encode()).hexdigest() for value in VALUES.values()
    ]


def test_reads_reach_any_offset(kv: Mount) -> None:
    assert (
        run("dd", f"if={kv / 'big'}", "bs=8", "skip=3000", "count=2", "status=none") == "0003000\n0003001\n"
    )
    with (kv / "big").open("rb") as file:
        assert os.pread(file.fileno(), 100, 24_990) == BIG.encode()[24_990:]
        assert os.pread(file.fileno(), 100, 25_000) == b""
        assert os.pread(file.fileno(), 100, 1 << 40) == b""


def test_mmap_shows_the_value(kv: Mount) -> None:
    with (kv / "big").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        assert view[:] == BIG.encode()


def test_openssl_reads_a_key_and_its_certificate(vault: VaultProcess, mount: Mounter, tmp_path: Path) -> None:
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=kv", "-keyout", tmp_path / "key",
        "-out", tmp_path / "cert")  # fmt: skip
    vault.set("tls-key", (tmp_path / "key").read_text())
    vault.set("tls-cert", (tmp_path / "cert").read_text())
    kv = mount()
    of_key = run("openssl", "pkey", "-in", kv / "tls-key", "-pubout")
    assert of_key == run("openssl", "x509", "-in", kv / "tls-cert", "-noout", "-pubkey")


def test_attributes_are_those_of_a_credential_file(filled: VaultProcess, mount: Mounter) -> None:
    filled.set("dated", "x", created=1_700_000_000, updated=1_700_000_500)
    kv = mount("uid=1234", "gid=2345", "mode=0440", "dir_mode=0750")
    found = (kv / "dated").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777, found.st_nlink) == (1234, 2345, 0o440, 1)
    assert (found.st_mtime, found.st_ctime, found.st_blocks) == (1_700_000_000, 1_700_000_500, 1)
    root = kv.where.stat()
    assert (root.st_mode & 0o7777, root.st_nlink) == (0o750, 1)


def test_the_kernel_enforces_owner_and_mode(kv: Mount) -> None:
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", kv / "MyTestSecret"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "Permission denied" in done.stderr


def test_extended_attributes_tell_what_the_vault_knows(vault: VaultProcess, mount: Mounter) -> None:
    version = vault.set(
        "tagged", "x", content_type="text/plain", tags={"owner": "zoë"}, created=1_700_000_000, updated=1_700_000_000,
        exp=1_800_000_000, nbf=1_600_000_000,
    )  # fmt: skip
    kv = mount()
    path = kv / "tagged"
    age = os.getxattr(path, "user.keyvault.age")
    assert 0 <= float(age) < 60
    assert len(age) == 10
    wanted = {
        "user.keyvault.version": version,
        "user.keyvault.id": f"{vault.url}/secrets/tagged/{version}",
        "user.keyvault.enabled": "true",
        "user.keyvault.content-type": "text/plain",
        "user.keyvault.tags": '{"owner": "zoë"}',
        "user.keyvault.created": "2023-11-14T22:13:20Z",
        "user.keyvault.updated": "2023-11-14T22:13:20Z",
        "user.keyvault.expires": "2027-01-15T08:00:00Z",
        "user.keyvault.not-before": "2020-09-13T12:26:40Z",
        "user.keyvault.state": "fresh",
    }
    assert {name: os.getxattr(path, name).decode() for name in wanted} == wanted
    assert os.listxattr(path) == []
    with pytest.raises(OSError, match="No data") as caught:
        os.getxattr(path, "user.keyvault.nothing")
    assert caught.value.errno == errno.ENODATA


def test_a_long_listing_asks_for_no_access_control_list_of_each_file(
    vault: VaultProcess, mount: Mounter
) -> None:
    names = vault.made_up(50)
    kv = mount()
    for attribute in ("system.posix_acl_access", "security.keyvaultfs", "trusted.keyvaultfs"):
        for path in (kv.where, kv / names[0]):
            with pytest.raises(OSError, match="not supported") as caught:
                os.getxattr(path, attribute)
            assert caught.value.errno == errno.ENOTSUP
    before = kv.metric("filesystem_requests", "getxattr")
    done = subprocess.run(["ls", "-l", kv.where], capture_output=True, text=True, check=True)
    assert done.stdout.count("\n-r--------") == len(names)
    assert kv.metric("filesystem_requests", "getxattr") - before < 5
    assert os.getxattr(kv / names[0], "user.keyvault.state") == b"fresh"


@pytest.mark.parametrize(
    "command",
    [
        "cp --archive {source}/. {target}/cp",
        "tar --create --acls --selinux --xattrs --file={target}/tar --directory={source} .",
        "rsync --archive --acls {source}/ {target}/rsync",
    ],
)
def test_copies_that_take_attributes_along_complain_of_nothing(
    kv: Mount, tmp_path: Path, command: str
) -> None:
    words = shlex.split(command.format(source=kv.where, target=tmp_path))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_copies_fit_into_any_target_however_many_tags_there_are(
    vault: VaultProcess, mount: Mounter, tmp_path: Path
) -> None:
    """ext4 keeps all attributes of a file in one block; the vault allows 15 tags of 512 + 256 characters."""
    vault.set("tagged", "x", tags={f"tag-{number}": "v" * 240 for number in range(15)})
    kv = mount()
    image = tmp_path / "ext4"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    run("mkfs.ext4", "-q", image)
    (target := tmp_path / "target").mkdir()
    run("mount", "-o", "loop", image, target)
    try:
        for command in (
            ("cp", "--preserve=all", kv / "tagged", target / "cp"),
            ("rsync", "-aX", f"{kv.where}/", target / "rsync"),
            (
                "python3",
                "-c",
                "import shutil, sys; shutil.copy2(*sys.argv[1:])",
                kv / "tagged",
                target / "copy2",
            ),
            ("getfattr", "-d", "-m-", kv / "tagged"),
        ):
            assert run(*command) == "", command
        assert {path.read_text() for path in target.glob("**/tagged")} == {"x"}
        shown = run(
            "getfattr", "--absolute-names", "--only-values", "-n", "user.keyvault.tags", kv / "tagged"
        )
        assert json.loads(shown) == {f"tag-{number}": "v" * 240 for number in range(15)}
    finally:
        run("umount", target)


def test_df_lists_it_with_what_is_known(kv: Mount) -> None:
    assert str(kv.where) in run("df", "-h")
    assert (kv / "big").read_text() == BIG
    assert len(os.listdir(kv.where)) == len(VALUES)
    found = os.statvfs(kv.where)
    assert found.f_blocks * found.f_frsize >= len(BIG)
    assert (found.f_bavail, found.f_files) == (0, 1 + len(VALUES))


def test_a_name_that_no_secret_can_have_costs_no_request(kv: Mount, vault: VaultProcess) -> None:
    vault.reset_requests()
    for name in (".git", ".Trash", "foo.txt", "under_score", "x" * 128, "ä"):
        with pytest.raises(FileNotFoundError):
            (kv / name).read_bytes()
    # The listing is read of itself now and then, to announce what changes.
    assert [one for one in vault.requests() if one["had_token"] and one["op"] != "list"] == []


def test_case_does_not_matter_and_opens_the_same_inode(kv: Mount) -> None:
    inode = (kv / "MyTestSecret").stat().st_ino
    assert (kv / "mytestSECRET").stat().st_ino == inode
    assert (kv / "mytestsecret").read_text() == "p@ssw0rd!"


def test_inode_numbers_are_the_same_after_a_remount(filled: VaultProcess, mount: Mounter) -> None:
    first, second = mount(), mount()
    numbers = [[(one / name).stat().st_ino for name in VALUES] for one in (first, second)]
    assert numbers[0] == numbers[1]
    assert len(set(numbers[0])) == len(VALUES)


def test_a_missing_secret_is_enoent_and_appears_within_negative_ttl(
    vault: VaultProcess, mount: Mounter
) -> None:
    kv = mount("negative_ttl=1")
    with pytest.raises(FileNotFoundError):
        (kv / "later").read_text()
    vault.set("later", "here")
    kv.wait_for("later", "here")


def test_every_write_is_refused_as_on_a_read_only_file_system(kv: Mount) -> None:
    path = kv / "MyTestSecret"
    attempts: list[Callable[[], object]] = [
        lambda: path.open("w"),
        lambda: path.open("a"),
        lambda: path.unlink(),
        lambda: path.rename(kv / "other"),
        lambda: path.chmod(0o600),
        lambda: os.truncate(path, 0),
        lambda: os.utime(path),
        lambda: (kv / "new").touch(),
        lambda: (kv / "folder").mkdir(),
        lambda: (kv / "link").symlink_to("x"),
        lambda: os.setxattr(path, "user.x", b"y"),
    ]
    for attempt in attempts:
        with pytest.raises(OSError, match="Read-only") as caught:
            attempt()
        assert caught.value.errno == errno.EROFS
    # Root can clear the kernel's flags, of the file system and of this mount; the handlers refuse all the same.
    clear_read_only(kv.where)
    for attempt in (attempts[0], attempts[2], attempts[7]):
        with pytest.raises(OSError, match="Read-only"):
            attempt()


def test_a_plain_ls_fetches_no_value(filled: VaultProcess, mount: Mounter, vault: VaultProcess) -> None:
    kv = mount("announce=no")  # else the folder is listed for its watchers too, at a random moment
    vault.reset_requests()
    run("ls", kv.where)
    run("find", kv.where, "-name", "*")
    assert vault.requests("get") == []
    assert len([one for one in vault.requests("list") if one["had_token"]]) == 1


def test_repeated_reads_cost_no_request_and_reach_not_even_the_daemon(
    filled: VaultProcess, mount: Mounter, vault: VaultProcess
) -> None:
    kv = mount(*NOT_CHECKED_MEANWHILE)
    (kv / "MyTestSecret").read_text()
    before = {kind: kv.metric("filesystem_requests", kind) for kind in ("lookup", "read", "getattr", "flush")}
    vault.reset_requests()
    for _ in range(200):
        assert (kv / "MyTestSecret").read_text() == "p@ssw0rd!"
        assert (kv / "MyTestSecret").stat().st_size == 9
    assert [one for one in vault.requests() if one["had_token"]] == []
    more = {kind: kv.metric("filesystem_requests", kind) - before[kind] for kind in before}
    # The metrics' own file is read past the page cache, twice for each look at it, and the kernel asks for its times.
    # And it may drop its caches meanwhile, for lack of memory or since somebody says so.
    assert more.pop("flush") == 0
    assert max(more.values()) < 20


def test_64_readers_of_one_cold_secret_cause_one_get_and_one_token_request(
    vault: VaultProcess, mount: Mounter
) -> None:
    vault.set("cold", "value")
    vault.fault(op="get", latency=0.3)
    kv = mount(*NOT_CHECKED_MEANWHILE)
    vault.reset_requests()
    with ThreadPoolExecutor(64) as pool:
        values = list(pool.map(lambda _: (kv / "cold").read_text(), range(64)))
    assert values == ["value"] * 64
    assert len(vault.requests("get")) == 1
    assert len(vault.requests(kind="imds")) <= 1


def test_every_page_of_a_long_listing_is_shown_once(vault: VaultProcess, mount: Mounter) -> None:
    names = vault.made_up(260)
    kv = mount()
    assert sorted(os.listdir(kv.where)) == sorted(names)


def test_a_cold_ls_l_shows_every_size(vault: VaultProcess, mount: Mounter) -> None:
    names = vault.made_up(120, size=33)
    kv = mount()
    lines = run("ls", "-l", kv.where).splitlines()[1:]
    assert [line.split()[-1] for line in lines] == sorted(names)
    assert {line.split()[4] for line in lines} == {"33"}


def test_a_disabled_secret_is_eacces_and_an_expired_one_is_served(
    vault: VaultProcess, mount: Mounter
) -> None:
    vault.set("off", "secret", enabled=False)
    vault.set("expired", "old", exp=1_600_000_000)
    vault.set("early", "new", nbf=4_000_000_000)
    kv = mount()
    assert os.listdir(kv.where) == ["early", "expired"]
    found = (kv / "off").stat()
    assert (found.st_size, stat.filemode(found.st_mode), found.st_nlink) == (0, "-r--------", 1)
    assert os.getxattr(kv / "off", "user.keyvault.state") == b"refused"
    with pytest.raises(PermissionError):
        (kv / "off").read_text()
    assert (kv / "expired").read_text() == "old"
    assert (kv / "early").read_text() == "new"


def test_whoever_walks_the_directory_does_not_stumble_over_what_cannot_be_read(
    vault: VaultProcess, mount: Mounter, tmp_path: Path
) -> None:
    vault.set("on", "readable")
    vault.set("off", "secret")
    kv = mount("negative_ttl=1", "ttl=2", "list_ttl=1")
    assert (kv / "off").read_text() == "secret"
    vault.disable("off")
    wait_until(lambda: os.listdir(kv.where) == ["on"], "the listing without it")
    for command in (
        ("ls", "-l", kv.where),
        ("du", "-a", kv.where),
        ("rsync", "-a", f"{kv.where}/", tmp_path / "synced"),
        ("find", kv.where, "-ls"),
        ("tar", "-cf", tmp_path / "kv.tar", "-C", kv.where, "."),
        ("test", "-e", kv / "off"),
    ):
        run(*command)
    run("sh", "-c", 'test -e "$0" && ! cat "$0"', kv / "off")
    vault.enable("off")
    kv.wait_for("off", "secret")
    assert (kv / "off").stat().st_size == 6
    wait_until(lambda: os.listdir(kv.where) == ["off", "on"], "the listing with it")


def test_with_list_alone_all_is_shown_and_nothing_can_be_read(
    vault: VaultProcess, mount: Mounter, tmp_path: Path
) -> None:
    names = vault.made_up(30, size=33)
    vault.fault(op="get", status=403, code="Forbidden", inner_code="ForbiddenByRbac")
    kv = mount()
    lines = run("ls", "-l", kv.where).splitlines()[1:]
    assert [(line.split()[4], line.split()[-1]) for line in lines] == [("0", name) for name in names]
    for name in names:
        with pytest.raises(PermissionError):
            (kv / name).read_bytes()
    run("du", "-a", kv.where)
    copied = subprocess.run(
        ["rsync", "-a", f"{kv.where}/", tmp_path / "copy"], capture_output=True, check=False
    )
    assert copied.returncode == 23, "rsync's exit status for a copy in part"


def test_a_version_that_cannot_be_read_is_there_by_its_name_and_not_listed(
    vault: VaultProcess, mount: Mounter
) -> None:
    version = vault.set("off", "secret", enabled=False)
    kv = mount("negative_ttl=1")
    folder = kv / ".keyvaultfs/versions/off"
    assert os.listdir(folder) == []
    assert (folder / version).stat().st_size == 0
    with pytest.raises(PermissionError):
        (folder / version).read_bytes()
    vault.enable("off")
    kv.wait_for(f".keyvaultfs/versions/off/{version}", "secret")
    assert (folder / version).stat().st_size == 6


def test_what_was_open_before_it_was_disabled_goes_on(vault: VaultProcess, mount: Mounter) -> None:
    vault.set("pw", "secret")
    kv = mount("negative_ttl=1", "ttl=1")
    with (kv / "pw").open() as before:
        vault.disable("pw")
        wait_until(lambda: (kv / "pw").stat().st_size == 0, "the refusal")
        assert before.read() == "secret"
        assert os.fstat(before.fileno()).st_size == 6


def test_pid_1_gets_a_cold_secret_from_a_slow_vault(vault: VaultProcess, tmp_path: Path) -> None:
    """systemd itself reads the EnvironmentFile= of a unit."""
    vault.set("pw", "NAME=value")
    vault.fault(op="get", latency=0.8)
    (tmp_path / "kv").mkdir()
    story = """
    mount --make-rprivate / && "$@" && exec cat "$0/pw"
    """
    command = (*KEYVAULTFS, "mount", vault.url, tmp_path / "kv", "-o", vault.mount_options("run_as=root"))
    space = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    assert run(*space, "sh", "-c", story, tmp_path / "kv", *command) == "NAME=value"


def test_with_get_alone_files_can_be_read_and_ls_is_refused(filled: VaultProcess, mount: Mounter) -> None:
    filled.fault(op="list", status=403, code="Forbidden", inner_code="ForbiddenByRbac")
    kv = mount()
    assert (kv / "MyTestSecret").read_text() == "p@ssw0rd!"
    with pytest.raises(PermissionError):
        os.listdir(kv.where)


def test_include_and_exclude_narrow_the_mount(vault: VaultProcess, mount: Mounter) -> None:
    vault.bulk([{"name": name, "value": "x"} for name in ("pg-a", "pg-b", "app-c", "other")])
    kv = mount("include=pg-*:app-*", "exclude=PG-B")
    assert sorted(os.listdir(kv.where)) == ["app-c", "pg-a"]
    with pytest.raises(FileNotFoundError):
        (kv / "other").read_text()


def test_decode_gives_back_the_bytes_that_were_uploaded(vault: VaultProcess, mount: Mounter) -> None:
    vault.set("b64", "AAEC\n/w==\n", tags={"file-encoding": "base64"})
    vault.set("hex", "0001ff", tags={"file-encoding": "hex"})
    vault.set("never-encoded", "plain!", tags={"file-encoding": "base64"})
    decoded, raw = mount("decode"), mount()
    assert (decoded / "b64").read_bytes() == b"\x00\x01\x02\xff"
    assert (decoded / "b64").stat().st_size == 4
    assert (decoded / "hex").read_bytes() == b"\x00\x01\xff"
    assert (decoded / "never-encoded").read_bytes() == b"plain!"
    decoded.says("never-encoded")
    assert (raw / "b64").read_bytes() == b"AAEC\n/w==\n"


def test_versions_can_be_read_by_their_id(vault: VaultProcess, mount: Mounter) -> None:
    first = vault.set("pw", "one")
    second = vault.set("pw", "second")
    kv = mount()
    folder = kv / ".keyvaultfs/versions/pw"
    assert sorted(os.listdir(folder)) == sorted([first, second])
    assert (folder / first).read_text() == "one"
    assert (folder / second).read_text() == "second"
    assert (folder / second).stat().st_ino != (kv / "pw").stat().st_ino
    with pytest.raises(FileNotFoundError):
        (folder / ("0" * 32)).read_text()


def test_a_version_by_its_id_is_one_get_and_needs_no_permission_to_list(
    vault: VaultProcess, mount: Mounter
) -> None:
    first = vault.set("pw", "one")
    vault.set("pw", "second", enabled=False)
    vault.set("hidden", "x")
    vault.fault(op=["list", "versions"], deny="rbac")
    kv = mount("exclude=hidden", "announce=no")
    vault.reset_requests()
    path = kv / ".keyvaultfs/versions/pw" / first
    assert run("cat", path) == "one"
    assert path.stat().st_size == 3
    asked = [(one["op"], one["version"]) for one in vault.requests(kind="vault") if one["had_token"]]
    assert asked == [("version", first)]
    for other in (path.with_name("0" * 32), path.with_name("latest"), path.with_name(first.upper())):
        with pytest.raises(FileNotFoundError):
            other.read_text()
    hidden = vault.describe("hidden")["current"]
    with pytest.raises(FileNotFoundError):
        (kv / ".keyvaultfs/versions/hidden" / hidden).read_text()


def test_the_control_directory_is_hidden_and_for_the_owner_alone(kv: Mount) -> None:
    assert ".keyvaultfs" not in os.listdir(kv.where)
    assert sorted(os.listdir(kv / ".keyvaultfs")) == ["metrics", "readers", "refresh", "status", "versions"]
    assert (kv / ".keyvaultfs").stat().st_mode & 0o777 == 0o500
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "cat", kv / ".keyvaultfs/status"],
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0
    assert (kv / ".keyvaultfs/metrics").read_text().endswith("# EOF\n")


def test_refresh_forgets_what_is_cached(vault: VaultProcess, mount: Mounter) -> None:
    vault.set("pw", "old")
    kv = mount()
    assert (kv / "pw").read_text() == "old"
    vault.set("pw", "new")
    assert (kv / "pw").read_text() == "old"
    assert (kv / ".keyvaultfs/refresh").read_text().startswith("forgot 1 values")
    kv.wait_for("pw", "new")


def test_nginx_serves_tls_with_key_and_certificate_from_the_mount(
    vault: VaultProcess, mount: Mounter, tmp_path: Path, free_port: int
) -> None:
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=kv.test", "-keyout", tmp_path / "key",
        "-out", tmp_path / "cert")  # fmt: skip
    vault.set("web-key", (tmp_path / "key").read_text())
    vault.set("web-cert", (tmp_path / "cert").read_text())
    kv = mount()
    (tmp_path / "nginx.conf").write_text(
        f"""
        daemon off; master_process off; pid {tmp_path}/pid; error_log stderr;
        events {{}}
        http {{
            access_log off; client_body_temp_path {tmp_path}/body; proxy_temp_path {tmp_path}/proxy;
            fastcgi_temp_path {tmp_path}/fcgi; uwsgi_temp_path {tmp_path}/uwsgi; scgi_temp_path {tmp_path}/scgi;
            server {{
                listen 127.0.0.1:{free_port} ssl;
                ssl_certificate {kv / "web-cert"}; ssl_certificate_key {kv / "web-key"};
                location / {{ return 200 "served"; }}
            }}
        }}
        """
    )
    nginx = subprocess.Popen(
        ["nginx", "-c", tmp_path / "nginx.conf", "-p", tmp_path], stderr=subprocess.DEVNULL
    )
    try:
        answer = run(
            "openssl", "s_client", "-connect", f"127.0.0.1:{free_port}", "-brief", stdin="", tries=50
        )
        assert "kv.test" in answer
    finally:
        nginx.terminate()
        nginx.wait(PATIENCE)
