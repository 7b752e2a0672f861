"""Nothing of a value or a token is ever written anywhere."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from tests.mount.test_hanging import outcome
from tests.support.mount import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.mount import Mount
    from tests.support.vault import VaultProcess

    Mounter = Callable[..., Mount]

CANARY = "canary-8c1f5e0b2d"


def test_no_value_and_no_token_is_in_a_log_a_command_line_an_environment_or_status(
    vault: VaultProcess, mount: Mounter
) -> None:
    vault.set("pw", CANARY)
    vault.set("numeric", f"{CANARY}\n" * 10, tags={"file-encoding": "hex"})
    kv = mount("ttl=1", "timeout=2", "decode", "negative_ttl=1", debug=True)
    kv.wait_for("pw", CANARY)
    assert (kv / "numeric").read_text().startswith(CANARY)
    faults: list[dict[str, object]] = [
        {"body": f'{{"value": "{CANARY}", "id": 5}}'.encode()},
        {"body": f'"{CANARY}"'.encode()},
        {"status": 403, "body": CANARY.encode()},
        {"status": 500, "body": CANARY.encode(), "content_type": CANARY},
        {"status": 401, "body": CANARY.encode()},
        {"status": 302, "redirect": f"https://127.0.0.1:1/{CANARY}"},
        {"merge": {"attributes": {"created": CANARY}}},
        {"merge": {"value": {"a": CANARY}}},
        {"status": 400, "code": CANARY + "!", "message": CANARY},
    ]
    for fault in faults:
        number = vault.fault(op="get", **fault)
        (kv / ".keyvaultfs/refresh").read_text()
        outcome(kv / "pw")
        vault.clear_faults(number)
    number = vault.fault(which="imds", body=f'{{"access_token": "{CANARY}"}}'.encode())
    vault.revoke_tokens()
    (kv / ".keyvaultfs/refresh").read_text()
    outcome(kv / "pw")
    vault.clear_faults(number)
    os.kill(kv.worker(), signal.SIGKILL)
    wait_until(kv.has_worker, "a new worker")
    kv.wait_for("pw", CANARY)
    tokens = {one["headers"].get("authorization", "") for one in vault.requests()} - {""}
    seen = kv.log() + (kv / ".keyvaultfs/status").read_text() + (kv / ".keyvaultfs/metrics").read_text()
    for pid in (kv.process.pid, kv.worker()):
        seen += Path(f"/proc/{pid}/cmdline").read_text() + Path(f"/proc/{pid}/environ").read_text()
    assert "no good answer" in seen
    assert CANARY not in seen
    for token in tokens:
        assert token.removeprefix("Bearer ") not in seen
