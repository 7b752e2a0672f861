"""After a rotation ``readers`` names who still uses the old one, also after a take-over and an upgrade."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.mount import Mount, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.vault import VaultProcess

    Mounter = Callable[..., Mount]

HOLD = "exec 3<{}; read line; cat <&3; exec 3<&-; exec 4<{}; read line"


def readers_of(kv: Mount, name: str) -> dict[str, Any]:
    facts = json.loads((kv / ".keyvaultfs/readers").read_text())
    (found,) = [one for one in facts["files"] if one["path"] == name]
    return dict(found)


def told(kv: Mount, name: str) -> list[tuple[str, bool, int]]:
    return [(one["program"], one["behind"], one["open_now"]) for one in readers_of(kv, name)["readers"]]


def test_who_has_not_come_back_is_named_also_after_a_kill_and_an_upgrade(
    vault: VaultProcess, mount: Mounter
) -> None:
    old = vault.set("pw", "old")
    kv = mount("ttl=1", "list_ttl=1", "mode=0444")
    holding = subprocess.Popen(
        ["dash", "-c", HOLD.format(kv / "pw", kv / "pw")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        wait_until(lambda: (kv / ".keyvaultfs/readers").read_text().count("dash") == 1, "the first reader")
        subprocess.run(
            ["setpriv", "--reuid=4321", "--clear-groups", "head", kv / "pw"], check=True, capture_output=True
        )
        assert sorted(told(kv, "pw")) == [("dash", False, 1), ("head", False, 0)]
        new = vault.set("pw", "new")
        kv.wait_for("pw", "new")
        shown = readers_of(kv, "pw")
        assert (shown["edition"], shown["known"]) == (new, True)
        behind = [(one["program"], one["uid"], one["edition"]) for one in shown["readers"] if one["behind"]]
        assert behind == [("head", 4321, old), ("dash", 0, old)]
        assert shown["readers"][-1]["pid"] == os.getpid()
        before = kv.worker()
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: kv.has_worker() and kv.worker() != before, "another worker")
        assert told(kv, "pw")[:2] == [("head", True, 0), ("dash", True, 1)]
        before = kv.worker()
        kv.process.send_signal(signal.SIGHUP)
        wait_until(lambda: kv.has_worker() and kv.worker() != before, "a worker of the new code")
        assert told(kv, "pw")[:2] == [("head", True, 0), ("dash", True, 1)]
        assert kv.metric("readers_behind") == 2
        assert holding.stdin is not None
        holding.stdin.write(b"\n")
        holding.stdin.flush()
        wait_until(
            lambda: not any(one[0] == "dash" and one[1] for one in told(kv, "pw")), "dash to come back"
        )
        assert told(kv, "pw")[0] == ("head", True, 0)
    finally:
        out, _ = holding.communicate(b"\n")
    assert out == b"old", "an open file keeps its version"


def test_a_control_file_that_was_opened_before_a_take_over_can_be_read_after_it(
    vault: VaultProcess, mount: Mounter
) -> None:
    vault.set("pw", "x")
    kv = mount()
    with (
        (kv / ".keyvaultfs/status").open("rb", buffering=0) as status,
        (kv / ".keyvaultfs/metrics").open("rb", buffering=0) as metrics,
    ):
        assert metrics.read(10)
        before = kv.worker()
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: kv.has_worker() and kv.worker() != before, "another worker")
        assert json.loads(status.read())["worker"] == kv.worker()
        with pytest.raises(OSError, match="Input/output"):
            metrics.read()
