"""Which bytes an inode shows: bytes of one version never go with the size of another."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import threading
from typing import TYPE_CHECKING

import pyfuse3
import pytest
import trio
import trio.testing

from keyvaultfs.cache.freshness import Limits
from keyvaultfs.cache.values import ValueStore
from keyvaultfs.errors import NotFound
from keyvaultfs.files.files import Files
from keyvaultfs.files.shown import Shown
from keyvaultfs.filesystem import bound, opener
from keyvaultfs.filesystem.announcements import NOBODY, Do
from keyvaultfs.filesystem.attributes import Appearance
from keyvaultfs.filesystem.inodes.nodes import State
from keyvaultfs.filesystem.inodes.table import InodeTable
from keyvaultfs.filesystem.opener import Opener
from keyvaultfs.filesystem.resolver import Resolver
from keyvaultfs.filesystem.rotation import Rotation
from keyvaultfs.log import Causes
from keyvaultfs.metrics import FilesystemMetrics
from tests.support.fake_vault import FakeVault
from tests.support.world import TREE, flat, new_cache

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from keyvaultfs.filesystem.inodes.nodes import Handle, Node

PW = flat("pw")
NEW = "f" * 32


class Kernel:
    """Notes what it is told; a notification may block as the real one does while a directory is locked."""

    def __init__(self) -> None:
        self.inodes: list[int] = []
        self.entries: list[tuple[bytes, int]] = []
        self.absent = False  # whether it has dropped the entry already
        self.lacks: set[int] = set()  # inodes that it does not have
        self.inode_free = threading.Event()
        self.entry_free = threading.Event()
        self.inode_free.set()
        self.entry_free.set()

    def inode(self, inode: int) -> None:
        self.inode_free.wait(20)
        self.inodes.append(inode)
        if inode in self.lacks:
            raise OSError(errno.ENOENT, "no such inode")

    def entry(self, parent: int, name: bytes, deleted: int) -> None:
        assert parent == 1
        self.entry_free.wait(20)
        self.entries.append((name, deleted))
        if self.absent:
            raise OSError(errno.ENOENT, "no such entry")


class Parts:
    """A resolver with all that it stands on, and no FUSE."""

    def __init__(self) -> None:
        self.fds = [os.memfd_create("table"), os.memfd_create("values")]
        self.vault = FakeVault()
        self.kernel = Kernel()
        self.asked: list[tuple[str, str]] = []
        self.child: Callable[[str, str, str], None] = lambda *_: None
        self.renames = False
        self.heard = 0
        self.cache = new_cache(
            self.vault,
            Limits(ttl=10, list_ttl=10, negative_ttl=1, max_stale=100, max_cache=1 << 20, timeout=5),
            store=ValueStore(self.fds[1], 1 << 20),
        )
        self.files = Files(TREE, self.cache, Causes(trio.current_time), Shown())
        self.build()

    def build(self) -> None:
        """As at the begin, and as a successor does."""
        self.table = InodeTable(self.fds[0], "https://v.vault.azure.net", TREE)
        self.rotation = Rotation(
            self.table,
            FilesystemMetrics(),
            ask=self.ask,
            names=lambda: self.resolver,
            renames=self.renames,
            refreshes=self.renames,
            kernel=self.kernel,
        )
        appearance = Appearance(uid=0, gid=0, mode=0o400, dir_mode=0o755, started=0)
        self.resolver = Resolver(self.files.editions, self.table, self.rotation, appearance)
        self.opener = Opener(self.files.editions, self.table, self.rotation, self.resolver)

    def ask(self, token: str, do: str, name: str, inode: int) -> bool:  # noqa: ARG002
        """What the keeper is asked; a child does it if the test has one."""
        self.asked.append((do, name))
        self.child(token, do, name)
        return True

    async def lookup(self) -> int:
        found = await self.resolver.lookup(PW, b"pw", 5)
        return int(found.st_ino)

    async def open(self, node: Node, thread: int = 9) -> tuple[Handle, bool]:
        """As the kernel does by a bind mount: once more after ESTALE, without a look-up."""
        with contextlib.suppress(pyfuse3.FUSEError):
            return await self.open_once(node, thread)
        return await self.open_once(node, thread)

    async def open_once(self, node: Node, thread: int = 9) -> tuple[Handle, bool]:
        """As the handler does; and it is not the open that the last look-up was for."""
        node.promised = -math.inf
        return self.opener.open_now(node, thread) or await self.opener.open(node, 5, thread=thread)

    async def begin_lookup(self, nursery: trio.Nursery) -> tuple[list[int], trio.Event]:
        """A look-up that waits by now. It puts its answer into the list, and then sets the event."""
        given: list[int] = []
        ended = trio.Event()

        async def slow() -> None:
            given.append(await self.lookup())
            ended.set()

        nursery.start_soon(slow)
        await trio.testing.wait_all_tasks_blocked()
        return given, ended

    async def rotate(self, text: str) -> None:
        """The vault has a new version, and the cache knows."""
        self.vault.put("pw", text)
        self.cache.expire()
        await self.cache.get(PW.recipe.sources[0].name)


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
    parts.rotation.supersede(old, NEW)
    nursery.start_soon(parts.rotation.run)
    handle, keep = await parts.open(old)
    assert (handle.content.size, keep) == (5, False)
    assert await parts.opener.read(handle, 0, 99) == b"short"
    parts.opener.release(handle.fh)
    parts.kernel.inode_free.set()
    handle, keep = await parts.open(old)
    assert (handle.content.size, keep) == (16, False)
    assert await parts.opener.read(handle, 0, 99) == b"very much longer"


async def test_a_rotation_before_the_first_listing_is_announced(parts: Parts) -> None:
    """The listing shows the new version's time, and a look-up then finds that the name has passed on."""
    parts.vault.put("pw", "one")
    old = parts.table.nodes[await parts.lookup()]
    await parts.rotate("two")
    new = parts.resolver.current(PW)
    assert new is not None
    parts.rotation.folder.listed([(PW, new.updated)], lambda _: True, lambda _: True)
    assert not parts.rotation.supersede(old, new.version, new.updated).is_set()


async def test_a_notification_that_waits_for_a_directory_holds_up_no_inodes_attributes(
    parts: Parts, nursery: trio.Nursery
) -> None:
    parts.vault.put("pw", "x")
    first = parts.table.nodes[await parts.lookup()]
    parts.kernel.entry_free.clear()
    nursery.start_soon(parts.rotation.run)
    done = parts.rotation.supersede(first)
    with trio.fail_after(10):
        while not await parts.rotation.bound.ask_again(first):
            pass  # its thread had no turn in time
    assert not done.is_set()


async def test_a_lookup_that_waited_for_a_notification_gives_no_name_back_to_a_lost_version(
    parts: Parts, nursery: trio.Nursery
) -> None:
    parts.vault.put("pw", "one")
    first = await parts.lookup()
    await parts.rotate("two")
    second, ended = await parts.begin_lookup(nursery)  # no notification thread runs: it waits for the bound
    await parts.rotate("three")
    with trio.fail_after(10):
        await ended.wait()
    assert second[0] != first
    assert parts.table.nodes[second[0]].size == 5
    assert parts.table.entries.nodes["pw"].inode == second[0]


async def test_a_lookup_gives_no_inode_that_was_let_go_while_it_waited(
    parts: Parts, nursery: trio.Nursery
) -> None:
    parts.vault.put("pw", "one")
    await parts.lookup()
    await parts.rotate("two")
    given, ended = await parts.begin_lookup(nursery)  # no notification thread runs: it waits for the bound
    entry = parts.files.editions.peek(PW)
    assert entry is not None
    second = parts.table.find(PW, entry.id)
    assert second is not None
    parts.table.tell(second, b"pw")
    parts.table.forget(second.inode, 1)
    parts.cache.store.clear()  # nor can it be made anew at once
    with trio.fail_after(10):
        await ended.wait()
    assert given[0] in parts.table.nodes
    assert parts.table.entries.nodes["pw"] is parts.table.nodes[given[0]]


async def test_a_rotation_between_a_lookup_and_its_open_fails_no_reader(
    parts: Parts, autojump_clock: trio.testing.MockClock
) -> None:
    parts.vault.put("pw", "one")
    old = parts.table.nodes[await parts.lookup()]
    await parts.rotate("two")
    parts.rotation.supersede(old, NEW)
    opened = parts.opener.open_now(old)
    assert opened is not None
    assert await parts.opener.read(opened[0], 0, 99) == b"one"
    parts.opener.release(opened[0].fh)
    autojump_clock.jump(0.1)
    assert parts.opener.open_now(old) is None  # by now it is another's open


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No bound is met however long the thread that notifies the kernel waits for its turn."""
    monkeypatch.setattr(bound, "BOUNDED_SECONDS", 60)
    monkeypatch.setattr(opener, "_SWITCH_SECONDS", 60)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("codes", "unsure"), [([0], False), ([errno.EIO, errno.ECHILD, 0], False), ([errno.EPERM], True)]
)
async def test_an_open_waits_until_the_child_has_the_size_that_was_fetched_for_another_open(
    parts: Parts, nursery: trio.Nursery, codes: list[int], unsure: bool
) -> None:
    """On a busy machine a process runs long after it was answered: until then the kernel has the old size."""
    parts.renames = True
    parts.build()
    fetched: list[str] = []

    def child(token: str, do: str, name: str) -> None:
        if do == "refresh":
            assert parts.rotation.announcements.look_up(1, b"." + token.encode(), 77)[0]
            assert parts.resolver.getattr(old, 77).st_size == 16
            fetched.append(token)

    opened: list[tuple[bytes, bool]] = []

    async def open_bound() -> None:
        handle, _ = await parts.opener.open(old, 5)
        opened.append((await parts.opener.read(handle, 0, 99), handle.node.unsure))

    parts.vault.put("pw", "short")
    old = parts.table.nodes[await parts.lookup()]
    await parts.rotate("very much longer")
    parts.rotation.supersede(old, NEW)
    old.bound = True
    parts.child = child
    nursery.start_soon(parts.rotation.run)
    nursery.start_soon(open_bound)
    for number, code in enumerate(codes):
        while len(fetched) == number:
            await trio.testing.wait_all_tasks_blocked(0.01)
        if number == 0:
            nursery.start_soon(open_bound)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert opened == []
        parts.rotation.announcements.ended(fetched[number], code)
    with trio.fail_after(10):
        while len(opened) < 2:
            await trio.testing.wait_all_tasks_blocked(0.01)
    # Where no child may fetch it, nobody can be sure: then a read goes past the pages, to the end of the bytes.
    assert opened == [(b"very much longer", unsure)] * 2


async def test_an_open_does_not_wait_for_ever_for_a_child_that_is_silent(
    parts: Parts, autojump_clock: trio.testing.MockClock
) -> None:
    parts.vault.put("pw", "short")
    old = parts.table.nodes[await parts.lookup()]
    await parts.rotate("very much longer")
    parts.renames = True
    parts.build()
    old = parts.table.nodes[old.inode]
    current = parts.resolver.current(PW)
    assert current is not None
    parts.table.supersede(old)
    parts.table.show(old, current)
    old.bound = old.unsure = True
    began = autojump_clock.current_time()
    for patience in (math.inf, 2.0):
        handle, _ = await parts.opener.open(old, patience)
        assert await parts.opener.read(handle, 0, 99) == b"very much longer"
        assert old.unsure
        parts.opener.release(handle.fh)
    assert autojump_clock.current_time() - began == pytest.approx(6 + 2)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("by", ["stat", "fstat", "listing"])
async def test_a_size_is_fetched_once_more_if_somebody_was_given_the_old_one_meanwhile(
    parts: Parts, by: str
) -> None:
    """The kernel drops the child's answer if it takes in somebody else's while the child waits for it."""
    parts.renames = True
    parts.build()
    told: list[int] = []

    def tell() -> None:
        handle = parts.table.open(old) if by == "fstat" else None
        if by != "listing":  # "stat" is as each open(2) does before it opens
            told.append(parts.resolver.getattr(old, 1).st_size)
            if handle is not None:
                parts.opener.release(handle.fh)
        else:
            told.append(parts.resolver.listed(PW, trio.current_time())[0].st_size)

    def child(token: str, do: str, _name: str) -> None:
        if do == "refresh":
            tell()
            assert parts.rotation.announcements.look_up(1, b"." + token.encode(), 77)[0]
            assert parts.resolver.getattr(old, 77).st_size == 16
            parts.rotation.announcements.ended(token, 0)

    parts.vault.put("pw", "short")
    old = parts.table.nodes[await parts.lookup()]
    await parts.rotate("very much longer")
    parts.rotation.supersede(old, NEW)
    old.bound = True
    parts.child = child
    tell()  # before the kernel is told to ask again: whoever was answered then cannot disturb the child
    handle, _ = await parts.opener.open(old, 5)
    assert told == [5, 5, 16]
    assert await parts.opener.read(handle, 0, 99) == b"very much longer"
    assert not old.unsure


async def sent_back(parts: Parts, node: Node, thread: int) -> None:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await parts.open_once(node, thread)
    assert caught.value.errno == errno.ESTALE


async def test_an_open_is_sent_back_once_however_often_the_name_passes_on(
    parts: Parts, nursery: trio.Nursery
) -> None:
    """The kernel repeats it once, by the name; the second time whatever the name led to is served."""
    parts.vault.put("pw", "one")
    first = parts.table.nodes[await parts.lookup()]
    nursery.start_soon(parts.rotation.run)
    parts.vault.put("pw", "second")
    parts.cache.expire()
    await sent_back(parts, first, 9)
    parts.vault.put("pw", "the third")
    parts.cache.expire()
    found = parts.resolver.lookup_now(PW, b"pw", 9)  # at once: it must not be on its way when a worker dies
    assert found is not None
    second = parts.table.nodes[found.st_ino]
    assert second is not first
    await sent_back(parts, second, 10)  # another's first try
    handle, keep = await parts.open_once(second, 9)
    assert (await parts.opener.read(handle, 0, 99), handle.content.size, keep) == (b"second", 6, False)
    await sent_back(parts, second, 9)  # that was his second try, and this is another open
    assert not second.bound


async def test_a_look_up_that_ends_in_an_error_ends_the_open_that_was_sent_back(
    parts: Parts, nursery: trio.Nursery
) -> None:
    parts.vault.put("pw", "one")
    first = parts.table.nodes[await parts.lookup()]
    nursery.start_soon(parts.rotation.run)
    await parts.rotate("two")
    await sent_back(parts, first, 9)
    parts.vault.delete("pw")
    parts.cache.forget()
    parts.files.editions.forget()
    with pytest.raises(NotFound):
        await parts.resolver.lookup(PW, b"pw", 5, thread=9)
    parts.vault.put("pw", "three")
    parts.cache.forget()
    await sent_back(parts, first, 9)
    assert not first.bound


async def test_after_a_take_over_a_look_ups_open_is_served_whatever_passes_on(
    parts: Parts, nursery: trio.Nursery
) -> None:
    """Its first try may have ended with the dead worker."""
    parts.vault.put("pw", "one")
    nursery.start_soon(parts.rotation.run)
    parts.resolver.be_lenient(2)
    first = parts.table.nodes[int((await parts.resolver.lookup(PW, b"pw", 5, thread=9)).st_ino)]
    await parts.rotate("second")
    await parts.resolver.lookup(PW, b"pw", 5, thread=10)
    handle, _ = await parts.open_once(first, 9)
    assert (await parts.opener.read(handle, 0, 99), handle.content.size) == (b"one", 3)
    # By a look-up of the dead worker's: what it had opened is served, in the new version where that can be.
    handle, _ = await parts.open_once(first, 11)
    assert handle.content.size == len(await parts.opener.read(handle, 0, 99))


async def test_an_inode_that_was_given_a_moment_ago_is_not_taken_for_one_that_was_let_go(
    parts: Parts, nursery: trio.Nursery
) -> None:
    """The kernel has it when the look-up's caller runs again, which may take a while; until then it says ENOENT."""
    parts.vault.put("pw", "one")
    node = parts.table.nodes[await parts.lookup()]
    parts.kernel.lacks.add(node.inode)
    nursery.start_soon(parts.rotation.run)
    done = parts.rotation.supersede(node, NEW)
    opened = parts.opener.open_now(node)  # after the kernel said that, and before we heard it
    assert opened is not None
    await done.wait()
    assert node.inode in parts.table.nodes
    assert parts.table.handles.use(opened[0].fh) is opened[0]
    assert await parts.opener.read(opened[0], 0, 99) == b"one"
    parts.opener.release(opened[0].fh)
    await parts.rotate("two")
    later = parts.table.nodes[await parts.lookup()]
    parts.kernel.lacks.add(later.inode)
    later.given -= 20
    await parts.rotation.supersede(later, "e" * 32).wait()
    assert later.inode not in parts.table.nodes


async def test_a_look_up_promises_an_open_nothing_beyond_the_time_to_live(
    parts: Parts, autojump_clock: trio.testing.MockClock
) -> None:
    parts.vault.put("pw", "one")
    await parts.lookup()
    autojump_clock.jump(9.99)
    found = parts.resolver.lookup_now(PW, b"pw")
    assert found is not None
    old = parts.table.nodes[found.st_ino]
    autojump_clock.jump(0.02)
    await parts.rotate("two")
    assert parts.opener.open_now(old) is None


async def test_nobody_is_helped_to_an_inode_that_the_kernel_has_let_go(
    parts: Parts, nursery: trio.Nursery
) -> None:
    parts.vault.put("pw", "one")
    old = parts.table.nodes[await parts.lookup()]
    await parts.rotate("two")
    parts.kernel.absent = True
    parts.kernel.entry_free.clear()
    nursery.start_soon(parts.rotation.run)
    done = parts.rotation.supersede(old)
    with trio.fail_after(10):
        while not parts.kernel.inodes:  # noqa: ASYNC110 - another thread fills it
            await trio.sleep(0.01)
        parts.table.forget(old.inode, 1)  # after the kernel was asked: it had it then
        parts.kernel.entry_free.set()
        await done.wait()
    assert parts.kernel.entries == [(b"pw", old.inode)]
    assert parts.asked == []


async def test_a_lookup_gets_the_new_inode_when_the_helped_one_is_let_go(
    parts: Parts, nursery: trio.Nursery
) -> None:
    parts.vault.put("pw", "one")
    old = parts.table.nodes[await parts.lookup()]
    await parts.rotate("two")
    parts.kernel.absent = True
    given: list[tuple[bool, object]] = []

    def child(token: str, do: str, name: str) -> None:
        assert (do, name) == ("look", "pw")
        announcements = parts.rotation.announcements
        assert announcements.look_up(1, b"." + token.encode(), 77)[0]
        given.append(announcements.look_up(1, b"pw", 77))
        parts.table.forget(old.inode, 2)
        given.append(announcements.look_up(1, b"pw", 77))
        announcements.ended(token, 0)

    parts.child = child
    nursery.start_soon(parts.rotation.run)
    done = parts.rotation.supersede(old)
    with trio.fail_after(10):
        await done.wait()
    (ours, first), (_, second) = given
    assert ours
    assert first is old
    assert second is not old
    assert (await parts.lookup()) != old.inode


async def test_a_child_that_dies_before_it_has_helped_is_followed_by_another(
    parts: Parts, nursery: trio.Nursery
) -> None:
    parts.vault.put("pw", "one")
    old = parts.table.nodes[await parts.lookup()]
    await parts.rotate("two")
    parts.kernel.absent = True

    def child(token: str, do: str, name: str) -> None:
        assert (do, name) == ("look", "pw")
        parts.kernel.absent = len(parts.asked) == 1
        parts.rotation.announcements.ended(token, errno.ECHILD if parts.kernel.absent else 0)

    parts.child = child
    nursery.start_soon(parts.rotation.run)
    with trio.fail_after(10):
        await parts.rotation.supersede(old).wait()
    assert [inode for _, inode in parts.kernel.entries] == [old.inode] * 3
    assert not parts.kernel.absent


async def test_attributes_that_were_made_once_are_made_anew_when_the_inode_changes(
    parts: Parts, nursery: trio.Nursery
) -> None:
    parts.vault.put("pw", "one")
    node = parts.table.nodes[await parts.lookup()]
    shown = parts.resolver.getattr(node, 1)
    assert (shown.st_nlink, shown.st_size, shown.st_ctime_ns // 10**9) == (1, 3, node.updated)
    parts.table.add(PW, node.version, size=3, created=1, updated=2)
    shown = parts.resolver.getattr(node, 1)
    assert (shown.st_mtime_ns, shown.st_ctime_ns) == (10**9, 2 * 10**9)
    opened = parts.opener.open_now(node)
    assert opened is not None
    await parts.rotate("second")
    nursery.start_soon(parts.rotation.run)
    parts.table.supersede(node)
    shown = parts.resolver.getattr(node, 1)
    assert (shown.st_nlink, shown.st_size) == (0, 3)  # as long as somebody has it open
    parts.opener.release(opened[0].fh)
    await parts.lookup()
    shown = parts.resolver.getattr(node, 1)
    assert (shown.st_nlink, shown.st_size) == (0, 3)  # as long as the kernel has no other size
    await parts.open(node)
    shown = parts.resolver.getattr(node, 1)
    assert (shown.st_nlink, shown.st_size) == (1, 6)


async def test_files_of_doubt_show_what_their_inode_shows(parts: Parts, nursery: trio.Nursery) -> None:
    parts.vault.put("pw", "short")
    old = parts.table.nodes[await parts.lookup()]
    handle, _ = await parts.open(old)
    parts.build()  # a successor: whether the kernel has got that OPEN's answer is not known
    old = parts.table.nodes[old.inode]
    await parts.rotate("very much longer")
    nursery.start_soon(parts.rotation.run)
    parts.rotation.supersede(old, NEW)
    other, _ = await parts.open(old)
    doubtful = parts.table.handles.use(handle.fh)
    assert doubtful is not None
    assert await parts.opener.read(doubtful, 0, 99) == await parts.opener.read(other, 0, 99)
    assert old.state is not State.CURRENT


class Child:
    """The keeper's child, a step at a time: what it looks up, and what it then does."""

    def __init__(self, parts: Parts, token: str, pid: int = 77) -> None:
        self._parts = parts
        self.made_up = b"." + token.encode()
        self.token = token
        self._pid = pid

    def looks_up(self) -> bool:
        """The made-up name and the old one, as rename(2) does; whether it finds what it is to rename."""
        announcements = self._parts.rotation.announcements
        ours, found = announcements.look_up(1, self.made_up, self._pid)
        assert ours
        if found:
            announcements.look_up(1, b"pw", self._pid)
        return bool(found)

    def renames(self) -> None:
        """It is answered with success: the kernel tells watchers."""
        assert self._parts.rotation.announcements.rename(1, self.made_up, b"pw")
        self._parts.heard += 1

    def says(self, code: int) -> None:
        """How it ended."""
        self._parts.rotation.announcements.ended(self.token, code)


@pytest.fixture
async def renaming(parts: Parts) -> Parts:
    """One that announces by rename: of a name that the kernel has."""
    parts.renames = True
    parts.build()
    parts.vault.put("pw", "one")
    await parts.lookup()
    return parts


async def begin(parts: Parts, nursery: trio.Nursery) -> Child:
    """Have the keeper asked for what is pending."""
    nursery.start_soon(parts.rotation.run)
    return await asked_again(parts)


async def asked_again(parts: Parts) -> Child:
    """The child of the next time that the keeper is asked."""
    children: list[Child] = []
    asked = trio.Event()

    def child(token: str, do: str, name: str) -> None:
        if do == "refresh":  # a moment after a rename, of an inode that the kernel holds still
            return
        assert (do, name) == ("rename", "pw")
        children.append(Child(parts, token))
        asked.set()

    parts.child = child
    with trio.fail_after(10):
        await asked.wait()
    return children[0]


async def test_a_child_is_known_at_a_rename_when_what_it_did_before_is_heard_to_have_ended(
    renaming: Parts, nursery: trio.Nursery
) -> None:
    """Else its look-up of the name is answered as anybody's, and the kernel gives up the old inode too early."""
    parts = renaming
    announcements = parts.rotation.announcements
    before = announcements.begin(Do.REFRESH, inode=99)
    nursery.start_soon(announcements.carry_out, before)
    assert announcements.look_up(1, before.made_up, 77)[0]
    await parts.rotate("two")
    old = parts.table.entries.nodes["pw"]
    parts.rotation.supersede(old, NEW)
    child = await begin(parts, nursery)
    assert announcements.look_up(1, child.made_up, 77)[0]
    announcements.ended(before.token.hex(), 0)
    await trio.testing.wait_all_tasks_blocked()
    assert announcements.look_up(1, b"pw", 77) == (True, old)
    child.renames()
    child.says(0)
    await all_is_told(parts)
    assert announcements.pid == NOBODY
    assert parts.heard == 1


async def all_is_told(parts: Parts) -> None:
    with trio.fail_after(10):
        while parts.rotation.unannounced:  # noqa: ASYNC110 - a thread asks the kernel meanwhile
            await trio.sleep(0.01)


async def test_a_rename_that_a_dead_worker_began_is_heard_once(
    renaming: Parts, nursery: trio.Nursery
) -> None:
    """The dead one answered the look-ups; the rename was sent again to the next one."""
    parts = renaming
    await parts.rotate("two")
    parts.rotation.supersede(parts.table.entries.nodes["pw"], NEW)
    async with trio.open_nursery() as first:
        child = await begin(parts, first)
        assert child.looks_up()
        first.cancel_scope.cancel()
    parts.build()
    child.renames()
    assert not parts.table.dirents.by_key["pw"].pending
    again = await begin(parts, nursery)
    assert again.token == child.token  # the keeper knows that it is done
    again.says(0)
    await all_is_told(parts)
    assert parts.heard == 1


async def test_a_rename_whose_child_died_unheard_is_not_done_again(
    renaming: Parts, nursery: trio.Nursery
) -> None:
    """Worker and child were killed between the rename and the child's word of it."""
    parts = renaming
    await parts.rotate("two")
    parts.rotation.supersede(parts.table.entries.nodes["pw"], NEW)
    async with trio.open_nursery() as first:
        child = await begin(parts, first)
        assert child.looks_up()
        child.renames()
        first.cancel_scope.cancel()
    parts.build()
    other = await begin(parts, nursery)
    assert not other.looks_up()
    other.says(errno.ENOENT)
    await all_is_told(parts)
    assert not parts.table.dirents.by_key["pw"].token
    assert parts.heard == 1


async def test_a_rename_that_a_take_over_undid_is_done_again(renaming: Parts, nursery: trio.Nursery) -> None:
    """Where the kernel cannot send a request again it ends with ESTALE, though a dead worker had noted its answer."""
    parts = renaming
    await parts.rotate("two")
    parts.rotation.supersede(parts.table.entries.nodes["pw"], NEW)
    async with trio.open_nursery() as first:
        child = await begin(parts, first)
        assert child.looks_up()
        assert parts.rotation.announcements.rename(1, child.made_up, b"pw")
        first.cancel_scope.cancel()
    parts.build()
    (await begin(parts, nursery)).says(errno.ESTALE)
    other = await asked_again(parts)
    assert other.token == child.token
    assert other.looks_up()
    other.renames()
    other.says(0)
    await all_is_told(parts)
    assert parts.heard == 1


async def test_a_version_that_is_found_while_its_change_is_announced_is_no_news(
    renaming: Parts, nursery: trio.Nursery
) -> None:
    """A listing told of the change and not of the version; a look-up finds it just before the rename."""
    parts = renaming
    parts.rotation.folder.changed(PW, 2)
    child = await begin(parts, nursery)
    assert child.looks_up()
    parts.rotation.folder.found(PW, NEW, 2)
    child.renames()
    assert not parts.table.dirents.by_key["pw"].pending
    child.says(0)
    await all_is_told(parts)


async def test_a_version_that_follows_while_the_one_before_is_announced_is_news(
    renaming: Parts, nursery: trio.Nursery
) -> None:
    parts = renaming
    parts.rotation.folder.changed(PW, 2)
    child = await begin(parts, nursery)
    assert child.looks_up()
    parts.rotation.folder.changed(PW, 3)
    child.renames()
    assert parts.table.dirents.by_key["pw"].pending
