"""Exception -> errno: nowhere else."""

from __future__ import annotations

import errno
import functools
import traceback
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

import pyfuse3
import trio

from keyvaultfs import errors
from keyvaultfs.log import LOG

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from keyvaultfs.metrics import FilesystemMetrics

P = ParamSpec("P")
T = TypeVar("T")

ERRNO: dict[type[Exception], int] = {
    errors.NotFound: errno.ENOENT,
    errors.Refused: errno.EACCES,
    trio.TooSlowError: errno.ETIMEDOUT,
    errors.KeyVaultFSError: errno.EIO,
}


class Served(Protocol):
    """What a handler's object has."""

    @property
    def metrics(self) -> FilesystemMetrics:
        """Counters of the mount."""

    @property
    def in_flight(self) -> set[trio.CancelScope]:
        """Scopes of the handlers that run; cancelling one makes it answer EIO."""

    @property
    def timeout(self) -> float:
        """Seconds that a request of the kernel may take."""


S = TypeVar("S", bound=Served)


def number(exc: Exception) -> int | None:
    """The errno of one of our exceptions, None for one that nobody foresaw."""
    return next((ERRNO[kind] for kind in ERRNO if isinstance(exc, kind)), None)


def handler(
    fn: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Count a request, and turn whatever it raises into an errno. What may wait must be `bounded`.

    pyfuse3 ends its loop on an exception that is no FUSEError. One that nobody foresaw is logged by its type and
    frames, never by its text: ``int("p@ss")`` quotes its argument.
    """
    request = fn.__name__

    @functools.wraps(fn)
    async def guarded(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.metrics.requests[request] += 1
        try:
            return await fn(self, *args, **kwargs)
        except pyfuse3.FUSEError as exc:
            code = exc.errno
        except Exception as exc:  # noqa: BLE001 - any other would end the loop and lose the mount
            known = number(exc)
            if known is None:
                frames = "".join(traceback.format_tb(exc.__traceback__))
                LOG.error("bug in %s: %s\n%s", request, type(exc).__name__, frames)
            elif isinstance(exc, errors.KeyVaultFSError):
                LOG.debug("%s: %s", request, exc.cause)
            code = known or errno.EIO
        self.metrics.errors[errno.errorcode.get(code, str(code))] += 1
        raise pyfuse3.FUSEError(code)

    return guarded


def bounded(
    fn: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Bound the time of what may wait, and let others end it: a program that waits on FUSE cannot be killed.

    Apart from `handler`, since a cancel scope costs more than all else of a request that need not wait.
    """

    @functools.wraps(fn)
    async def in_time(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        scope = trio.CancelScope(deadline=trio.current_time() + self.timeout)
        self.in_flight.add(scope)
        try:
            with scope:
                return await fn(self, *args, **kwargs)
        finally:
            self.in_flight.discard(scope)
        if trio.current_time() >= scope.deadline:
            raise trio.TooSlowError
        raise errors.Unavailable("Unmounted")

    return in_time
