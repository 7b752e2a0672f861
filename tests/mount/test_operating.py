"""The operator's commands on real mounts: readers, wait, metrics, status; and what they say when they cannot."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.mount import KEYVAULTFS, Mount, environment, run, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.vault import VaultProcess

    Mounter = Callable[..., Mount]


def keyvaultfs(*words: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*KEYVAULTFS, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        timeout=timeout,
    )


def one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_readers_say_in_words_who_has_not_come_back(vault: VaultProcess, mount: Mounter) -> None:
    old = vault.set("pw", "old")
    kv = mount("ttl=1", "list_ttl=1", "mode=0444")
    run("setpriv", "--reuid=4321", "--clear-groups", "head", kv / "pw")
    new = vault.set("pw", "new")
    kv.wait_for("pw", "new")
    text = keyvaultfs("readers", kv.where).stdout
    first, still, late, *_ = text.splitlines()
    assert first.startswith(f"pw: version {new}, of ")
    assert still == "  still on an earlier version:"
    assert late.startswith(f"    head of uid 4321: opened version {old} ")
    assert "  on this version:\n    python" in text
    facts = json.loads(keyvaultfs("readers", kv.where, kv / "PW", "--json").stdout)
    assert [one["path"] for one in facts["files"]] == ["pw"]
    (link := kv.where.parent / "link").symlink_to(kv.where)
    for mountpoint, file in (
        (kv.where, "./pw"),
        (link, kv / "pw"),
        (kv.where, link / "pw"),
        (link, link / "pw"),
    ):
        assert keyvaultfs("readers", mountpoint, file).stdout.startswith("pw: "), (mountpoint, file)
    link.unlink()
    one_line(keyvaultfs("readers", kv.where, "other"), "nobody has opened other")


def test_wait_returns_when_all_can_be_read_and_says_why_not_at_the_timeout(
    vault: VaultProcess, mount: Mounter, tmp_path: Path
) -> None:
    vault.set("pw", "")
    vault.set("off", "x", enabled=False)
    kv = mount("negative_ttl=1", "timeout=2")
    assert keyvaultfs("wait", kv / "pw").returncode == 0
    assert keyvaultfs("wait", "--timeout", "0", kv / "pw").returncode == 0, "it looks once at least"
    hanging = vault.fault(op="get", name="hangs", hang=True)
    os.mkfifo(tmp_path / "fifo")
    done = keyvaultfs("wait", "--timeout", "3", kv / "pw", kv / "off", kv / "later", kv.where, kv / "hangs")
    assert done.returncode == 1
    lines = dict(line.removeprefix("keyvaultfs: ").split(": ", 1) for line in done.stderr.splitlines())
    assert lines.keys() == {str(kv / "off"), str(kv / "later"), str(kv.where), str(kv / "hangs")}
    assert "refused" in lines[str(kv / "off")]
    assert "disabled" in lines[str(kv / "off")]
    assert lines[str(kv / "later")].startswith("there is no such file")
    assert "refuses" not in lines[str(kv / "later")], "that another secret is refused is no answer"
    assert "directory" in lines[str(kv.where)]
    vault.clear_faults(hanging)
    with subprocess.Popen([*KEYVAULTFS, "wait", kv / "later", kv / "off"], env=environment()) as waiting:
        vault.set("later", "x")
        assert waiting.poll() is None
        vault.enable("off")
        assert waiting.wait(30) == 0
    assert keyvaultfs("wait", "--timeout", "soon", kv / "pw").returncode == 2
    assert keyvaultfs("wait").returncode == 2


def test_wait_for_a_file_without_an_end_leaves_no_process_behind(tmp_path: Path) -> None:
    endless = tmp_path / "endless"
    endless.symlink_to("/dev/zero")
    one_line(keyvaultfs("wait", "--timeout", "0.5", endless), "endless: ")

    def readers() -> list[str]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.fsencode(endless) in (process / "cmdline").read_bytes():
                    found.append(process.name)
        return found

    wait_until(lambda: not readers(), "the end of who reads it")


@pytest.mark.parametrize("command", ["status", "metrics", "readers"])
def test_a_standard_output_that_takes_nothing_is_one_line(
    vault: VaultProcess, mount: Mounter, command: str
) -> None:
    kv = mount()
    words = [*KEYVAULTFS, command, str(kv.where)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            words, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment()
        )
    one_line(done, "No space left on device")
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", *words]
    done = subprocess.run(closed, stderr=subprocess.PIPE, text=True, check=False, env=environment())
    assert (done.returncode, done.stderr) == (0, "")


def test_metrics_of_all_mounts_have_their_types_and_a_name_each(
    vault: VaultProcess, mount: Mounter, tmp_path: Path
) -> None:
    vault.set("pw", "canary-3381", exp=1_900_000_000)
    first, second = mount(), mount()
    run("cat", first / "pw")
    os.listdir(second.where)
    done = keyvaultfs("metrics", first.where, second.where)
    assert (done.returncode, done.stderr) == (0, "")
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=done.stdout, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    assert "# TYPE keyvaultfs_filesystem_requests_total counter\n" in done.stdout
    assert "# TYPE keyvaultfs_build_info gauge\n" in done.stdout
    for where in (first.where, second.where):
        assert f'keyvaultfs_up{{mountpoint="{where}"}} 1\n' in done.stdout
        assert (
            f'keyvaultfs_secret_expires_timestamp_seconds{{mountpoint="{where}",name="pw"}} 1900000000\n'
            in done.stdout
        )
    assert done.stdout.count("# TYPE keyvaultfs_cache_hits_total ") == 1
    assert "canary" not in done.stdout
    assert keyvaultfs("metrics").stdout.count("keyvaultfs_up{") == 2, "without a mount point all"
    output = tmp_path / "kv.prom"
    output.write_text("old")
    inode = output.stat().st_ino
    assert keyvaultfs("metrics", first.where, "--output", output).returncode == 0
    assert output.stat().st_ino != inode, "replaced at one go"
    assert output.stat().st_mode & 0o777 == 0o644
    assert "keyvaultfs_up" in output.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["kv.prom"]


def test_metrics_that_cannot_be_written_are_one_line_and_what_was_there_stays(
    vault: VaultProcess, mount: Mounter, tmp_path: Path
) -> None:
    kv = mount()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "small").mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", tmp_path / "small")
    try:
        (tmp_path / "small/kv.prom").write_text("old")
        cases = {
            "fifo": "no regular file",
            "none/kv.prom": "No such file",
            "small/kv.prom": "No space",
            "small": "regular",
        }
        for name, words in cases.items():
            one_line(keyvaultfs("metrics", kv.where, "--output", tmp_path / name), words)
        assert (tmp_path / "small/kv.prom").read_text() == "old"
        assert os.listdir(tmp_path / "small") == ["kv.prom"]
    finally:
        run("umount", tmp_path / "small")


def test_metrics_replace_no_file_that_another_users_link_leads_to(
    vault: VaultProcess, mount: Mounter, tmp_path: Path
) -> None:
    """As a user puts one into /tmp, where only the kernel's own look-up would mind it."""
    kv = mount()
    file, link, again = tmp_path / "file", tmp_path / "link", tmp_path / "again"
    file.write_text("old")
    link.symlink_to("file")
    again.symlink_to(link)
    os.lchown(link, 65534, 65534)
    for one in (link, again):
        one_line(keyvaultfs("metrics", kv.where, "--output", one), "another user's link")
    assert file.read_text() == "old"
    os.lchown(link, 0, 0)
    assert keyvaultfs("metrics", kv.where, "--output", again).returncode == 0
    assert again.is_symlink()
    assert link.is_symlink()
    assert "keyvaultfs_up" in file.read_text()


@pytest.mark.slow
def test_a_mount_that_hangs_or_is_none_or_is_dead_is_one_line(
    vault: VaultProcess, mount: Mounter, tmp_path: Path
) -> None:
    kv = mount()
    vault.set("pw", "x")
    one_line(keyvaultfs("status", tmp_path), "not a keyvaultfs mount")
    one_line(keyvaultfs("metrics", tmp_path), "not a keyvaultfs mount")
    refused = subprocess.run(
        ["setpriv", "--reuid=4321", "--clear-groups", *KEYVAULTFS, "status", kv.where],
        capture_output=True, text=True, check=False, env=environment(),
    )  # fmt: skip
    if "Permission denied" not in refused.stderr:  # the interpreter itself may be root's
        one_line(refused, "only root and the mount's owner")
    (earlier := tmp_path / "earlier/.keyvaultfs").mkdir(parents=True)
    (earlier / "status").write_text("{}")
    (earlier / "metrics").write_text("keyvaultfs_x 1\n# EOF\n")
    one_line(keyvaultfs("readers", earlier.parent), "version without readers", "reload")
    one_line(keyvaultfs("metrics", earlier.parent), "no metrics of this version")
    keeper, worker = kv.process.pid, kv.worker()
    os.kill(keeper, signal.SIGSTOP)
    os.kill(worker, signal.SIGSTOP)
    try:
        begin = time.monotonic()
        done = keyvaultfs("metrics", kv.where)
        assert time.monotonic() - begin < 30
        assert done.returncode == 1
        assert "hangs" in done.stderr
        assert f'keyvaultfs_up{{mountpoint="{kv.where}"}} 0\n' in done.stdout
    finally:
        os.kill(worker, signal.SIGCONT)
        os.kill(keeper, signal.SIGCONT)
    wait_until(kv.has_worker, "a worker")

    def unmounted() -> bool:
        with contextlib.suppress(
            AssertionError
        ):  # who was left behind has its answer now, and lets go in a moment
            kv.stop()
            return True
        return False

    wait_until(unmounted, "the processes that were left behind")


def test_status_says_problems_first_and_all_in_words(
    vault: VaultProcess, mount: Mounter, tmp_path: Path
) -> None:
    vault.set("pw", "x")
    vault.set("off", "x", enabled=False)
    kv = mount(f"audit={tmp_path / 'log'}")
    run("cat", kv / "pw")
    wait_until(lambda: kv.metric("audit_records") == 1, "the record, which another process writes")
    text = keyvaultfs("status", kv.where).stdout
    assert text.splitlines()[:3] == [f"{kv.where} shows {vault.url}", "", "no problems"]
    for words in (
        "1 of 1 value fresh; 1 in memory (1 B)",
        "token    good for ",
        "vault    answered ",
        "1 open recorded",
    ):
        assert words in text
    subprocess.run(["cat", kv / "off"], capture_output=True, check=False)
    text = keyvaultfs("status", kv.where).stdout
    assert text.splitlines()[2] == "1 problem:"
    assert "the secret's current version is disabled" in text
    assert "az keyvault secret set-attributes" in text
    assert json.loads(keyvaultfs("status", kv.where, "--json").stdout)["vault"] == vault.url


def test_a_cure_can_be_pasted_and_stands_there_once(vault: VaultProcess, mount: Mounter) -> None:
    vault.set("pw", "x")
    kv = mount("negative_ttl=1")
    denied = vault.fault(op=["list", "get", "version"], deny="rbac")
    with contextlib.suppress(OSError):
        (kv / "pw").read_text()
    cure = json.loads(keyvaultfs("status", "--json", kv.where).stdout)["problems"][0]["cure"]
    assert "--assignee-object-id b2c1b2f0-0000-4000-8000-000000000001 " in cure, "whose token it is"
    vault.clear_faults(denied)
    vault.turn(identities=[])
    kv = mount("timeout=4")
    kv.says(
        "the vault cannot be read yet: Identity-invalid_request: the machine has no such managed identity"
    )
    (line,) = (line for line in kv.log().splitlines() if "cannot be read yet" in line)
    assert line.count("the machine has no such managed identity") == 1
    with contextlib.suppress(OSError):
        (kv / "pw").read_text()
    lines = keyvaultfs("status", kv.where).stdout.splitlines()
    assert lines[2] == "2 problems:"
    assert lines[3].startswith("  FAIL  no token from the identity endpoint: the machine has no such managed")
    assert lines[4].strip().startswith("az vm identity assign")
    assert lines[5].startswith("  FAIL  vault unreachable: without a token it is not asked (for ")
    assert not lines[6], "no second cure"


def test_what_a_dead_vault_was_in_trouble_for_stays_what_is_told(vault: VaultProcess, mount: Mounter) -> None:
    kv = mount("timeout=2", "https_proxy=http://127.0.0.1:1")
    kv.says("the vault cannot be read yet")

    def not_asked_any_more() -> bool:
        with contextlib.suppress(OSError):
            (kv / f"pw-{time.monotonic_ns()}").read_text()
        return bool(kv.metric("circuit_open"))

    wait_until(not_asked_any_more, "the vault to count as dead")
    with contextlib.suppress(OSError):
        (kv / "pw").read_text()
    (problem,) = kv.status()["problems"]
    assert problem["code"] == "ConnectionRefusedError", problem


def test_status_says_of_each_broken_file_why(vault: VaultProcess, mount: Mounter, tmp_path: Path) -> None:
    vault.set("db", "{")
    vault.set("tls", "canary-5521")
    config = tmp_path / "mount.toml"
    many = "".join(
        f'[files."many/{number:02}"]\nsecret = "late"\nfield = "f{number}"\n' for number in range(22)
    )
    config.write_text(
        '[files."app/user"]\nsecret = "db"\nfield = "user"\n[files."app/tls.pem"]\nsecret = "tls"\npart = "key"\n'
        + many
    )
    kv = mount(f"config={config}")
    for name in ("app/user", "app/tls.pem"):
        with contextlib.suppress(OSError):
            (kv / name).read_text()
    lines = keyvaultfs("status", kv.where).stdout.splitlines()
    assert lines[2] == "2 problems:"
    assert lines[3].startswith("  FAIL  app/tls.pem cannot be made: the value is neither PEM nor ")
    assert lines[4].strip().startswith("mend the secret, or")
    assert lines[5].startswith("  FAIL  app/user cannot be made: the value is no JSON (for ")
    vault.set("late", "[")
    keyvaultfs("refresh", kv.where)
    for number in range(22):
        with contextlib.suppress(OSError):
            (kv / f"many/{number:02}").read_text()
    text = keyvaultfs("status", kv.where).stdout
    assert text.count("cannot be made: ") == 20
    assert "and 4 files more, which status --json names" in text
    assert "canary" not in text
    vault.set("db", '{"user": "me"}')
    keyvaultfs("refresh", kv.where)
    assert (kv / "app/user").read_text() == "me"
    assert "app/user" not in keyvaultfs("status", kv.where).stdout


def test_a_secret_that_is_taken_away_is_counted_while_somebody_wants_it(
    vault: VaultProcess, mount: Mounter
) -> None:
    for name in ("pw", "other"):
        vault.set(name, "x")
    vault.set("never", "x", enabled=False)
    kv = mount("ttl=1", "negative_ttl=1")
    assert (kv / "pw").read_text() == (kv / "other").read_text() == "x"
    assert (kv / "never").stat().st_size == 0
    assert kv.metric("refused_secrets") == 0
    refused = vault.fault(op=["list", "get", "version"], deny="rbac")
    wait_until(lambda: not (kv / "pw").stat().st_size, "the refusal")
    assert kv.metric("refused_secrets") >= 1
    kv.says("vault refuses pw error=ForbiddenByRbac")
    vault.clear_faults(refused)
    for name in ("pw", "other"):
        kv.wait_for(name, "x")
    assert kv.metric("refused_secrets") == 0


def test_a_file_whose_secret_is_not_there_is_told_with_its_secret(
    vault: VaultProcess, mount: Mounter, tmp_path: Path
) -> None:
    vault.set("pw", "x")
    vault.set("hidden", "x", tags={"env": "test"})
    config = tmp_path / "mount.toml"
    config.write_text(
        "[files.\"app.env\"]\ntemplate = \"{{ secret('pw') }} {{ secret('nosuch') }}\"\n"
        '[files.before]\nsecret = "pw"\nprevious = 1\n[files.hidden]\nsecret = "pw"\n'
    )
    kv = mount(f"config={config}", "negative_ttl=1", "ttl=1")
    words = "app.env: there is no such file (it cannot be made: the vault has no secret nosuch)"
    files = (kv / "app.env", kv / "before", kv / "hidden")
    wait_until(lambda: words in keyvaultfs("wait", "--timeout", "1", *files).stderr, "the answer in time")
    text = keyvaultfs("status", kv.where).stdout
    assert "  FAIL  app.env cannot be made: the vault has no secret nosuch (for " in text
    assert "  FAIL  before cannot be made: there is no such earlier version of pw (for " in text
    assert "hidden" not in text
    assert kv.metric("files_broken") == 2
    with contextlib.suppress(OSError):
        (kv / "made-up").read_text()
    vault.set("nosuch", "y")
    vault.set("pw", "z")
    kv.wait_for("app.env", "z y")
    kv.wait_for("before", "x")
    assert kv.metric("files_broken") == 0


@pytest.mark.slow
def test_10000_names_take_less_than_a_second(
    vault: VaultProcess, mount: Mounter, capsys: pytest.CaptureFixture[str]
) -> None:
    vault.made_up(10_000, exp=1_900_000_000)
    kv = mount("timeout=60")
    assert len(os.listdir(kv.where)) == 10_000
    for name in os.listdir(kv.where)[:50]:
        (kv / name).read_bytes()
    for command in ("metrics", "readers", "status"):
        begin = time.perf_counter()
        done = keyvaultfs(command, kv.where)
        seconds = time.perf_counter() - begin
        assert done.returncode == 0, done.stderr
        with capsys.disabled():
            print(f"\nkeyvaultfs {command} with 10,000 names: {seconds:.2f} s, {len(done.stdout)} bytes")


ODD = [
    "[]",
    "null",
    "7",
    "[" * 100_000,
    "9" * 10_000,
    "\x1b[2J\x1b]0;title\x07",
    '{"problems": 7, "files": 7}',
    '{"worker": "\\u001b[2J", "keeper": "\\u202e", "workers": 2, "files": [{}]}',
    '{"mountpoint": "\\r\\n\\u009b", "since": 1e400, "files": [[]], "forgotten": "\\u001b"}',
    '{"cache": {"names": 1}, "files": [], "forgotten": "\u001b"}',
    '{"token": {"state": "valid", "seconds_left": "\\u001b"}, "files": null}',
    '{"problems": [{"sentence": 1, "severity": "\\u001b", "cure": "", "seconds": NaN, "times": 1}]}',
]


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_what_a_worker_that_was_taken_over_tells_is_one_line_or_words(text: str, tmp_path: Path) -> None:
    folder = tmp_path / ".keyvaultfs"
    folder.mkdir()
    for name in ("status", "readers", "refresh"):
        (folder / name).write_text(text, encoding="utf-8")
    for words in (("status",), ("status", "--json"), ("readers",), ("readers", "--json"), ("refresh",)):
        done = keyvaultfs(*words, tmp_path)
        assert done.returncode in {0, 1}
        assert (done.stdout + done.stderr).replace("\n", "").isprintable()
        if done.returncode:
            one_line(done)
            assert done.stdout == ""
