"""A control group with too little memory: values go first, then the mount ends with a sentence; nobody hangs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.mount import PATIENCE, Mount, mounts_below, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.vault import VaultProcess

    Mounter = Callable[..., Mount]

GROUPS = Path("/sys/fs/cgroup")
V1 = (GROUPS / "memory/memory.limit_in_bytes").exists()


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group for memory, below ours."""
    parent = GROUPS / "memory" if V1 else GROUPS
    if not V1:
        with contextlib.suppress(OSError):
            (parent / "cgroup.subtree_control").write_text("+memory")
    folder = Path(tempfile.mkdtemp(prefix="keyvaultfs-test-", dir=parent))
    yield folder
    wait_until(lambda: not (folder / "cgroup.procs").read_text(), "the group to be empty")
    folder.rmdir()


def limit(group: Path, size: int) -> None:
    (group / ("memory.limit_in_bytes" if V1 else "memory.max")).write_text(str(size))


def used(group: Path) -> int:
    return int((group / ("memory.usage_in_bytes" if V1 else "memory.current")).read_text())


def put(group: Path, kv: Mount) -> None:
    """Both processes of a mount."""
    for pid in (kv.process.pid, kv.worker()):
        (group / "cgroup.procs").write_text(str(pid))


@pytest.mark.slow
def test_after_an_out_of_memory_kill_fewer_values_are_kept_and_all_is_served(
    group: Path, vault: VaultProcess, mount: Mounter
) -> None:
    value = "v" * 25_000
    for number in range(900):
        vault.set(f"s{number}", value)
    kv = mount()
    put(group, kv)
    os.kill(kv.worker(), signal.SIGKILL)  # memory is charged to the group in which it was first touched
    assert (kv / "s0").read_text() == value
    limit(group, used(group) + (10 << 20))
    for number in range(900):
        assert (kv / f"s{number}").read_text() == value
    kv.says("for lack of memory")
    assert kv.process.poll() is None, kv.log()
    (group / ("memory.limit_in_bytes" if V1 else "memory.max")).write_text("-1" if V1 else "max")


@pytest.mark.slow
def test_a_worker_that_never_has_enough_memory_ends_the_mount_with_a_sentence(
    group: Path, vault: VaultProcess, mount: Mounter
) -> None:
    vault.set("pw", "x")
    kv = mount()
    put(group, kv)
    limit(group, 16 << 20)
    os.kill(kv.worker(), signal.SIGKILL)
    began = time.monotonic()
    reader = subprocess.Popen(["cat", kv / "pw"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert kv.process.wait(60) == 1
    assert "for lack of memory" in kv.log()
    assert "workers in a row" in kv.log()
    assert reader.wait(PATIENCE) != 0
    assert mounts_below(kv.where) == []
    print(f"\n  ended after {time.monotonic() - began:.1f} s")
