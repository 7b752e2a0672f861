"""Microsoft's own client of Azure Arc's agent works on the embedded vault unchanged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.vault import VaultProcess

CLIENT = Path(__file__).with_name("arc_client.py")
FOLDER = "/var/opt/azcmagent/tokens"
"""The only one where Microsoft's client looks."""


def test_azure_identity_proves_itself_by_the_agents_file(vault: VaultProcess, tmp_path: Path) -> None:
    vault.set("pw", "p@ss")
    vault.turn(arc=str(tmp_path))
    endpoint = f"{vault.imds}/metadata/identity/oauth2/token"
    script = f'mount -t tmpfs none /var/opt && mkdir -p {FOLDER} && mount --bind "$0" {FOLDER} && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, tmp_path,
         sys.executable, CLIENT, vault.url, vault.ca_file, "pw"],
        env={"PATH": os.environ["PATH"], "IDENTITY_ENDPOINT": endpoint, "IMDS_ENDPOINT": vault.imds},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "p@ss"), done.stderr[-2000:]
    asked = [entry["status"] for entry in vault.requests(op="token")]
    assert asked == [401, 200]
    assert list(tmp_path.iterdir()) == []
