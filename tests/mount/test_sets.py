"""Five files of one certificate: whoever is woken by one of them finds the other four beside it."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.mount import Mount, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.vault import VaultProcess

pytestmark = pytest.mark.slow

PARTS = ("key", "cert", "chain", "fullchain", "pem")
CONFIGURATION = "only_files = true\n" + "".join(
    f'[files."set/{part}"]\nsecret = "web-tls"\npart = "{part}"\n' for part in PARTS
)


@pytest.fixture
def kv(vault: VaultProcess, mount: Callable[..., Mount], tmp_path: Path) -> Mount:
    """The set, mounted and read once."""
    vault.certificate("web-tls", "pkcs12", key="ec", intermediates=1, order="shuffled")
    file = tmp_path / "kv.toml"
    file.write_text(CONFIGURATION)
    made = mount(f"config={file}", "ttl=1", "list_ttl=1", "max_stale=60")
    read(made)
    return made


def read(kv: Mount) -> dict[str, str]:
    return {part: (kv / f"set/{part}").read_text() for part in PARTS}


def public(command: str, text: str) -> bytes:
    words = ["openssl", *command.split()]
    return subprocess.run(words, input=text.encode(), capture_output=True, check=True).stdout


def check(found: dict[str, str]) -> None:
    """All five are of one version."""
    assert found["fullchain"] == found["cert"] + found["chain"]
    assert found["pem"] == found["key"] + found["fullchain"]
    assert public("pkey -pubout", found["key"]) == public("x509 -pubkey -noout", found["cert"])


class Watch:
    """Waits for the first event of any file of the set."""

    def __init__(self, kv: Mount) -> None:
        events = "attrib,delete_self,move_self"
        self._child = subprocess.Popen(
            ["inotifywait", "-e", events, *(str(kv / f"set/{part}") for part in PARTS)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self._child.stderr is not None
        for line in self._child.stderr:
            if line.startswith(b"Watches established"):
                break

    def woken(self) -> bool:
        return self._child.poll() is not None

    def close(self) -> None:
        self._child.kill()
        self._child.communicate()


def watched(kv: Mount, rounds: int) -> Iterator[tuple[int, Watch]]:
    for number in range(rounds):
        watch = Watch(kv)
        try:
            yield number, watch
        finally:
            watch.close()


def rotate(vault: VaultProcess, number: int) -> None:
    vault.certificate(
        "web-tls", ("pem", "pkcs12")[number % 2], key="ec", intermediates=number % 3, order="shuffled"
    )


@pytest.mark.timeout(400)
def test_a_hundred_rotations_show_no_mixed_set(vault: VaultProcess, kv: Mount) -> None:
    seen = read(kv)
    for number, watch in watched(kv, 100):
        rotate(vault, number)
        wait_until(watch.woken, f"an event of rotation {number}")
        found = read(kv)
        check(found)
        assert found["key"] != seen["key"], f"rotation {number} was announced before it could be read"
        seen = found


def test_a_kill_in_the_midst_of_a_rotation_leaves_no_mixed_set(vault: VaultProcess, kv: Mount) -> None:
    seen = read(kv)
    for number, watch in watched(kv, 8):
        rotate(vault, number)
        if number % 2:
            os.kill(kv.worker(), signal.SIGKILL)
        wait_until(lambda: vault.describe("web-tls") is not None, "the vault")
        wait_until(watch.woken, f"an event of rotation {number}")
        if not number % 2:
            os.kill(kv.worker(), signal.SIGKILL)
        # What was heard may be the end of the rotation before, whose worker did not come to its last file.
        old = seen["key"]
        wait_until(lambda old=old: (kv / "set/key").read_text() != old, f"rotation {number}")  # type: ignore[misc]
        found = read(kv)
        check(found)
        seen = found
        wait_until(kv.has_worker, "a worker")
        assert read(kv) == seen, "and nothing goes back"
