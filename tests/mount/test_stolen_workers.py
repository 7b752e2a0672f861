"""Somebody has taken a worker over, and has all that it has: its descriptors, its channel, and what it leaves."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from keyvaultfs import ipc
from tests.support.mount import wait_until
from tests.support.stolen import descriptor_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.mount import Mount
    from tests.support.vault import VaultProcess

    Mounter = Callable[..., Mount]


def test_memory_that_the_keeper_has_mapped_cannot_be_cut_short(
    vault: VaultProcess, mount: Mounter, tmp_path: Path
) -> None:
    vault.set("pw", "x")
    kv = mount(f"audit={tmp_path}/log")
    with descriptor_of(kv.worker(), ipc.TALLIES_FD) as fd:
        for size in (1 << 20, 0):
            with contextlib.suppress(PermissionError):
                os.ftruncate(fd, size)
        assert (kv / "pw").read_text() == "x"
        wait_until(lambda: kv.metric("audit_records") == 1, "the record")
        kv.process.send_signal(signal.SIGHUP)
        kv.says("has taken over")
        assert (kv / "pw").read_text() == "x"
    assert kv.process.poll() is None


@pytest.mark.parametrize("size", [0, 16, 100, 1 << 50], ids=str)
@pytest.mark.parametrize(
    "fd", [ipc.TABLE_FD, ipc.VALUES_FD, ipc.READERS_FD], ids=["table", "values", "readers"]
)
def test_what_a_worker_leaves_may_have_any_size(
    fd: int, size: int, vault: VaultProcess, mount: Mounter
) -> None:
    for name in ("one", "two"):
        vault.set(name, name)
    kv = mount()
    assert (kv / "one").read_text() == "one"
    pid = kv.worker()
    with descriptor_of(pid, fd) as memory:
        os.kill(pid, signal.SIGSTOP)
        os.ftruncate(memory, size)
        os.kill(pid, signal.SIGKILL)
        assert (kv / "two").read_text() == "two"
        assert (kv / "one").read_text() == "one"
    assert kv.process.poll() is None, kv.log()


def test_what_a_worker_attaches_to_its_messages_reaches_nobody(vault: VaultProcess, mount: Mounter) -> None:
    """Where the kernel cannot refuse it, the worker is killed."""
    vault.set("pw", "x")
    kv = mount()
    pid = kv.worker()
    with descriptor_of(pid, ipc.CHANNEL_FD) as fd, socket.socket(fileno=os.dup(fd)) as channel:
        try:
            socket.send_fds(channel, [b'{"kind": "heartbeat"}'], [0])
        except PermissionError:
            assert kv.worker() == pid
        else:
            kv.says("sent descriptors")
    assert (kv / "pw").read_text() == "x"


def test_a_worker_that_says_again_and_again_that_it_is_ready_is_heard_once(
    vault: VaultProcess, mount: Mounter
) -> None:
    vault.set("pw", "x")
    kv = mount()
    os.kill(kv.worker(), signal.SIGKILL)
    kv.says("has taken over")
    with descriptor_of(kv.worker(), ipc.CHANNEL_FD) as fd, socket.socket(fileno=os.dup(fd)) as channel:
        for _ in range(50):
            with contextlib.suppress(BlockingIOError):
                channel.send(b'{"kind": "ready", "notes": ["note"]}')
        channel.send(b"noise")
        kv.says("is no message")
    assert kv.log().count("has taken over") == 1
