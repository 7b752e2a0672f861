"""Single flight: any number of callers, one call."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from keyvaultfs.errors import KeyVaultFSError, bare

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

T = TypeVar("T")


class Flight(Generic[T]):
    """One call; `result` or `failure` is there when it has landed."""

    def __init__(self) -> None:
        self.landed = trio.Event()
        self.result: T | None = None
        self.failure: Exception | None = None


class Flights(Generic[T]):
    """Calls that run in a nursery of their own, since their first caller's deadline may come first.

    A call sees to its own deadline. `lead` spares a task and two rounds of the scheduler where that comes first.
    """

    def __init__(self) -> None:
        self._under_way: dict[Hashable, Flight[T]] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._under_way

    def __len__(self) -> int:
        return len(self._under_way)

    def start(self, key: Hashable, call: Callable[[], Awaitable[T]], nursery: trio.Nursery) -> Flight[T]:
        """The flight under way for `key`, or a new one. Does not wait."""
        flight = self._under_way.get(key)
        if flight is None:
            flight = self._under_way[key] = Flight()
            nursery.start_soon(self._fly, key, flight, call)
        return flight

    async def join(self, key: Hashable, call: Callable[[], Awaitable[T]], nursery: trio.Nursery) -> T:
        """The result of the flight for `key`.

        Raises:
            KeyVaultFSError, trio.TooSlowError: a copy for each caller of what `call` raised.
        """
        flight = self.start(key, call, nursery)
        await flight.landed.wait()
        if flight.failure is not None:
            raise copy.copy(flight.failure) from None
        return flight.result  # type: ignore[return-value]

    async def lead(self, key: Hashable, call: Callable[[], Awaitable[T]], nursery: trio.Nursery) -> Flight[T]:
        """The flight for `key`, which has landed: a new one is made here, in the caller's own task.

        A caller that is cancelled before its deadline leaves the others a call that begins anew, in the nursery.
        """
        flight = self._under_way.get(key)
        if flight is not None:
            await flight.landed.wait()
            return flight
        flight = self._under_way[key] = Flight()
        end = trio.current_effective_deadline()
        try:
            await self._call(flight, call)
        except BaseException as exc:
            if isinstance(exc, trio.Cancelled) and trio.current_time() < end:
                nursery.start_soon(self._fly, key, flight, call)
                raise
            self._land(key, flight)
            raise
        self._land(key, flight)
        return flight

    async def _fly(self, key: Hashable, flight: Flight[T], call: Callable[[], Awaitable[T]]) -> None:
        try:
            await self._call(flight, call)
        finally:
            self._land(key, flight)

    async def _call(self, flight: Flight[T], call: Callable[[], Awaitable[T]]) -> None:
        try:
            flight.result = await call()
        except (KeyVaultFSError, trio.TooSlowError) as exc:
            flight.failure = bare(exc)

    def _land(self, key: Hashable, flight: Flight[T]) -> None:
        """Whatever ended it, nobody waits for ever."""
        if flight.result is None and flight.failure is None:
            flight.failure = trio.TooSlowError()
        del self._under_way[key]
        flight.landed.set()
