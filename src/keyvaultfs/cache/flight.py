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
    """Calls that run in a nursery of their own, not in their first caller, whose deadline may come first.

    A call sees to its own deadline.
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

    async def _fly(self, key: Hashable, flight: Flight[T], call: Callable[[], Awaitable[T]]) -> None:
        try:
            flight.result = await call()
        except (KeyVaultFSError, trio.TooSlowError) as exc:
            flight.failure = bare(exc)
        finally:
            # Whatever ends it, nobody waits for ever.
            if flight.result is None and flight.failure is None:
                flight.failure = trio.TooSlowError()
            del self._under_way[key]
            flight.landed.set()
