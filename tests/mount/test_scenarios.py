"""The scenarios that hold for the handlers called directly, on a real mount of the embedded vault."""

from __future__ import annotations

import ctypes
import os
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trio

from tests.support.scenarios import SCENARIOS, Facts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
    from pathlib import Path

    from tests.support.mount import Mount
    from tests.support.scenarios import Driver
    from tests.support.vault import VaultProcess

_MS_NOSUID_NODEV_NOEXEC, _MS_REMOUNT, _MS_BIND = 14, 32, 4096  # of mount(2)
_ALL = 1 << 20


class Held(NamedTuple):
    """A descriptor."""

    fd: int

    async def read(self) -> bytes:
        """By the file system: the kernel drops its own pages of it first."""
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return await trio.to_thread.run_sync(os.pread, self.fd, _ALL, 0)


class Mounted:
    """System calls, each in a thread, since one may wait for the vault."""

    def __init__(self, vault: VaultProcess, root: Path) -> None:
        self._vault = vault
        self._root = root
        self.url = vault.url

    async def put(self, name: str, value: str, **attributes: object) -> str:
        return self._vault.set(name, value, **attributes)

    async def change(self, name: str, **attributes: object) -> None:
        self._vault.update(name, None, **attributes)

    async def delete(self, name: str) -> None:
        self._vault.delete(name, erase=True)

    async def outage(self, *, begins: bool) -> None:
        if begins:
            self._vault.outage("both")
        else:
            self._vault.clear_faults()

    async def refresh(self) -> None:
        assert (await self.read(".keyvaultfs/refresh")).startswith(b"forgot ")

    async def moment(self) -> None:
        await trio.sleep(0.1)

    async def stat(self, path: str) -> Facts:
        found = await trio.to_thread.run_sync(os.stat, self._root / path)
        return Facts(found.st_size, found.st_mode, found.st_ino)

    async def read(self, path: str) -> bytes:
        return await trio.to_thread.run_sync((self._root / path).read_bytes)

    async def names(self, path: str = "") -> list[str]:
        return sorted(await trio.to_thread.run_sync(os.listdir, self._root / path))

    async def attribute(self, path: str, name: str) -> str:
        found = await trio.to_thread.run_sync(os.getxattr, self._root / path, f"user.keyvault.{name}")
        return found.decode()

    async def attributes(self, path: str) -> list[str]:
        return await trio.to_thread.run_sync(os.listxattr, self._root / path)

    @asynccontextmanager
    async def held(self, path: str) -> AsyncGenerator[Held]:
        fd = await trio.to_thread.run_sync(os.open, self._root / path, os.O_RDONLY)
        try:
            yield Held(fd)
        finally:
            os.close(fd)

    def writes(self, path: str) -> Mapping[str, Callable[[], Awaitable[object]]]:
        """Through a mount that is marked read-only no more: or the kernel would answer, and no handler be asked."""
        remount = _MS_REMOUNT | _MS_BIND | _MS_NOSUID_NODEV_NOEXEC
        assert ctypes.CDLL(None).mount(None, os.fsencode(self._root), None, remount, None) == 0
        there, new = self._root / path, self._root / "new"
        calls: dict[str, Callable[[], object]] = {
            "open for writing": partial(os.open, there, os.O_WRONLY),
            "open and truncate": partial(os.open, there, os.O_RDONLY | os.O_TRUNC),
            "chmod": partial(there.chmod, 0o600),
            "setxattr": partial(os.setxattr, there, "user.x", b"y"),
            "create": partial(os.open, new, os.O_WRONLY | os.O_CREAT, 0o600),
            "mkdir": new.mkdir,
            "symlink": partial(new.symlink_to, "x"),
            "unlink": there.unlink,
            "rename": partial(there.rename, new),
        }
        return {what: partial(trio.to_thread.run_sync, call) for what, call in calls.items()}


@pytest.mark.parametrize("name", SCENARIOS)
async def test_of_the_mount(name: str, vault: VaultProcess, mount: Callable[..., Mount]) -> None:
    scenario = SCENARIOS[name]
    kv = mount("timeout=6", *(f"{option}={limit:g}" for option, limit in scenario.limits.items()))
    driver: Driver = Mounted(vault, kv.where)
    await scenario.steps(driver)
