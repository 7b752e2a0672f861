"""Each open of a secret's file leaves a record, on a real mount, read by real programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.mount import KEYVAULTFS, run, wait_until
from tests.support.stopped import disk

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.mount import Mount
    from tests.support.vault import VaultProcess

    Mounter = Callable[..., Mount]

CANARY = "canary-77d0a1"


def records(*paths: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def written(kv: Mount, count: int) -> None:
    """Another process writes them, a moment after the open."""
    wait_until(lambda: kv.metric("audit_records") + kv.metric("audit_lost") == count, f"{count} records")


def test_each_open_leaves_a_record_with_who_what_and_how_it_ended(
    vault: VaultProcess, mount: Mounter, tmp_path: Path
) -> None:
    version = vault.set("pw", CANARY)
    vault.set("off", CANARY, enabled=False)
    log = tmp_path / "audit.log"
    kv = mount(f"audit={log}", "mode=0444")
    assert run("cat", kv / "pw") == CANARY
    run("setpriv", "--reuid=4321", "--regid=4322", "--clear-groups", "head", "-c1", kv / "pw")
    subprocess.run(["cat", kv / "off"], check=False, capture_output=True)
    (kv / ".keyvaultfs/status").read_text()
    (kv / f".keyvaultfs/versions/pw/{version}").read_text()
    os.stat(kv / "pw")
    written(kv, 4)
    found = records(log)
    assert [(one["program"], one["outcome"], one["errno"], one["uid"], one["gid"]) for one in found[:3]] == [
        ("cat", "opened", 0, 0, 0),
        ("head", "opened", 0, 4321, 4322),
        ("cat", "EACCES", 13, 0, 0),
    ]
    assert [one["path"] for one in found] == [
        str(kv / "pw"), str(kv / "pw"), str(kv / "off"), str(kv / f".keyvaultfs/versions/pw/{version}")
    ]  # fmt: skip
    assert [one["secrets"] for one in found] == [
        {"pw": version},
        {"pw": version},
        {"off": ""},
        {"pw": version},
    ]
    assert found[3]["pid"] == os.getpid()
    assert log.stat().st_mode & 0o777 == 0o600
    assert CANARY not in log.read_text()
    assert kv.metric("audit_records") == 4
    kv.stop()
    assert len(records(log)) == 4


def test_who_opens_again_as_another_program_is_recorded_as_that(
    vault: VaultProcess, mount: Mounter, tmp_path: Path
) -> None:
    vault.set("pw", CANARY)
    log = tmp_path / "audit.log"
    kv = mount(f"audit={log}")
    story = 'for _ in 1 2 3; do : < "$0"; done; exec cat "$0"'
    for _ in range(10):
        assert run("bash", "-c", story, kv / "pw") == CANARY
    written(kv, 40)
    found = records(log)
    assert [one["program"] for one in found] == [*["bash"] * 3, "cat"] * 10
    for first in range(0, 40, 4):
        assert len({one["pid"] for one in found[first : first + 4]}) == 1


def test_a_kill_and_a_logrotate_lose_no_record_of_an_open_that_succeeded(
    vault: VaultProcess, mount: Mounter, tmp_path: Path
) -> None:
    vault.set("pw", CANARY)
    log, old = tmp_path / "audit.log", tmp_path / "audit.log.1"
    kv = mount(f"audit={log}", "run_as=daemon")
    count = 302
    opened: list[int] = []

    def reader(first: int) -> None:
        for _ in range(first, count, 4):
            with (kv / "pw").open() as file:
                opened.append(1)
                assert file.read() == CANARY

    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(reader, number) for number in range(4)]
        wait_until(lambda: len(opened) > 60, "a fifth of the opens")
        os.kill(kv.worker(), signal.SIGKILL)
        wait_until(lambda: len(opened) > 160, "half of the opens")
        wait_until(kv.has_worker, "a worker after the kill")
        before = kv.worker()
        log.rename(old)
        kv.process.send_signal(signal.SIGHUP)
        for job in jobs:
            job.result(60)
    wait_until(lambda: kv.has_worker() and kv.status()["worker"] != before, "the new worker")
    assert (kv / "pw").read_text() == CANARY
    wait_until(lambda: log.stat().st_size > 0, "a record in the new file")
    wait_until(
        lambda: sum(path.read_text().count('"opened"') for path in (old, log)) > count,
        "a record of each open",
    )
    kv.stop()
    kept = [one for one in records(old, log) if one["outcome"] == "opened"]
    assert len(opened) == count
    assert len(kept) >= count + 1
    assert records(log)[-1]["outcome"] == "opened"


def test_a_full_disk_fails_no_open_and_is_said_once(
    vault: VaultProcess, mount: Mounter, tmp_path: Path
) -> None:
    vault.set("pw", CANARY)
    (small := tmp_path / "small").mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", small)
    try:
        kv = mount(f"audit={small / 'audit.log'}")
        for _ in range(100):
            assert (kv / "pw").read_text() == CANARY
        written(kv, 100)
        lost = kv.metric("audit_lost")
        assert lost > 50
        assert kv.metric("audit_records") + lost == 100
        kv.says("opens are not recorded")  # a line of the log may come after the answer that it is about
        assert kv.log().count("opens are not recorded") == 1
        assert "the disk of the audit file is full" in json.dumps(kv.status()["problems"])
        with (small / "audit.log").open("r+") as file:
            file.truncate(0)
        assert (kv / "pw").read_text() == CANARY
        kv.says("opens are not recorded (option audit) ended")
        assert json.loads((small / "audit.log").read_text().splitlines()[-1])["outcome"] == "opened"
        kv.stop()
    finally:
        run("umount", small, tries=50)  # whoever writes the records may end after the keeper


@pytest.mark.slow
def test_a_disk_that_hangs_holds_up_no_open_and_no_worker_and_gets_its_records_later(
    vault: VaultProcess, mount: Mounter, tmp_path: Path
) -> None:
    vault.set("pw", CANARY)
    with disk(tmp_path / "disk") as stopped:
        log = tmp_path / "disk/audit.log"
        kv = mount(f"audit={log}")
        before = kv.worker()
        assert (kv / "pw").read_text() == CANARY
        written(kv, 1)
        stopped.send_signal(signal.SIGSTOP)
        for _ in range(20):
            assert (kv / "pw").read_text() == CANARY
        kv.says("opens are not recorded (option audit) error=Audit-ETIMEDOUT")
        (problem,) = kv.status()["problems"]
        assert "the disk of the audit file does not answer" in problem["sentence"]
        opens = 0
        while not kv.metric("audit_lost"):  # until the queue is full
            opens += 100
            for _ in range(100):
                assert (kv / "pw").read_text() == CANARY
        kept = opens - kv.metric("audit_lost")
        kv.process.send_signal(signal.SIGHUP)  # to open it anew is in vain as well
        kv.says("it cannot be opened in time: its file system does not answer; records go where they went")
        wait_until(lambda: kv.has_worker() and kv.worker() != before, "the new worker")
        assert (kv / "pw").read_text() == CANARY
        assert kv.log().count("has taken over") == 1, "no worker was killed for it"
        stopped.send_signal(signal.SIGCONT)
        wait_until(lambda: not kv.status()["problems"], "the end of the problem")
        wait_until(lambda: len(records(log)) >= kept, "what was opened meanwhile, but for what was lost")
        assert (kv / "pw").read_text() == CANARY
        wait_until(lambda: records(log)[-1]["program"] != "", "a whole last line")
        kv.stop()


def test_a_disk_that_hangs_at_the_mount_is_one_line(vault: VaultProcess, tmp_path: Path) -> None:
    (tmp_path / "kv").mkdir()
    with disk(tmp_path / "disk") as stopped:
        stopped.send_signal(signal.SIGSTOP)
        options = vault.mount_options(f"audit={tmp_path / 'disk/log'}", "run_as=root")
        done = subprocess.run(
            [*KEYVAULTFS, "mount", vault.url, tmp_path / "kv", "-o", options],
            check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "its file system does not answer" in done.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [("fifo", "no regular file"), ("missing/log", "No such file"), ("folder", "Is a directory")],
)
def test_a_file_that_cannot_be_one_is_one_line_and_an_exit_code(
    vault: VaultProcess, tmp_path: Path, name: str, words: str
) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "kv").mkdir()
    options = vault.mount_options(f"audit={tmp_path / name}", "run_as=root")
    done = subprocess.run(
        [*KEYVAULTFS, "mount", vault.url, tmp_path / "kv", "-o", options],
        check=False, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"audit={tmp_path / name}: " in done.stderr
    assert words in done.stderr


def test_the_journal_gets_a_record_with_fields(vault: VaultProcess, tmp_path: Path) -> None:
    """In a mount namespace with a journal's socket of the test's own."""
    version = vault.set("pw", CANARY)
    (tmp_path / "kv").mkdir()
    options = vault.mount_options("audit=journal", "run_as=daemon")
    command = [*KEYVAULTFS, "mount", vault.url, str(tmp_path / "kv"), "-o", options]
    listen = f"""
import os, socket
os.makedirs("/run/systemd/journal", exist_ok=True)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.bind("/run/systemd/journal/socket")
os.chmod("/run/systemd/journal/socket", 0o666)
kv = {str(tmp_path / "kv")!r}
import subprocess
assert subprocess.run({command!r}).returncode == 0
subprocess.run(["cat", kv + "/pw"], check=True)
sock.settimeout(20)
while True:
    entry = sock.recv(1 << 16)
    if b"KEYVAULTFS_PATH=" in entry:
        break
print(entry.decode())
subprocess.run(["umount", kv], check=True)
"""
    story = 'mount -t tmpfs tmpfs /run && exec "$@"'
    shown = run("unshare", "--mount", "sh", "-c", story, "sh", "/usr/bin/python3", "-c", listen)
    for line in (f"KEYVAULTFS_PATH={tmp_path}/kv/pw", f"KEYVAULTFS_VERSION={version}", "KEYVAULTFS_OUTCOME=opened",
                 "OBJECT_UID=0", "OBJECT_COMM=cat", "SYSLOG_IDENTIFIER=keyvaultfs"):  # fmt: skip
        assert line in shown.splitlines()
    assert shown.count(CANARY) == 1, "by cat, and nowhere else"
