"""Which bytes an inode shows: bytes of one version never go with the size of another."""

from __future__ import annotations

import os
import random
import threading
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from keyvaultfs.cache.cache import Cache, Limits
from keyvaultfs.cache.values import ValueStore
from keyvaultfs.filesystem.attributes import Appearance
from keyvaultfs.filesystem.inodes import InodeTable
from keyvaultfs.filesystem.nodes import State
from keyvaultfs.filesystem.resolver import Resolver
from keyvaultfs.filesystem.rotation import Rotation
from keyvaultfs.log import Causes
from keyvaultfs.metrics import CacheMetrics, FilesystemMetrics
from keyvaultfs.model import SecretName
from tests.support.fake_vault import FakeVault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PW = SecretName("pw")


class Kernel:
    """Notes what it is told; a notification may block as the real one does while a directory is locked."""

    def __init__(self) -> None:
        self.inodes: list[int] = []
        self.entries: list[tuple[bytes, int]] = []
        self.inode_free = threading.Event()
        self.entry_free = threading.Event()
        self.inode_free.set()
        self.entry_free.set()

    def inode(self, inode: int) -> None:
        self.inode_free.wait(20)
        self.inodes.append(inode)

    def entry(self, name: bytes, deleted: int) -> None:
        self.entry_free.wait(20)
        self.entries.append((name, deleted))


class Parts:
    """A resolver with all that it stands on, and no FUSE."""

    def __init__(self) -> None:
        self.fds = [os.memfd_create("table"), os.memfd_create("values")]
        self.vault = FakeVault()
        self.kernel = Kernel()
        self.cache = Cache(
            self.vault,
            Limits(ttl=10, list_ttl=10, negative_ttl=1, max_stale=100, max_cache=1 << 20, timeout=5),
            metrics=CacheMetrics(),
            causes=Causes(trio.current_time),
            rng=random.Random(1),
            store=ValueStore(self.fds[1], 1 << 20),
        )
        self.build()

    def build(self) -> None:
        """As at the begin, and as a successor does."""
        self.table = InodeTable(self.fds[0], "https://v.vault.azure.net")
        self.rotation = Rotation(
            self.table, FilesystemMetrics(), helper=lambda _: None, pending=lambda: 0, kernel=self.kernel
        )
        look = Appearance(uid=0, gid=0, mode=0o400, dir_mode=0o755, started=0)
        self.resolver = Resolver(self.cache, self.table, self.rotation, look, decode=False)

    async def lookup(self) -> int:
        found = await self.resolver.lookup(PW, b"pw", 5)
        return int(found.st_ino)

    async def rotate(self, text: str) -> None:
        """The vault has a new version, and the cache knows."""
        self.vault.put("pw", text)
        self.cache.expire()
        await self.cache.get(PW)


@pytest.fixture
async def parts(nursery: trio.Nursery) -> AsyncIterator[Parts]:
    made = Parts()
    await nursery.start(made.cache.run)
    yield made
    made.kernel.inode_free.set()
    made.kernel.entry_free.set()
    for fd in made.fds:
        os.close(fd)


async def test_an_open_shows_new_bytes_only_after_the_kernel_was_asked_for_the_size_anew(
    parts: Parts, nursery: trio.Nursery
) -> None:
    parts.vault.put("pw", "short")
    old = parts.table.nodes[await parts.lookup()]
    await parts.rotate("very much longer")
    parts.kernel.inode_free.clear()
    parts.rotation.supersede(old)
    nursery.start_soon(parts.rotation.run)
    handle, keep = await parts.resolver.open(old, 5)
    assert (handle.content.size, keep) == (5, False)
    assert await parts.resolver.read(handle, 0, 99) == b"short"
    parts.resolver.release(handle.fh)
    parts.kernel.inode_free.set()
    handle, keep = await parts.resolver.open(old, 5)
    assert (handle.content.size, keep) == (16, False)
    assert await parts.resolver.read(handle, 0, 99) == b"very much longer"


async def test_a_notification_that_waits_for_a_directory_holds_up_no_other_inodes_attributes(
    parts: Parts, nursery: trio.Nursery
) -> None:
    for name in ("pw", "other"):
        parts.vault.put(name, "x")
    first = parts.table.nodes[await parts.lookup()]
    found = await parts.resolver.lookup(SecretName("other"), b"other", 5)
    second = parts.table.nodes[found.st_ino]
    parts.kernel.entry_free.clear()
    nursery.start_soon(parts.rotation.run)
    parts.rotation.supersede(first)
    asked, done = parts.rotation.supersede(second)
    with trio.fail_after(10):
        await asked.wait()
    assert not done.is_set()
    assert parts.kernel.inodes == [first.inode, second.inode]


async def test_a_lookup_that_waited_for_a_notification_gives_no_name_back_to_a_lost_version(
    parts: Parts, nursery: trio.Nursery
) -> None:
    parts.vault.put("pw", "one")
    first = await parts.lookup()
    await parts.rotate("two")
    second: list[int] = []
    ended = trio.Event()

    async def slow() -> None:
        second.append(await parts.lookup())  # no notification thread runs: it waits for the bound
        ended.set()

    nursery.start_soon(slow)
    await trio.testing.wait_all_tasks_blocked()
    await parts.rotate("three")
    with trio.fail_after(10):
        await ended.wait()
    assert second[0] != first
    assert parts.table.nodes[second[0]].size == 5
    assert parts.table.told["pw"].inode == second[0]


async def test_files_of_doubt_show_what_their_inode_shows(parts: Parts, nursery: trio.Nursery) -> None:
    parts.vault.put("pw", "short")
    old = parts.table.nodes[await parts.lookup()]
    handle, _ = await parts.resolver.open(old, 5)
    parts.build()  # a successor: whether the kernel has got that OPEN's answer is not known
    old = parts.table.nodes[old.inode]
    await parts.rotate("very much longer")
    nursery.start_soon(parts.rotation.run)
    parts.rotation.supersede(old)
    other, _ = await parts.resolver.open(old, 5)
    doubtful = parts.table.handle(handle.fh)
    assert doubtful is not None
    assert await parts.resolver.read(doubtful, 0, 99) == await parts.resolver.read(other, 0, 99)
    assert old.state is not State.CURRENT
