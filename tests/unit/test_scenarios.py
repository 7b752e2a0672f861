"""The scenarios of a mount, on the handlers called directly: without a kernel, and by a clock that jumps."""

from __future__ import annotations

import errno
import os
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pyfuse3
import pytest
import trio

from tests.support.handlers import OTHERS, URL, handlers
from tests.support.scenarios import SCENARIOS, Facts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping

    from trio.testing import MockClock

    from tests.support.fake_vault import FakeVault
    from tests.support.scenarios import Driver

_ENTRIES_IN_A_REPLY = 7
_BYTES_IN_A_REPLY = 4


class Reply(list[tuple[str, int]]):
    """What libfuse collects of a READDIR: names, and where to go on after each."""

    def add(self, name: bytes, _attributes: object, cookie: int) -> bool:
        """As `pyfuse3.readdir_reply`."""
        if len(self) >= _ENTRIES_IN_A_REPLY:
            return False
        self.append((os.fsdecode(name), cookie))
        return True


@contextmanager
def as_a_program_has_it() -> Iterator[None]:
    try:
        yield
    except pyfuse3.FUSEError as exc:
        raise OSError(exc.errno, os.strerror(exc.errno)) from None


class Held(NamedTuple):
    """A handle."""

    operations: Any
    fh: int

    async def read(self) -> bytes:
        """In pieces, as the kernel asks."""
        found = b""
        with as_a_program_has_it():
            while piece := await self.operations.read(self.fh, len(found), _BYTES_IN_A_REPLY):
                found += piece
        return found


class Direct:
    """The kernel's part: walks paths, repeats an open that fails with ESTALE once, and caches nothing."""

    url = URL

    def __init__(self, vault: FakeVault, operations: Any) -> None:
        self._vault = vault
        self._operations = operations

    async def put(self, name: str, value: str, **attributes: object) -> str:
        version = self._vault.put(name, value)
        if attributes:
            self._vault.patch(name, **attributes)
        return version

    async def change(self, name: str, **attributes: object) -> None:
        self._vault.patch(name, **attributes)

    async def delete(self, name: str) -> None:
        self._vault.delete(name)

    async def outage(self, *, begins: bool) -> None:
        self._vault.down = begins

    async def refresh(self) -> None:
        assert (await self.read(".keyvaultfs/refresh")).startswith(b"forgot ")

    async def moment(self) -> None:
        await trio.sleep(0.1)

    async def stat(self, path: str) -> Facts:
        found = await self._walk(path)
        again = await self._operations.getattr(found.st_ino, OTHERS)
        assert (again.st_size, again.st_mode) == (found.st_size, found.st_mode)
        return Facts(found.st_size, found.st_mode, found.st_ino)

    async def read(self, path: str) -> bytes:
        async with self.held(path) as file:
            return await file.read()

    async def names(self, path: str = "") -> list[str]:
        inode = await self._inode(path)
        found: list[str] = []
        with as_a_program_has_it():
            fh = await self._operations.opendir(inode, OTHERS)
            position = 0
            while True:
                reply = Reply()
                await self._operations.readdir(fh, position, reply)
                if not reply:
                    break
                found += [name for name, _ in reply]
                position = reply[-1][1]
            await self._operations.releasedir(fh)
        return sorted(found)

    async def attribute(self, path: str, name: str) -> str:
        inode = await self._inode(path)
        with as_a_program_has_it():
            found: bytes = await self._operations.getxattr(inode, b"user.keyvault." + name.encode(), OTHERS)
        return found.decode()

    async def attributes(self, path: str) -> list[str]:
        return [
            os.fsdecode(name) for name in await self._operations.listxattr(await self._inode(path), OTHERS)
        ]

    @asynccontextmanager
    async def held(self, path: str) -> AsyncGenerator[Held]:
        try:
            opened = await self._open(path)
        except OSError as exc:
            if exc.errno != errno.ESTALE:
                raise
            opened = await self._open(path)
        yield Held(self._operations, opened.fh)
        await self._operations.release(opened.fh)

    def writes(self, path: str) -> Mapping[str, Callable[[], Awaitable[object]]]:
        kv, root, raw = self._operations, pyfuse3.ROOT_INODE, os.fsencode(path)

        async def of_the_inode(handler: Callable[..., Awaitable[object]], *arguments: object) -> None:
            inode = await self._inode(path)
            with as_a_program_has_it():
                await handler(inode, *arguments, OTHERS)

        async def beside(handler: Callable[..., Awaitable[object]], *arguments: object) -> None:
            with as_a_program_has_it():
                await handler(root, *arguments, OTHERS)

        return {
            "open for writing": lambda: of_the_inode(kv.open, os.O_WRONLY),
            "open and truncate": lambda: of_the_inode(kv.open, os.O_RDONLY | os.O_TRUNC),
            "chmod": lambda: of_the_inode(kv.setattr, None, None, None),
            "setxattr": lambda: of_the_inode(kv.setxattr, b"user.x", b"y"),
            "create": lambda: beside(kv.create, b"new", 0o600, os.O_WRONLY),
            "mkdir": lambda: beside(kv.mkdir, b"new", 0o700),
            "symlink": lambda: beside(kv.symlink, b"new", b"x"),
            "unlink": lambda: beside(kv.unlink, raw),
            "rename": lambda: beside(kv.rename, raw, root, b"new", 0),
        }

    async def _open(self, path: str) -> pyfuse3.FileInfo:
        inode = await self._inode(path)
        with as_a_program_has_it():
            opened: pyfuse3.FileInfo = await self._operations.open(inode, os.O_RDONLY, OTHERS)
        return opened

    async def _inode(self, path: str) -> int:
        return int((await self._walk(path)).st_ino)

    async def _walk(self, path: str) -> pyfuse3.EntryAttributes:
        with as_a_program_has_it():
            found: pyfuse3.EntryAttributes = await self._operations.getattr(pyfuse3.ROOT_INODE, OTHERS)
            for part in filter(None, path.split("/")):
                found = await self._operations.lookup(found.st_ino, os.fsencode(part), OTHERS)
                if not found.st_ino:  # an absence that the kernel may remember
                    raise pyfuse3.FUSEError(errno.ENOENT)
        return found


@pytest.mark.parametrize("name", SCENARIOS)
async def test_of_the_handlers(
    name: str,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pyfuse3, "readdir_reply", Reply.add)
    scenario = SCENARIOS[name]
    async with handlers(**scenario.limits) as (w, operations):
        driver: Driver = Direct(w.vault, operations)
        await scenario.steps(driver)
