"""A mount begins before its command line is read, and leaves nothing when that is wrong."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.mount import KEYVAULTFS, environment, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.mount import Mount
    from tests.support.vault import VaultProcess

    Mounter = Callable[..., Mount]


def workers(text: str) -> list[int]:
    """Processes of workers that were started for a mount point."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"keyvaultfs.worker" in words and os.fsencode(text) in words:
                found.append(int(folder.name))
    return found


@pytest.mark.parametrize("stays", [(), ("-f",)])
@pytest.mark.parametrize("wrong", ["nosuch=1", "config=/nonexistent"])
def test_what_began_ends_with_a_command_line_that_is_wrong(
    stays: tuple[str, ...], wrong: str, tmp_path: Path
) -> None:
    words = [*KEYVAULTFS, "mount", *stays, "some-vault", str(tmp_path), "-o", wrong]
    done = subprocess.run(
        words, check=False, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    wait_until(lambda: workers(str(tmp_path)) == [], "the worker to end")


def test_the_worker_that_began_ahead_is_the_one_that_serves(vault: VaultProcess, mount: Mounter) -> None:
    vault.set("pw", "x")
    kv = mount()
    assert (kv / "pw").read_text() == "x"
    assert kv.status()["workers"] == 1
    assert workers(str(kv.where)) == [kv.worker()]
    links = [os.readlink(f"/proc/{kv.worker()}/fd/{fd}") for fd in range(7)]
    assert links[0] == links[1] == "/dev/null"
    assert links[3] == "/dev/fuse"
    assert [link.split(" ")[0] for link in links[5:]] == [
        "/memfd:keyvaultfs-table",
        "/memfd:keyvaultfs-values",
    ]
