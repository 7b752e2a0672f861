"""What holds for every request of the kernel, whatever it asks: errno, deadline, PID 1's patience, settling."""

from __future__ import annotations

import errno
import functools
import inspect
import math
import traceback
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

import pyfuse3
import trio

from keyvaultfs import errors
from keyvaultfs.log import LOG

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sized

    from pyfuse3 import FileHandleT, FileInfo, FlagT, InodeT, RequestContext

    from keyvaultfs.filesystem.crowds import Held, Waiting
    from keyvaultfs.metrics import FilesystemMetrics

P = ParamSpec("P")
T = TypeVar("T")

ERRNO: dict[type[Exception], int] = {
    errors.NotFound: errno.ENOENT,
    errors.Refused: errno.EACCES,
    trio.TooSlowError: errno.ETIMEDOUT,
    errors.Busy: errno.EAGAIN,
    errors.KeyVaultFSError: errno.EIO,
}
"""Exception -> errno: nowhere else."""


class Vault(Protocol):
    """What is known of whether the vault answers: true while nobody does."""

    last_answer: float

    def __bool__(self) -> bool: ...


class SystemdPatience:
    """How long PID 1 may wait, in seconds: the whole machine waits while it does.

    It walks this mount for .path units and conditions, and reads a unit's EnvironmentFile= itself, so that a unit would
    not start if it were not given time for one answer of the vault. Where none is to be expected it gets none.
    """

    LONGEST = 2.5
    AT_ONCE = 0.3
    """For what is known already: a rotation must be told to the kernel."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._in_vain = -math.inf

    def seconds(self) -> float:
        """For a request that comes now."""
        return self.AT_ONCE if self._vault or self._in_vain > self._vault.last_answer else self.LONGEST

    def waited_in_vain(self) -> None:
        """It waited to the end: not again before anything is answered, lest ten units wait one after the other."""
        self._in_vain = trio.current_time()


class Served(Protocol):
    """What a handler's object has."""

    @property
    def metrics(self) -> FilesystemMetrics:
        """Counters of the mount."""

    @property
    def in_flight(self) -> set[trio.CancelScope]:
        """Scopes of the requests that wait; cancelling one makes it answer EIO."""

    @property
    def timeout(self) -> float:
        """Seconds that a request of the kernel may take."""

    @property
    def waiting(self) -> Waiting:
        """Whose they are."""

    @property
    def held(self) -> Held:
        """Who has what open."""

    @property
    def of_systemd(self) -> set[int]:
        """Handles that PID 1 has open."""

    @property
    def systemd(self) -> SystemdPatience:
        """How long PID 1 may wait."""

    @property
    def unsettled(self) -> Sized:
        """Handles of which nobody has told whether the kernel has had them; `settle` is for these."""

    def settle(self) -> None:
        """The kernel has had the answers to all earlier requests."""

    def opened(
        self, inode: InodeT, ctx: RequestContext, code: int, answer: FileInfo | None
    ) -> Coroutine[Any, Any, None] | None:
        """An OPEN is about to be answered: with an errno, or 0 and an answer.

        What is returned is awaited first, and raises nothing.
        """


S = TypeVar("S", bound=Served)


def number(exc: Exception) -> int | None:
    """The errno of one of our exceptions, None for one that nobody foresaw."""
    return next((ERRNO[kind] for kind in ERRNO if isinstance(exc, kind)), None)


@overload
def request(
    fn: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]: ...


@overload
def request(
    fn: Callable[Concatenate[S, P], T | Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]: ...


def request(
    fn: Callable[Concatenate[S, P], T | Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Make a handler of a function that gives its answer at once, or a coroutine for an answer that must be waited for.

    - It is counted, by its name, and so is the errno of a failure.
    - Whatever it raises becomes an errno: pyfuse3 ends its loop on an exception that is no FUSEError. One that nobody
      foresaw is logged by its type and frames, never by its text: ``int("p@ss")`` quotes its argument.
    - Handles of earlier requests count as known to the kernel (`Served.settle`).
    - What must be waited for has a deadline, `Served.timeout` or PID 1's, and others can end it: a program that waits
      on FUSE cannot be killed. An answer that is there at once does without: a cancel scope costs more than all the
      rest of such a request.

    Who asks is told by a last parameter ``ctx``, or by a first one ``fh``, of which `Served.of_systemd` knows.
    """
    name = fn.__name__
    asker = _asker(fn)

    @functools.wraps(fn)
    async def handler(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.metrics.requests[name] += 1
        try:
            if self.unsettled:
                self.settle()
            answer: Any = fn(self, *args, **kwargs)
            if type(answer) is CoroutineType:
                pid, uid = asker(self, args)
                answer = await _in_time(self, answer, uid, hurried=pid == 1)
        except Exception as exc:  # noqa: BLE001 - any other than FUSEError would end the loop and lose the mount
            code = _failed(self, name, exc)
        else:
            return answer  # type: ignore[no-any-return]
        raise pyfuse3.FUSEError(code)

    return handler


def open_request(
    fn: Callable[[S, InodeT, FlagT, RequestContext], FileInfo | Coroutine[Any, Any, FileInfo]],
) -> Callable[[S, InodeT, FlagT, RequestContext], Coroutine[Any, Any, FileInfo]]:
    """As `request`, for OPEN: each is told to `Served.opened` before it is answered, with its outcome.

    Apart from it, as is `release_request`: all that a program's warm read asks of us is these two.
    """
    name = fn.__name__

    @functools.wraps(fn)
    async def handler(self: S, /, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        self.metrics.requests[name] += 1
        code = 0
        answer: Any
        try:
            if self.unsettled:
                self.settle()
            self.held.admit(ctx.uid)
            answer = fn(self, inode, flags, ctx)
            if type(answer) is CoroutineType:
                answer = await _in_time(self, answer, ctx.uid, hurried=ctx.pid == 1)
            if ctx.uid or ctx.pid == 1:
                _keep(self, answer.fh, ctx)
        except Exception as exc:  # noqa: BLE001 - see `request`
            code, answer = _failed(self, name, exc), None
        try:
            recording = self.opened(inode, ctx, code, answer)
        except Exception as exc:  # noqa: BLE001 - that it cannot be noted is no reason to fail it
            _code("opened", exc)
        else:
            if recording is not None:
                await recording
        if answer is None:
            raise pyfuse3.FUSEError(code)
        return answer  # type: ignore[no-any-return]

    return handler


def release_request(
    fn: Callable[[S, FileHandleT], None],
) -> Callable[[S, FileHandleT], Coroutine[Any, Any, None]]:
    """As `request`, for RELEASE, which never waits. It settles afterwards: what is gone need not be settled."""
    name = fn.__name__

    @functools.wraps(fn)
    async def handler(self: S, /, fh: FileHandleT) -> None:
        self.metrics.requests[name] += 1
        try:
            fn(self, fh)
            if self.held.owners:
                self.held.closed(fh)
            if self.unsettled:
                self.settle()
        except Exception as exc:  # noqa: BLE001 - see `request`
            code = _failed(self, name, exc)
            raise pyfuse3.FUSEError(code) from None

    return handler


def _keep(served: Served, fh: int, ctx: RequestContext) -> None:
    """Remember who has a file open."""
    served.held.opened(fh, ctx.uid)
    if ctx.pid == 1:
        served.of_systemd.add(fh)


def _failed(served: Served, name: str, exc: Exception) -> int:
    """The errno of a request that failed; it is counted."""
    code = _code(name, exc)
    served.metrics.errors[errno.errorcode.get(code, str(code))] += 1
    return code


async def _in_time(served: Served, waiting: Coroutine[Any, Any, T], uid: int, *, hurried: bool) -> T:
    """Wait for what PID 1 wants no longer than PID 1 may wait."""
    try:
        served.waiting.enter(uid)
    except errors.Busy:
        waiting.close()
        raise
    seconds = min(served.systemd.seconds(), served.timeout) if hurried else served.timeout
    scope = trio.CancelScope(deadline=trio.current_time() + seconds)
    served.in_flight.add(scope)
    try:
        with scope:
            return await waiting
    except errors.NotYetKnown:
        served.systemd.waited_in_vain()
        raise
    finally:
        served.in_flight.discard(scope)
        served.waiting.leave(uid)
    if trio.current_time() < scope.deadline:
        raise errors.Unavailable("Unmounted")
    if hurried:
        served.systemd.waited_in_vain()
        raise errors.NotYetKnown("NotYetKnown")
    raise trio.TooSlowError


def _code(name: str, exc: Exception) -> int:
    """The errno of whatever a handler raised."""
    if isinstance(exc, pyfuse3.FUSEError):
        return int(exc.errno)
    known = number(exc)
    if known is None:
        frames = "".join(traceback.format_tb(exc.__traceback__))
        LOG.error("bug in %s: %s\n%s", name, type(exc).__name__, frames)
    elif isinstance(exc, errors.KeyVaultFSError):
        LOG.debug("%s: %s", name, exc.cause)
    return known or errno.EIO


def _asker(fn: Callable[..., object]) -> Callable[[Served, tuple[Any, ...]], tuple[int, int]]:
    """How to tell from a handler's arguments who asks: the process id, as far as it matters, and the user."""
    parameters = list(inspect.signature(fn).parameters)
    if parameters[-1] == "ctx":
        return lambda _, args: (args[-1].pid, args[-1].uid)
    if parameters[1] == "fh":
        return lambda served, args: (int(args[0] in served.of_systemd), served.held.owners.get(args[0], 0))
    return lambda *_: (0, 0)
