"""What holds for every request of the kernel holds for each handler."""

from __future__ import annotations

import errno
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyfuse3
import pytest
import trio
from trio.testing import MockClock

from keyvaultfs.cache.outage import Outage
from keyvaultfs.errors import NotFound, Refused, Unavailable
from keyvaultfs.filesystem.operations import Operations
from keyvaultfs.filesystem.requests import SystemdPatience, open_request, release_request, request
from keyvaultfs.log import Causes
from keyvaultfs.metrics import FilesystemMetrics

if TYPE_CHECKING:
    from collections.abc import Coroutine

SYSTEMD, OTHERS = SimpleNamespace(pid=1), SimpleNamespace(pid=4711)
ANSWERLESS = {"forget"}


class Handlers:
    """Handlers of every kind, as the decorator sees them."""

    def __init__(self) -> None:
        self.metrics = FilesystemMetrics()
        self.in_flight: set[trio.CancelScope] = set()
        self.of_systemd: set[int] = set()
        self.outage = Outage(Causes(trio.current_time))
        self.systemd = SystemdPatience(self.outage)
        self.timeout = 10.0
        self.unsettled: list[str] = []
        self.told: list[tuple[Any, int, Any]] = []

    def settle(self) -> None:
        self.unsettled.clear()

    def opened(self, inode: Any, ctx: Any, code: int, answer: Any) -> Coroutine[Any, Any, None] | None:
        assert ctx is OTHERS
        self.told.append((inode, code, answer))
        if inode == "bug":
            raise ZeroDivisionError
        return self.waits(1, OTHERS) if inode == "slow" else None  # type: ignore[return-value]

    @open_request
    def open(self, inode: Any, flags: int, ctx: Any) -> Any:
        if isinstance(inode, Exception):
            raise inode
        return self.waits(60 if inode == "never" else 1, ctx) if flags else str(inode)

    @release_request
    def release(self, fh: Any) -> None:
        self.unsettled.remove(fh)

    @request
    def at_once(self, answer: Any, ctx: Any) -> str:  # noqa: ARG002
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    @request
    async def waits(self, seconds: float, ctx: Any) -> str:  # noqa: ARG002
        await trio.sleep(seconds)
        return "late"

    @request
    async def reads(self, fh: int, seconds: float) -> str:  # noqa: ARG002
        await trio.sleep(seconds)
        return "late"


def test_each_handler_of_ours_is_a_request() -> None:
    of_a_request = {fn.__code__ for fn in (Handlers.at_once, Handlers.open, Handlers.release)}
    wanted = [name for name in vars(pyfuse3.Operations) if callable(getattr(pyfuse3.Operations, name))]
    ours = {name: vars(Operations)[name] for name in wanted if name in vars(Operations) and name[0] != "_"}
    assert len(ours) > 15
    bare = {name for name, fn in ours.items() if getattr(fn, "__code__", None) not in of_a_request}
    assert bare == ANSWERLESS


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (NotFound("SecretNotFound"), errno.ENOENT),
        (Refused("Forbidden"), errno.EACCES),
        (Unavailable("ConnectTimeout"), errno.EIO),
        (trio.TooSlowError(), errno.ETIMEDOUT),
        (pyfuse3.FUSEError(errno.EROFS), errno.EROFS),
    ],
)
async def test_what_a_handler_raises_becomes_an_errno_and_is_counted(raised: Exception, code: int) -> None:
    handlers: Any = Handlers()
    with pytest.raises(pyfuse3.FUSEError) as told:
        await handlers.at_once(raised, OTHERS)
    assert told.value.errno == code
    assert handlers.metrics.errors == {errno.errorcode[code]: 1}
    assert handlers.metrics.requests == {"at_once": 1}


async def test_each_request_settles_those_before_it() -> None:
    handlers: Any = Handlers()
    for call in (
        partial(handlers.at_once, "answer", OTHERS),
        partial(handlers.waits, 0, OTHERS),
        partial(handlers.open, "file", 0, OTHERS),
        partial(handlers.release, "its own"),
    ):
        handlers.unsettled += ["another's", "its own"]
        await call()
        assert not handlers.unsettled


@pytest.mark.parametrize(
    ("who", "seconds", "code"), [(OTHERS, 10, errno.ETIMEDOUT), (SYSTEMD, 2.5, errno.EIO)]
)
async def test_what_waits_has_a_deadline_and_pid_1_its_own(
    autojump_clock: MockClock, who: Any, seconds: float, code: int
) -> None:
    handlers: Any = Handlers()
    if who is SYSTEMD:
        handlers.of_systemd.add(7)
    for call in (partial(handlers.waits, 60, who), partial(handlers.reads, 7, 60)):
        begin = trio.current_time()
        with pytest.raises(pyfuse3.FUSEError) as told:
            await call()
        assert (told.value.errno, trio.current_time() - begin) == (code, seconds)
        handlers.outage.answered("pw", trio.current_time())
    assert not handlers.in_flight


async def test_an_open_that_waits_has_a_deadline_and_is_told_with_its_errno(
    autojump_clock: MockClock,
) -> None:
    handlers: Any = Handlers()
    assert await handlers.open("later", 1, OTHERS) == "late"
    with pytest.raises(pyfuse3.FUSEError) as told:
        await handlers.open("never", 1, OTHERS)
    assert told.value.errno == errno.ETIMEDOUT
    assert handlers.told == [("later", 0, "late"), ("never", errno.ETIMEDOUT, None)]
    assert handlers.metrics.requests["open"] == 2


async def test_what_goes_wrong_in_a_release_is_an_errno_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    handlers: Any = Handlers()
    with pytest.raises(pyfuse3.FUSEError) as told:
        await handlers.release("unknown")
    assert told.value.errno == errno.EIO
    assert handlers.metrics.errors == {"EIO": 1}
    assert "bug in release: ValueError" in caplog.text


async def test_what_waits_can_be_ended_by_others(autojump_clock: MockClock) -> None:
    handlers: Any = Handlers()

    async def end_it() -> None:
        await trio.sleep(0.5)
        for scope in handlers.in_flight:
            scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_it)
        with pytest.raises(pyfuse3.FUSEError) as told:
            await handlers.waits(60, OTHERS)
    assert told.value.errno == errno.EIO
    assert not handlers.in_flight


async def test_each_open_is_told_before_it_is_answered_and_never_fails_for_that(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    handlers: Any = Handlers()
    refused = Refused("Forbidden")
    assert await handlers.open("file", 0, OTHERS) == "file"
    with pytest.raises(pyfuse3.FUSEError):
        await handlers.open(refused, 0, OTHERS)
    begin = trio.current_time()
    assert await handlers.open("slow", 0, OTHERS) == "slow"
    assert trio.current_time() - begin == 1
    assert await handlers.open("bug", 0, OTHERS) == "bug"
    assert "bug in opened: ZeroDivisionError" in caplog.text
    assert await handlers.at_once("no open", OTHERS)
    assert handlers.told == [
        ("file", 0, "file"), (refused, errno.EACCES, None), ("slow", 0, "slow"), ("bug", 0, "bug")
    ]  # fmt: skip
