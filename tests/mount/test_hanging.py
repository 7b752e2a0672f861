"""A vault that hangs, drips or lies: nothing waits for ever, and nobody waits for another's secret."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.support.mount import links, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.mount import Mount
    from tests.support.vault import VaultProcess

    Mounter = Callable[..., Mount]


def outcome(path: Path) -> str | int:
    """What a read gives: the text, or the errno."""
    try:
        return path.read_text()
    except OSError as exc:
        return exc.errno or 0


def test_one_hanging_name_delays_no_other_cold_name_nor_ls(vault: VaultProcess, mount: Mounter) -> None:
    vault.bulk([{"name": name, "value": name} for name in ("hangs", "cold-a", "cold-b")])
    vault.fault(op="get", name="hangs", hang=True)
    kv = mount("timeout=20")
    waiting = subprocess.Popen(["cat", kv / "hangs"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: bool(vault.requests("get", "hangs")), "the look-up to hang")
        # If either waited for the hanging one, it would be answered by then.
        assert (kv / "cold-a").read_text() == "cold-a"
        with os.scandir(kv.where) as entries:
            assert {next(entries).name, next(entries).name} == {"cold-a", "cold-b"}
        assert (kv / "cold-b").read_text() == "cold-b"
        assert waiting.poll() is None, kv.log()
    finally:
        kv.process.terminate()  # an unmount answers it; a process that waits for FUSE cannot be killed
        kv.process.wait(30)
        waiting.communicate()


@pytest.mark.parametrize(
    "fault",
    [{"op": "get", "name": "hang-*", "hang": True}, {"op": "get", "rate": 1.0}, {"outage": "silent"}],
    ids=["no answer", "headers at a byte a second", "no TLS handshake"],
)
def test_with_250_names_hanging_cached_names_still_read_and_each_gets_its_errno(
    vault: VaultProcess, mount: Mounter, fault: dict[str, object]
) -> None:
    vault.set("cached", "here")
    names = vault.made_up(250, prefix="hang-")
    kv = mount("timeout=10")
    assert (kv / "cached").read_text() == "here"
    vault.fault(**fault)
    results: list[str | int] = []

    def ask(name: str) -> None:
        results.append(outcome(kv / name))

    threads = [threading.Thread(target=ask, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    wait_until(lambda: kv.metric("transport_in_flight") >= 8, "the network slots to hang")
    for _ in range(50):
        assert (kv / "cached").read_text() == "here"
    # Had a read waited for a task that hangs, they would have their errno by now.
    assert sum(thread.is_alive() for thread in threads) == 250
    for thread in threads:
        thread.join(60)
    assert len(results) == 250
    assert set(results) <= {errno.ETIMEDOUT, errno.EIO}


@pytest.mark.parametrize(
    "fault",
    [
        {"hang": True},
        {"body_rate": 1.0},
        {"rate": 1.0},
        {"stall": 1},
        {"reset": 1},
        {"close": 30},
        {"huge": 8},
        {"status": 500},
        {"status": 403, "body": b"<html>proxy</html>", "content_type": "text/html"},
        {"status": 302, "redirect": "https://127.0.0.1:1/"},
        {"body": b"[" * 100_000},
        {"body": b'{"value": 1e999999999}'},
        {"body": b'{"value": "\\ud800", "id": "x"}'},
        {"body": b"null"},
        {"body": b""},
        {"wrong_types": []},
    ],
    ids=lambda fault: "-".join(f"{key}={str(value)[:12]}" for key, value in fault.items()),
)
def test_any_answer_gives_an_errno_and_one_line_and_other_files_go_on(
    vault: VaultProcess, mount: Mounter, fault: dict[str, object]
) -> None:
    vault.bulk([{"name": "bad", "value": "canary-of-bad"}, {"name": "good", "value": "fine"}])
    kv = mount("timeout=2")
    kv.wait_for("good", "fine")
    vault.fault(op="get", name="bad", **fault)
    for _ in range(3):
        assert outcome(kv / "bad") in {errno.EIO, errno.ETIMEDOUT}
    assert (kv / "good").read_text() == "fine"
    # The keeper passes lines on when it gets to it; a read may be answered before.
    wait_until(lambda: "bad" in kv.log() or "vault unreachable" in kv.log(), "a line about it")
    log = kv.log()
    assert "canary" not in log
    assert "Traceback" not in log
    assert "bug in" not in log
    vault.clear_faults()
    kv.wait_for("bad", "canary-of-bad")


def test_bad_names_in_a_listing_are_not_shown(vault: VaultProcess, mount: Mounter) -> None:
    vault.set("good", "x")
    ids = [
        "good",
        "good",
        "GOOD",
        "../../etc/passwd",
        "a/b",
        "nul\x00",
        "tab\t",
        "dot.ted",
        "",
        ".",
        "..",
        "x" * 128,
    ]
    items = [{"id": f"{vault.url}/secrets/{name}", "attributes": {"enabled": True}} for name in ids]
    vault.fault(op="list", json={"value": items, "nextLink": None})
    kv = mount()
    assert os.listdir(kv.where) == ["good"]


@pytest.mark.parametrize("link", ["loop", "foreign"])
def test_a_next_link_that_is_not_the_vaults_own_ends_the_listing(
    vault: VaultProcess, mount: Mounter, link: str
) -> None:
    vault.made_up(60)
    vault.fault(op="list", next_link=link)
    kv = mount()
    with pytest.raises(OSError, match="Input/output"):
        os.listdir(kv.where)
    assert (kv / "s00").read_text().startswith("s00")


def test_a_listing_streams(vault: VaultProcess, mount: Mounter) -> None:
    vault.made_up(1000)
    vault.fault(op="list", after=4, hang=True)  # whoever waited for all of it would see nothing
    kv = mount("timeout=20")
    with os.scandir(kv.where) as entries:
        assert next(entries).name


def test_after_many_hanging_requests_threads_and_sockets_are_as_many_as_before(
    vault: VaultProcess, mount: Mounter
) -> None:
    vault.made_up(100, prefix="hang-")
    vault.set("ok", "ok")
    kv = mount("timeout=2")
    kv.wait_for("ok", "ok")
    vault.fault(op="get", name="hang-*", rate=1.0)
    with ThreadPoolExecutor(100) as pool:
        results = list(pool.map(lambda number: outcome(kv / f"hang-{number:02}"), range(100)))
    assert set(results) <= {errno.EIO, errno.ETIMEDOUT}
    vault.clear_faults()

    def settled() -> bool:
        sockets = [link for link in links(kv.worker()) if link.startswith("socket:")]
        # The channel, the event loop's own pair, and at most one idle connection a slot, each with its guard.
        return len(sockets) <= 4 + 2 * 18 and kv.status()["threads"] <= 20

    wait_until(settled, "threads and sockets to go")
    assert kv.metric("transport_stuck_threads") == 0
    kv.wait_for("ok", "ok")


def test_the_vault_down_from_the_start_mounts_and_heals(vault: VaultProcess, mount: Mounter) -> None:
    vault.set("pw", "here")
    vault.outage("both")
    kv = mount("timeout=2")
    assert outcome(kv / "pw") in {errno.EIO, errno.ETIMEDOUT}
    vault.clear_faults()
    kv.wait_for("pw", "here")


@pytest.mark.parametrize("status", [404, 410, 429, 500, 503])
def test_the_token_endpoint_comes_back_while_a_reader_waits(
    vault: VaultProcess, mount: Mounter, status: int
) -> None:
    vault.set("pw", "here")
    vault.fault(which="imds", status=status, times=2)
    kv = mount("timeout=30")
    assert (kv / "pw").read_text() == "here"


@pytest.mark.parametrize("status", [404, 410, 429, 500])
def test_a_reader_waits_for_the_next_try_of_a_token_in_place_of_a_rejected_one(
    vault: VaultProcess, mount: Mounter, status: int
) -> None:
    vault.bulk([{"name": name, "value": name} for name in ("pw", "other")])
    kv = mount("timeout=30")
    assert outcome(kv / "pw") == "pw"
    vault.fault(which="imds", status=status, times=1)
    vault.revoke_tokens()
    assert subprocess.check_output(["cat", kv / "other"], text=True) == "other"


@pytest.mark.parametrize(
    "said",
    [
        {"status": 400, "json": {"error": "invalid_request", "error_description": "Identity not found"}},
        {"status": 403, "body": b"unreachable"},
        {"status": 200, "body": b"<html>another cloud's</html>"},
    ],
    ids=["400", "403", "HTML"],
)
def test_while_the_token_endpoint_gives_none_cached_values_are_served_stale(
    vault: VaultProcess, mount: Mounter, said: dict[str, object]
) -> None:
    vault.set("pw", "here")
    kv = mount("ttl=1", "timeout=5")
    assert outcome(kv / "pw") == "here"
    inode = os.stat(kv / "pw").st_ino
    vault.fault(which="imds", **said)
    vault.revoke_tokens()

    def stale() -> bool:
        return subprocess.check_output(["cat", kv / "pw"]) == b"here" and (
            os.getxattr(kv / "pw", "user.keyvault.state") == b"stale"
        )

    wait_until(stale, "the value to be stale")
    assert os.stat(kv / "pw").st_ino == inode, "it was neither taken away nor replaced"
    kv.says("no token from the identity endpoint error=Identity-")
    assert "refuses" not in kv.log()


def test_a_missing_identity_is_an_error_with_the_mend_and_asked_for_again(
    vault: VaultProcess, mount: Mounter
) -> None:
    vault.set("pw", "here")
    number = vault.fault(
        which="imds", status=400, json={"error": "invalid_request", "error_description": "canary"}
    )
    kv = mount("timeout=3")
    assert outcome(kv / "pw") == errno.EIO  # not EACCES: the vault has refused nothing
    kv.says("client_id=")
    assert "canary" not in kv.log()
    vault.clear_faults(number)
    kv.wait_for("pw", "here")
