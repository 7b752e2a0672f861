"""What holds for every request of the kernel holds for each handler."""

from __future__ import annotations

import contextlib
import errno
from collections import Counter
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyfuse3
import pytest
import trio
from trio.testing import MockClock

from keyvaultfs.cache.outage import Outage
from keyvaultfs.errors import NotFound, Refused, Unavailable
from keyvaultfs.filesystem.crowds import Held, Waiting
from keyvaultfs.filesystem.operations import Operations
from keyvaultfs.filesystem.requests import SystemdPatience, open_request, release_request, request
from keyvaultfs.log import Causes
from keyvaultfs.metrics import FilesystemMetrics

if TYPE_CHECKING:
    from collections.abc import Coroutine

SYSTEMD, OTHERS = SimpleNamespace(pid=1, uid=0), SimpleNamespace(pid=4711, uid=0)
USER, ANOTHER = SimpleNamespace(pid=4712, uid=1000), SimpleNamespace(pid=4713, uid=1001)
ANSWERLESS = {"forget"}


class Handlers:
    """Handlers of every kind, as the decorator sees them."""

    def __init__(self) -> None:
        self.metrics = FilesystemMetrics()
        self.in_flight: set[trio.CancelScope] = set()
        self.causes = Causes(trio.current_time)
        self.waiting = Waiting(self.causes, self.in_flight.__len__)
        self.held = Held(self.causes, lambda: self.elsewhere + len(self.held.owners))
        self.elsewhere = 0
        self.of_systemd: set[int] = set()
        self.outage = Outage(Causes(trio.current_time))
        self.systemd = SystemdPatience(self.outage)
        self.timeout = 10.0
        self.unsettled: list[str] = []
        self.told: list[tuple[Any, int, Any]] = []

    def settle(self) -> None:
        self.unsettled.clear()

    def opened(self, inode: Any, ctx: Any, code: int, answer: Any) -> Coroutine[Any, Any, None] | None:
        assert ctx in (OTHERS, USER)
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


async def test_the_requests_of_one_user_that_wait_have_a_bound_and_others_wait_beside(
    autojump_clock: MockClock,
) -> None:
    handlers: Any = Handlers()
    outcomes: Counter[tuple[int, int]] = Counter()

    async def ask(who: Any) -> None:
        try:
            await handlers.waits(5, who)
        except pyfuse3.FUSEError as exc:
            outcomes[who.uid, exc.errno] += 1
        else:
            outcomes[who.uid, 0] += 1

    for _ in range(2):
        async with trio.open_nursery() as nursery:
            for who, many in ((USER, 5000), (ANOTHER, 10), (OTHERS, 1500)):
                for _ in range(many):
                    nursery.start_soon(ask, who)
            await trio.sleep(1)
            assert list(handlers.causes.open()) == ["too many requests of uid 1000 wait"]
        assert outcomes == {
            (1000, 0): 1024, (1000, errno.EAGAIN): 3976, (1001, 0): 10, (0, 0): 1500
        }  # fmt: skip
        assert not handlers.causes.open()
        outcomes.clear()


async def test_the_requests_of_all_users_that_wait_leave_room_for_roots(autojump_clock: MockClock) -> None:
    handlers: Any = Handlers()
    async with trio.open_nursery() as nursery:
        for number in range(3072):
            nursery.start_soon(handlers.waits, 5, SimpleNamespace(pid=2, uid=1 + number % 4))
        await trio.sleep(1)
        with pytest.raises(pyfuse3.FUSEError) as told:
            await handlers.waits(0, USER)
        assert told.value.errno == errno.EAGAIN
        assert await handlers.waits(0, OTHERS) == "late"
        assert await handlers.at_once("what need not wait", USER)


async def test_a_folder_that_is_read_counts_for_who_opened_it(autojump_clock: MockClock) -> None:
    handlers: Any = Handlers()
    handlers.held.opened(7, USER.uid)
    async with trio.open_nursery() as nursery:
        for _ in range(1024):
            nursery.start_soon(handlers.reads, 7, 5)
        await trio.sleep(1)
        with pytest.raises(pyfuse3.FUSEError) as told:
            await handlers.waits(0, USER)
        assert told.value.errno == errno.EAGAIN


async def test_what_one_user_holds_open_has_a_bound_and_so_has_what_all_users_hold(
    autojump_clock: MockClock,
) -> None:
    handlers: Any = Handlers()
    held = handlers.held
    for fh in range(40_000):
        with contextlib.suppress(pyfuse3.FUSEError):
            held.admit(USER.uid)
            held.opened(fh, USER.uid)
    assert len(held.owners) == 1 << 15
    with pytest.raises(pyfuse3.FUSEError) as told:
        await handlers.open("file", 0, USER)
    assert told.value.errno == errno.ENFILE
    assert list(handlers.causes.open()) == ["too many files are open of uid 1000"]
    held.admit(ANOTHER.uid)
    held.closed(0)
    held.admit(USER.uid)
    handlers.elsewhere = 1 << 17
    with pytest.raises(pyfuse3.FUSEError):
        held.admit(ANOTHER.uid)
    held.admit(OTHERS.uid)
    for fh in range(1 << 15, 1 << 15 | 300):
        with pytest.raises(pyfuse3.FUSEError):
            held.admit(2000 + fh)
    assert list(handlers.causes.open()) == ["too many files are open of uid 1000"], (
        "and of nobody who has none"
    )
    for fh in range(1 << 15):
        held.closed(fh)
    assert not held.owners
    assert list(handlers.causes.open()) == []
