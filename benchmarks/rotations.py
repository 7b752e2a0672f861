"""What a rotation costs: from the moment in which the mount hears of it to that in which a watcher does."""

from __future__ import annotations

import ctypes
import os
import select
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import processes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.mount import Mount
    from tests.support.vault import VaultProcess

_IN_MOVED_TO = 0x80
_PATIENCE_MS = 10_000
_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """An inotify watch on a folder, for names that are renamed into it."""

    def __init__(self, folder: Path) -> None:
        self._fd = _libc.inotify_init1(os.O_CLOEXEC)
        if self._fd < 0 or _libc.inotify_add_watch(self._fd, os.fsencode(folder), _IN_MOVED_TO) < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def wait(self) -> float:
        """Until something is heard; returns when that was, in seconds of the monotonic clock."""
        if not self._poll.poll(_PATIENCE_MS):
            raise TimeoutError("a rotation was not heard")
        now = time.monotonic()
        os.read(self._fd, 4096)
        return now

    def close(self) -> None:
        """End it."""
        os.close(self._fd)


def rotate(vault: VaultProcess, mount: Mount, name: str, count: int) -> Iterator[float]:
    """Rotate a name that is in use; yields the seconds from the vault's having the request to the event."""
    path = mount / name
    path.read_bytes()
    watch = Watch(mount.where)
    try:
        for number in range(count):
            vault.rotate(name, str(number))
            vault.reset_requests()
            (mount / ".keyvaultfs/refresh").read_bytes()
            path.read_bytes()
            heard = watch.wait()
            yield heard - vault.requests("get", name)[0]["time"]
    finally:
        watch.close()


def cpu_seconds(mount: Mount) -> float:
    """Processor time so far of keeper, worker and the child that renames."""
    keeper = mount.process.pid
    children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text(encoding="ascii").split()
    return sum(processes.cpu_seconds(pid) for pid in (keeper, *map(int, children)))
