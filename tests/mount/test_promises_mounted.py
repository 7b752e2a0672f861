"""Promises of the cache that only a real kernel can show. The vault's request log proves them, not a stopwatch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.mount import KEYVAULTFS, environment, run, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.inotify import Watch
    from tests.support.mount import Mount
    from tests.support.vault import VaultProcess

    Mounter = Callable[..., Mount]


def pages(vault: VaultProcess) -> int:
    return len([one for one in vault.requests("list") if one["had_token"]])


def test_ls_into_head_on_10_000_secrets_is_answered_from_the_first_pages(
    vault: VaultProcess, mount: Mounter
) -> None:
    vault.made_up(10_000, size=8)
    kv = mount("timeout=30", "announce=no")  # else the folder is listed for its watchers too
    number = vault.fault(op="list", after=3, hang=True)
    # From the fourth page on the vault is silent: whoever waited for the whole listing would see nothing.
    shown = run("sh", "-c", f"stdbuf -oL ls -U {kv.where} | head -n 20").split()
    vault.clear_faults(number)
    assert shown == [f"s{place:04}" for place in range(20)]
    assert pages(vault) <= 5


def test_a_listing_of_10_000_secrets_is_whole(vault: VaultProcess, mount: Mounter) -> None:
    names = vault.made_up(10_000, size=8)
    kv = mount("timeout=30", "announce=no", "list_ttl=3600")
    assert set(os.listdir(kv.where)) == set(names)
    assert pages(vault) == 400
    assert os.listdir(kv.where)
    assert pages(vault) == 400, "within list_ttl the second costs nothing"
    assert not vault.requests("get")


def test_a_listing_tells_the_inode_that_the_kernel_holds(vault: VaultProcess, mount: Mounter) -> None:
    """Another one for the same name would take its watches away."""
    vault.bulk([{"name": name, "value": "x"} for name in ("held", "unknown")])
    kv = mount("list_ttl=1")
    held = (kv / "held").stat().st_ino
    with os.scandir(kv.where) as entries:
        listed = {entry.name: entry.inode() for entry in entries}
    assert listed["held"] == held
    assert listed["unknown"] != held
    assert not vault.requests("get", "unknown")


def test_a_watch_among_many_names_fires_from_the_listing_without_a_get(
    vault: VaultProcess, mount: Mounter, events: Callable[..., Watch]
) -> None:
    names = vault.made_up(60, size=8, updated=1_700_000_000)
    kv = mount("ttl=3", "list_ttl=1")
    watch = events(kv / names[0], "delete_self", beside=[kv / name for name in names[1:]])
    wait_until(lambda: pages(vault) > 6, "the names to be checked by listings")
    vault.reset_requests()
    vault.set(names[30], "new")
    watch.wait(f"{kv / names[30]} DELETE_SELF")
    assert not vault.requests("get")
    wait_until(lambda: pages(vault) >= 3, "the end of the listing that showed it")
    assert len(watch.lines()) == 1
    assert (kv / names[30]).read_text() == "new"


def test_one_rotation_among_many_names_in_use_costs_one_get(vault: VaultProcess, mount: Mounter) -> None:
    names = vault.made_up(100, size=8, updated=1_700_000_000)
    kv = mount("ttl=4")
    for name in names:
        (kv / name).read_text()
    vault.reset_requests()
    vault.set(names[42], "new")

    def seen() -> bool:
        return [(kv / name).read_text() for name in names][42] == "new"

    wait_until(seen, "the new value")
    gets = vault.requests("get")
    assert {one["name"] for one in gets} == {names[42]}
    assert len(gets) <= 2, "the second proves what was read in the very second of its change"


def test_prefetched_names_are_known_when_an_outage_comes_before_their_first_reader(
    vault: VaultProcess, mount: Mounter
) -> None:
    vault.bulk([{"name": name, "value": name} for name in ("pg-a", "PG-b", "api-key", "other")])
    kv = mount("prefetch=pg-*:api-key", "timeout=10")
    wait_until(lambda: kv.status()["cache"]["values"] == 3, "the names to be fetched")
    vault.outage("both")
    assert [(kv / name).read_text() for name in ("pg-a", "PG-b", "api-key")] == ["pg-a", "PG-b", "api-key"]
    assert not vault.requests("get", "other")


IN_A_NEW_PID_NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
AS_PID_1 = """
import errno, json, os, subprocess, sys, time
where, hangs, command = sys.argv[1], sys.argv[2], sys.argv[3:]
assert os.getpid() == 1
child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
while where not in open("/proc/self/mounts").read():
    assert child.poll() is None
    time.sleep(0.05)
def outcome(path):
    try:
        return open(path).read()
    except OSError as error:
        return errno.errorcode[error.errno]
def of_a_child(path):
    reader, writer = os.pipe()
    if not os.fork():
        os.write(writer, outcome(path).encode())
        os._exit(0)
    os.close(writer)
    return os.read(reader, 100).decode()
assert of_a_child(where + "/fine") == "here"
print(json.dumps({
    "fine": outcome(where + "/fine"),
    "pid 1": outcome(where + "/" + hangs),
    "another": of_a_child(where + "/" + hangs),
}))
"""


def test_pid_1_is_not_kept_waiting_for_a_name_that_hangs(vault: VaultProcess, tmp_path: Path) -> None:
    """The daemon sees process ids of its own namespace; there its PID 1 may be any program.

    Who waits for the whole `timeout` is told ETIMEDOUT, who went after a second EIO.
    """
    vault.bulk([{"name": "fine", "value": "here"}, {"name": "hangs", "value": "x"}])
    vault.fault(op="get", name="hangs", hang=True)
    where = tmp_path / "kv"
    where.mkdir()
    mount = [*KEYVAULTFS, "mount", "-f", vault.url, str(where), "-o", vault.mount_options() + ",timeout=5"]
    done = subprocess.run(
        [*IN_A_NEW_PID_NAMESPACE, sys.executable, "-c", AS_PID_1, str(where), "hangs", *mount],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"fine": "here", "pid 1": "EIO", "another": "ETIMEDOUT"}
