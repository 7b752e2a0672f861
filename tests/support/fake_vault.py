"""A vault in pure trio, with a history and a request log, for the cache's tests."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import trio

from keyvaultfs.errors import BadAnswer, Disabled, NotFound, Refused, Unavailable
from keyvaultfs.model import ListItem, Properties, Secret, SecretName, SecretValue, Version, VersionItem

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

WALL = 1_700_000_000
PAGE = 25


@dataclass
class Stored:
    """A secret: its versions, and the current one's properties."""

    name: SecretName
    version: Version
    values: dict[Version, bytes]
    properties: Properties
    changed: float
    created: dict[Version, int | None] = field(default_factory=dict)

    def of(self, version: Version) -> Properties:
        """The properties of a version: its own date, and otherwise the current one's."""
        return self.properties._replace(created=self.created.get(version))


@dataclass
class FakeVault:
    """Answers after `latency` seconds; `down` and `refused` are faults of the whole vault.

    Attributes:
        asked: requests by kind and name; ``list`` counts pages.
        history: (time, name, value or None) of every change.
    """

    latency: float = 0.0
    down: bool = False
    silent: bool = False
    refused: bool = False
    list_refused: bool = False
    list_bad: bool = False
    fixed_wall: int | None = None
    asked: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    in_flight_max: int = 0
    history: list[tuple[float, str, bytes | None]] = field(default_factory=list)
    secrets: dict[str, Stored] = field(default_factory=dict)
    hanging: set[str] = field(default_factory=set)
    forbidden: set[str] = field(default_factory=set)
    _number: int = 0

    def wall(self) -> int:
        """Its clock, in whole Unix seconds."""
        return self.fixed_wall if self.fixed_wall is not None else WALL + int(trio.current_time())

    def put(self, name: str, value: str) -> Version:
        """A new version."""
        self._number += 1
        version = Version(f"{self._number:032x}")
        old = self.secrets.get(name.lower())
        values = (old.values if old else {}) | {version: value.encode()}
        created = self.wall()
        properties = Properties(created=created, updated=created)
        self.secrets[name.lower()] = Stored(
            SecretName(name), version, values, properties, trio.current_time(),
            (old.created if old else {}) | {version: created},
        )  # fmt: skip
        self.history.append((trio.current_time(), name.lower(), value.encode()))
        return version

    def patch(self, name: str, **changes: object) -> None:
        """Change attributes without a new version."""
        stored = self.secrets[name.lower()]
        stored.properties = stored.properties._replace(updated=self.wall(), **changes)  # type: ignore[arg-type]
        if "enabled" in changes:
            value = stored.values[stored.version] if changes["enabled"] else None
            self.history.append((trio.current_time(), name.lower(), value))

    def delete(self, name: str) -> None:
        """Take it away."""
        if self.secrets.pop(name.lower(), None) is not None:
            self.history.append((trio.current_time(), name.lower(), None))

    def reset(self) -> None:
        """Forget what was asked."""
        self.asked.clear()

    async def _answer(self, kind: str, name: str = "") -> None:
        self.asked[kind] += 1
        if name:
            self.asked[f"{kind} {name}"] += 1
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        try:
            await trio.sleep(self.latency)
            if self.silent or name in self.hanging:
                await trio.sleep_forever()
        finally:
            self.in_flight -= 1
        if self.down:
            raise Unavailable("Down")
        if self.refused or name in self.forbidden or (self.list_refused and kind == "list"):
            raise Refused("ForbiddenByRbac")
        if self.list_bad and kind == "list" and self.asked["list"] % 2 == 0:
            raise BadAnswer("LoopingNextLink")

    async def get(self, name: SecretName) -> Secret:
        """See `SecretSource`."""
        stored = self.secrets.get(name.key)  # read before the answer travels
        snapshot = None if stored is None else replace(stored)
        await self._answer("get", name.key)
        if snapshot is None:
            raise NotFound("SecretNotFound")
        if not snapshot.properties.enabled:
            raise Disabled("SecretDisabled")
        value = SecretValue(snapshot.values[snapshot.version])
        return Secret(snapshot.name, snapshot.version, value, snapshot.properties, float(self.wall()))

    async def get_version(self, name: SecretName, version: Version) -> Secret:
        """See `SecretSource`."""
        await self._answer("version", name.key)
        stored = self.secrets.get(name.key)
        if stored is None or version not in stored.values:
            raise NotFound("SecretNotFound")
        return Secret(
            stored.name, version, SecretValue(stored.values[version]), stored.of(version), float(self.wall())
        )

    async def pages(self) -> AsyncGenerator[tuple[ListItem, ...], None]:
        """See `SecretSource`."""
        last = ""
        while True:
            later = sorted(key for key in self.secrets if key > last)
            page = [ListItem(self.secrets[key].name, self.secrets[key].properties) for key in later[:PAGE]]
            await self._answer("list")
            yield tuple(page)
            if len(later) <= PAGE:
                return
            last = later[PAGE - 1]

    async def versions(self, name: SecretName) -> tuple[VersionItem, ...]:
        """See `SecretSource`."""
        await self._answer("versions", name.key)
        stored = self.secrets.get(name.key)
        return () if stored is None else tuple(VersionItem(one, stored.of(one)) for one in stored.values)
