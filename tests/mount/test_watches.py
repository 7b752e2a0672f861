"""A watch on a file hears of a rotation, also where somebody else meets it before."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.mount import Mount, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.vault import VaultProcess


@pytest.mark.parametrize("path", ["pw", "folder/pw"])
def test_a_look_up_that_finds_the_rotation_first_does_not_make_watches_deaf(
    vault: VaultProcess, mount: Callable[..., Mount], tmp_path: Path, path: str
) -> None:
    """The kernel has dropped its entry, so the look-up holds the folder's lock and cannot wait for the announcement."""
    vault.set("pw", "start")
    (tmp_path / "kv.toml").write_text('[files."folder/pw"]\nsecret = "pw"\nnewline = true\n')
    kv = mount(f"config={tmp_path / 'kv.toml'}", "ttl=1", "list_ttl=1")
    (kv / path).read_bytes()
    for number in range(5):
        rotate_under_watch(vault, kv, path, str(number))


def rotate_under_watch(vault: VaultProcess, kv: Mount, path: str, value: str) -> None:
    watch = subprocess.Popen(
        ["inotifywait", "-e", "attrib,delete_self", kv / path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert watch.stderr is not None
        while not (line := watch.stderr.readline()).startswith(b"Watches established"):
            assert line, "it has ended"
        vault.set("pw", value)
        (kv / ".keyvaultfs/refresh").read_bytes()
        os.stat(kv / path)
        wait_until(lambda: watch.poll() is not None, f"an event of rotation {value}: {kv.log()}")
        assert (kv / path).read_text().strip() == value
    finally:
        watch.kill()
        watch.communicate()
