"""A cache on a fake vault, for tests that turn the clock."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from keyvaultfs.cache.cache import Cache, Limits, Rotated
from keyvaultfs.cache.values import ValueStore
from keyvaultfs.files.tree import File, Tree
from keyvaultfs.log import Causes
from keyvaultfs.metrics import CacheMetrics
from keyvaultfs.model import SecretName, Version
from tests.support.fake_vault import FakeVault

if TYPE_CHECKING:
    from keyvaultfs.cache.source import SecretSource

N = SecretName
TREE = Tree()


def flat(name: str) -> File:
    """The file of a secret in the root."""
    return TREE.file(name)


TTL = 300.0


@dataclass
class World:
    """A cache, what it stands on, and what others hold of it."""

    vault: FakeVault
    cache: Cache
    held: set[tuple[SecretName, Version]]
    let_go: list[str]

    async def read(self, name: str) -> str:
        """What an open and a read of the file give."""
        entry = await self.cache.get(N(name))
        self.cache.touch(N(name))
        return (await self.cache.value(entry.name, entry.version)).reveal().decode()

    def rotations(self) -> list[tuple[str, Version | None, Version | None]]:
        """What was announced since the last look."""
        found: list[tuple[str, Version | None, Version | None]] = []
        while True:
            try:
                event: Rotated = self.cache.rotated.receive_nowait()
            except trio.WouldBlock:
                return found
            found.append((event.name.key, event.old, event.new))

    def hold(self, name: str) -> Version:
        """As the kernel holds an inode for a watch."""
        record = self.cache.records[name]
        assert record.version is not None
        self.held.add((record.name, record.version))
        return record.version


def new_cache(source: SecretSource, limits: Limits, **kwargs: Any) -> Cache:
    """A cache as tests want it: by trio's clock alone, with its own store, and the same chance each time."""
    defaults = {
        "metrics": CacheMetrics(),
        "causes": Causes(trio.current_time),
        "rng": random.Random(1),
        "monotonic": trio.current_time,
    }
    if "store" not in kwargs:
        defaults["store"] = ValueStore(None, limits.max_cache)
    return Cache(source, limits, **(defaults | kwargs))  # type: ignore[arg-type]


@asynccontextmanager
async def world(
    vault: FakeVault | None = None, store: ValueStore | None = None, **kwargs: Any
) -> AsyncGenerator[World]:
    vault = FakeVault() if vault is None else vault
    limit_names = set(Limits._fields)
    limits = Limits(**{key: value for key, value in kwargs.items() if key in limit_names})
    others = {key: value for key, value in kwargs.items() if key not in limit_names}
    held: set[tuple[SecretName, Version]] = set()
    let_go: list[str] = []
    if store is not None:
        others["store"] = store
    cache = new_cache(vault, limits, held=lambda: held, let_go=lambda name: let_go.append(name.key), **others)
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        yield World(vault, cache, held, let_go)
        nursery.cancel_scope.cancel()


async def names_of(w: World) -> list[str]:
    """The listing."""
    return [item.name.key async for page in w.cache.listing() for item in page]
