"""A fleet on one vault that has a limit: our own code from the cache down to the throttle, on a clock that is turned.

Only the sockets are left out: what `Transport` would send is answered by `BusyVault`.
"""

from __future__ import annotations

import json
import math
import random
import ssl
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import trio
from trio.testing import MockClock

from keyvaultfs.cache.freshness import Limits
from keyvaultfs.errors import KeyVaultFSError
from keyvaultfs.identity.token import AccessToken, SharedToken
from keyvaultfs.keyvault.client import KeyVaultClient
from keyvaultfs.keyvault.origin import Origin
from keyvaultfs.log import Causes
from keyvaultfs.metrics import IdentityMetrics, TransportMetrics
from keyvaultfs.model import SecretName, SecretValue
from keyvaultfs.transport.answer import Answer
from keyvaultfs.transport.session import Transport
from keyvaultfs.transport.throttle import Throttle
from tests.support.world import new_cache

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from keyvaultfs.cache.cache import Cache

WINDOW = 10
"""Seconds in which a vault takes so many transactions (PROTOCOL §6)."""

_URL = "https://fleet.vault.azure.net"
_ROUND_TRIP = 0.02
_MAX_REQUESTS, _IN_BACKGROUND = 16, 14
_OLD = 1_600_000_000
_RESTART_SECONDS = 1.0
_USE_SECONDS = 60.0
_CONTEXT = ssl.create_default_context()
_NO_FAILURES = Causes(lambda: 0.0)


class Lockstep(random.Random):
    """No chance at all: what a fleet does whose machines do everything at the same moment."""

    def uniform(self, a: float, b: float) -> float:
        """Its middle, always."""
        return (a + b) / 2


@dataclass
class BusyVault:
    """Takes `limit` requests in any `WINDOW` seconds; beyond it 429, which does not count (PROTOCOL §6).

    Attributes:
        tells: whether a 429 says after how many seconds to come again; Key Vault's often does not.
        taken, refused: requests by the second in which they came.
    """

    limit: int
    names: int
    tells: bool
    taken: Counter[int] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    _recent: deque[float] = field(default_factory=deque)

    def answer(self, url: str) -> Answer:
        """What it says to a GET that comes now."""
        now = trio.current_time()
        while self._recent and now - self._recent[0] >= WINDOW:
            self._recent.popleft()
        if len(self._recent) >= self.limit:
            self.refused[int(now)] += 1
            wish = {"retry-after": str(math.ceil(self._recent[0] + WINDOW - now))} if self.tells else {}
            return Answer(
                429, wish, b'{"error":{"code":"Throttled","message":"VaultRequestTypeLimitReached"}}'
            )
        self._recent.append(now)
        self.taken[int(now)] += 1
        path, _, query = url.removeprefix(_URL).partition("?")
        name = path.removeprefix("/secrets").strip("/")
        data = self._bundle(name) if name else self._page(query)
        return Answer(200, {"date": "Tue, 14 Nov 2023 22:13:20 GMT"}, json.dumps(data).encode())

    def asked(self) -> list[int]:
        """Requests in the `WINDOW` seconds that end with each second, refused ones too."""
        last = max([*self.taken, *self.refused], default=0)
        return _sliding(self.taken + self.refused, last)

    def served(self) -> list[int]:
        """The same without the refused ones."""
        return _sliding(self.taken, max(self.taken, default=0))

    def _bundle(self, name: str) -> dict[str, object]:
        times = {"enabled": True, "created": _OLD, "updated": _OLD}
        return {"value": f"value of {name}", "id": f"{_URL}/secrets/{name}/{'0' * 32}", "attributes": times}

    def _page(self, query: str) -> dict[str, object]:
        first = int(query.rpartition("skiptoken=")[2]) if "skiptoken=" in query else 0
        times = {"enabled": True, "created": _OLD, "updated": _OLD}
        rows = [
            {"id": f"{_URL}/secrets/s{number:05}", "attributes": times}
            for number in range(first, min(first + 25, self.names))
        ]
        more = f"{_URL}/secrets?api-version=7.4&$skiptoken={first + 25}" if first + 25 < self.names else None
        return {"value": rows, "nextLink": more}


def _sliding(by_second: Mapping[int, int], last: int) -> list[int]:
    return [
        sum(by_second.get(second - back, 0) for back in range(WINDOW))
        for second in range(math.floor(last) + 1)
    ]


class _Wire(Transport):
    """The real thing up to the socket."""

    def __init__(self, vault: BusyVault, rng: random.Random) -> None:
        super().__init__(
            max_requests=_MAX_REQUESTS,
            context=_CONTEXT,
            metrics=TransportMetrics(),
            throttle=Throttle(rng),
            rng=rng,
            wall=lambda: _OLD,
        )
        self._vault = vault

    async def _attempt(
        self,
        url: str,
        _headers: Mapping[str, str],
        _token: SecretValue | None,
        limiter: trio.CapacityLimiter,
    ) -> Answer:
        async with limiter:
            await trio.sleep(_ROUND_TRIP / 2)
            answer = self._vault.answer(url)
            await trio.sleep(_ROUND_TRIP / 2)
        return answer


class _Imds:
    async def fetch(self) -> AccessToken:
        now = trio.current_time()
        return AccessToken(SecretValue(b"token"), now, now + 86_000)


@dataclass
class Machine:
    """One of the fleet, and what became of its programs.

    Attributes:
        booted: when, in seconds.
        names: what its programs read at boot, and use from then on.
        waited: for each program, seconds from its start until it had its secret.
        served: the names of these.
        failed: starts of programs that failed.
        failed_later: reads that failed after the program had its secret once.
    """

    booted: float
    names: list[SecretName]
    waited: list[float] = field(default_factory=list)
    served: list[SecretName] = field(default_factory=list)
    failed: int = 0
    failed_later: int = 0


@dataclass
class Fleet:
    """What happened."""

    vault: BusyVault
    machines: list[Machine]

    def waited(self) -> list[float]:
        """By program, shortest first."""
        return sorted(seconds for machine in self.machines for seconds in machine.waited)

    def wanting(self) -> int:
        """Programs that never had their secret."""
        return sum(len(machine.names) - len(machine.waited) for machine in self.machines)


async def _live(machine: Machine, vault: BusyVault, rng: random.Random, until: float) -> None:
    await trio.sleep(machine.booted)
    token = SharedToken(_Imds(), metrics=IdentityMetrics(), causes=_NO_FAILURES, rng=rng)
    client = KeyVaultClient(
        _Wire(vault, rng), Origin.parse(_URL), token, api_version="7.4", wall=lambda: float(_OLD)
    )
    limits = Limits()
    cache = new_cache(client, limits, rng=rng, concurrency=_IN_BACKGROUND)
    async with trio.open_nursery() as nursery:
        await nursery.start(cache.run)
        nursery.start_soon(token.run)
        for name in machine.names:
            nursery.start_soon(_start, machine, cache, name)
        while trio.current_time() < until:
            await trio.sleep(_USE_SECONDS)
            for name in tuple(machine.served):
                try:
                    await cache.get(name)
                except (KeyVaultFSError, trio.TooSlowError):
                    machine.failed_later += 1
        nursery.cancel_scope.cancel()


async def _start(machine: Machine, cache: Cache, name: SecretName) -> None:
    """A program that reads its secret when it starts, and whose supervisor starts it again when that fails."""
    begin = trio.current_time()
    while True:
        try:
            entry = await cache.get(name)
            await cache.value(entry.name, entry.version)
        except (KeyVaultFSError, trio.TooSlowError):
            machine.failed += 1
            await trio.sleep(_RESTART_SECONDS)
        else:
            machine.waited.append(trio.current_time() - begin)
            machine.served.append(name)
            return


def simulate(
    machines: int,
    *,
    limit: int,
    seconds: float,
    secrets: Iterable[int] = range(10, 51),
    names: int = 100,
    jitter: bool = True,
    tells: bool = True,
    seed: int = 9,
) -> Fleet:
    """Boot `machines` within one second, each with programs that want `secrets` of the vault's `names`; then use them.

    Args:
        limit: requests that the vault takes in `WINDOW` seconds.
        seconds: how long it goes on.
        jitter: whether the machines roll dice, or do all they do at the same moment.
        tells: whether a 429 has a `Retry-After`.
    """
    rng = random.Random(seed)
    vault = BusyVault(limit, names, tells)
    numbers = list(secrets)
    fleet = Fleet(
        vault,
        [
            Machine(
                rng.random(),
                [SecretName(f"s{number:05}") for number in rng.sample(range(names), rng.choice(numbers))],
            )
            for _ in range(machines)
        ],
    )

    async def life() -> None:
        async with trio.open_nursery() as nursery:
            for number, machine in enumerate(fleet.machines):
                dice = random.Random(seed * 1_000_003 + number) if jitter else Lockstep()
                nursery.start_soon(partial(_live, machine, vault, dice, seconds))

    trio.run(life, clock=MockClock(autojump_threshold=0))
    return fleet
