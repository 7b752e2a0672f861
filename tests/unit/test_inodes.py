from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from keyvaultfs.cache import values
from keyvaultfs.errors import KeyVaultFSError
from keyvaultfs.filesystem.inodes import numbers, slots
from keyvaultfs.filesystem.inodes.nodes import State
from keyvaultfs.filesystem.inodes.table import InodeTable
from keyvaultfs.model import SecretName, Version
from tests.support.world import TREE, flat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyvaultfs.filesystem.inodes.nodes import Node

LAYOUT_1 = Path(__file__).parent / "data" / "table-layout-1"
"""What the first release wrote: a full table, with an inode in its first slot, and an open file."""

ORIGIN = "https://v.vault.azure.net"


def version(number: int) -> Version:
    return Version(f"{number:032x}")


def add(table: InodeTable, name: str = "pw", number: int = 1, size: int = 9) -> Node:
    return table.add(flat(name), version(number), size=size, created=5, updated=6)


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = os.memfd_create("table")
    yield fd
    os.close(fd)


def test_a_number_is_the_same_after_a_restart(memfd: int) -> None:
    first = InodeTable(memfd, ORIGIN, TREE).number(flat("pw"), version(1))
    fresh = os.memfd_create("other")
    assert InodeTable(fresh, ORIGIN, TREE).number(flat("PW"), version(1)) == first
    os.close(fresh)
    assert 1 << 16 <= first < 1 << 31


@pytest.mark.parametrize(
    "other",
    [
        ("pw2", 1, False, ORIGIN),
        ("pw", 2, False, ORIGIN),
        ("pw", 1, True, ORIGIN),
        ("pw", 1, False, "https://w.vault.azure.net"),
    ],
)
def test_whatever_changes_the_bytes_changes_the_number(memfd: int, other: tuple[str, int, bool, str]) -> None:
    name, number, pinned, origin = other
    here = InodeTable(memfd, ORIGIN, TREE).number(flat("pw"), version(1))
    fresh = os.memfd_create("other")
    assert InodeTable(fresh, origin, TREE).number(flat(name), version(number), pinned=pinned) != here
    os.close(fresh)


def test_a_collision_gives_the_second_another_number(memfd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Colliding:
        def __init__(self, text: bytes, **_: int) -> None:
            self.salt = text.rpartition(b"\0")[2]

        def digest(self) -> bytes:
            return (0x123456789ABC0 + 2 * int(self.salt)).to_bytes(8, "little")

    monkeypatch.setattr("keyvaultfs.filesystem.inodes.numbers.hashlib.blake2b", Colliding)
    table = InodeTable(memfd, ORIGIN, TREE)
    one, two = add(table, "one"), add(table, "two")
    directory = table.directories.of(SecretName("one"))
    assert len({one.inode, two.inode, directory.inode}) == 3
    assert add(table, "one") is one
    assert add(table, "two") is two
    names = [table.dirents.of(flat(name)).inode for name in ("one", "two")]
    assert names[0] != names[1]


def test_tens_of_thousands_fit_in_32_bits_and_none_is_given_twice(memfd: int) -> None:
    table = InodeTable(memfd, ORIGIN, TREE)
    given: set[int] = set()
    for number in range(20_000):
        name = flat(f"n{number}")
        node = table.add(name, version(number), size=1, created=None, updated=None)
        table.looked_up(node)
        given |= {node.inode, table.dirents.of(name).inode}
        table.dirents.of(name).present = True
    directory = table.directories.of(SecretName("n1"))
    assert len(given | {directory.inode}) == 40_001
    assert min(given) >= 1 << 16
    assert max(given) < 1 << 32
    later = InodeTable(memfd, ORIGIN, TREE)
    assert {*later.nodes, *later.dirents.by_inode} == given


@pytest.mark.parametrize("many", [60, 300])
def test_numbers_that_collide_all_the_time_stay_apart_in_a_successor_too(
    memfd: int, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    monkeypatch.setattr(numbers, "NODES", range(1 << 16, (1 << 16) + many + 1))
    monkeypatch.setattr(numbers, "PLACEHOLDERS", range(1 << 31, (1 << 31) + many))
    table = InodeTable(memfd, ORIGIN, TREE)
    meanings: dict[int, str] = {table.directories.of(SecretName("n0")).inode: "directory"}
    for number in range(many):
        if number == many // 2:
            table = InodeTable(memfd, ORIGIN, TREE)
        name = flat(f"n{number}")
        table.looked_up(node := add(table, name.path))
        assert meanings.setdefault(node.inode, name.path) == name.path
        placeholder = table.dirents.of(name).inode
        assert meanings.setdefault(placeholder, f"listed {name}") == f"listed {name}"
    with pytest.raises(OverflowError):
        add(table, "one-too-many")
    assert len(meanings) == 2 * many + 1


def test_what_the_kernel_forgets_is_let_go_whatever_it_is(memfd: int) -> None:
    table = InodeTable(memfd, ORIGIN, TREE)
    directory, dirent = table.directories.of(SecretName("pw")), table.dirents.of(flat("pw"))
    for held in (directory, dirent):
        table.looked_up(held)
        table.looked_up(held)
    table.forget(directory.inode, 1)
    table.forget(dirent.inode, 1)
    later = InodeTable(memfd, ORIGIN, TREE)
    assert later.directories.by_inode[directory.inode].lookups == 1
    assert later.dirents.by_inode[dirent.inode].lookups == 1
    later.forget(directory.inode, 1)
    later.forget(dirent.inode, 1)
    last = InodeTable(memfd, ORIGIN, TREE)
    assert (last.directories.by_inode, last.dirents.by_inode) == ({}, {})


def test_a_name_that_watchers_know_stays_without_the_kernel(memfd: int) -> None:
    table = InodeTable(memfd, ORIGIN, TREE)
    dirent = table.dirents.of(flat("Only-here"))
    dirent.present = dirent.changed = True
    dirent.updated, dirent.version, dirent.token = 7, version(3), b"12345678"
    table.dirents.note(dirent)
    table.looked_up(dirent)
    table.forget(dirent.inode, 1)
    again = InodeTable(memfd, ORIGIN, TREE).dirents.by_key["only-here"]
    assert (again.name.path, again.inode, again.updated) == ("Only-here", dirent.inode, 7)
    assert (again.version, again.token) == (version(3), b"12345678")
    assert (again.present, again.announced, again.changed, again.pending) == (True, False, True, True)
    dirent.present = dirent.changed = False
    table.dirents.note(dirent)
    dirent.token = b""
    table.dirents.note(dirent)
    assert InodeTable(memfd, ORIGIN, TREE).dirents.by_key == {}


def test_a_version_that_only_a_listing_has_shown_gets_its_size_when_it_is_looked_up(memfd: int) -> None:
    table = InodeTable(memfd, ORIGIN, TREE)
    name = flat("pw")
    listed = table.add(name, version(1), size=None, created=1, updated=2, pinned=True)
    assert (listed.state, listed.size) == (State.LISTED, 0)
    assert table.add(name, version(1), size=4, created=1, updated=2, pinned=True) is listed
    assert (listed.state, listed.size) == (State.PINNED, 4)
    table.unless_held(listed)
    assert not table.nodes


def test_a_table_without_a_head_is_read_and_keeps_its_numbers(memfd: int) -> None:
    os.write(memfd, LAYOUT_1.read_bytes())
    slots.check(memfd)
    table = InodeTable(memfd, ORIGIN, TREE)
    for table in (table, InodeTable(memfd, ORIGIN, TREE)):  # noqa: B020 - the second as a successor finds it
        found = {(node.name.key, node.version, node.lookups, node.state) for node in table.nodes.values()}
        assert found == {
            ("pw", version(1), 1, State.NOTIFIED),
            ("pw", version(2), 2, State.CURRENT),
            *((f"n{number}", version(number), 1, State.CURRENT) for number in range(3, 256)),
        }
        assert all(node.inode > 1 << 32 for node in table.nodes.values())
        (handle,) = table.handles.by_number.values()
        assert (handle.node.version, handle.content.version) == (version(1), version(1))
    assert add(table, "pw", 2).inode == table.entries.nodes["pw"].inode
    assert add(table, "new").inode < 1 << 31


@pytest.mark.parametrize(
    "head",
    [
        b"kvfstab\0" + (99).to_bytes(4, "little") + bytes(20),
        b"kvfstab\0\2",
        b"something else",
    ],
)
def test_a_table_of_an_unknown_layout_is_refused_and_left_alone(memfd: int, head: bytes) -> None:
    os.write(memfd, head)
    with pytest.raises(KeyVaultFSError, match="UnknownLayout"):
        slots.check(memfd)
    with pytest.raises(KeyVaultFSError, match="UnknownLayout"):
        InodeTable(memfd, ORIGIN, TREE)
    assert os.pread(memfd, 1 << 20, 0) == head


def test_values_of_an_unknown_layout_are_refused(memfd: int) -> None:
    values.check(memfd)
    values.ValueStore(memfd)
    values.check(memfd)
    os.pwrite(memfd, b"kvfsval9", 0)
    with pytest.raises(KeyVaultFSError, match="UnknownLayout"):
        values.check(memfd)


def test_the_folder_changes_forward_only_and_a_successor_knows_when(memfd: int) -> None:
    moments = iter((1000, 2000, 1500, 9000))
    table = InodeTable(memfd, ORIGIN, TREE, wall=lambda: next(moments))
    assert (table.began, table.changed) == (1000, 1000)
    table.touch()
    table.touch()
    assert table.changed == 2001
    later = InodeTable(memfd, ORIGIN, TREE, wall=lambda: 1)
    assert (later.began, later.changed) == (1000, 2001)


def test_a_successor_knows_inodes_and_open_files(memfd: int) -> None:
    table = InodeTable(memfd, ORIGIN, TREE)
    node = add(table)
    table.tell(node, b"PW")
    handle = table.open(node)
    table.handles.settle()
    later = InodeTable(memfd, ORIGIN, TREE)
    again = later.nodes[node.inode]
    assert (again.name, again.version, again.size, again.created, again.updated) == (
        node.name,
        node.version,
        9,
        5,
        6,
    )
    assert (again.lookups, again.state) == (1, State.CURRENT)
    assert later.entries.nodes["pw"] is again
    found = later.handles.use(handle.fh)
    assert found is not None
    assert found.content is again


def test_an_open_that_the_kernel_sends_again_counts_once(memfd: int) -> None:
    table = InodeTable(memfd, ORIGIN, TREE)
    node = add(table)
    table.tell(node, b"pw")
    table.open(node)  # the worker dies before the answer is known to have arrived
    later = InodeTable(memfd, ORIGIN, TREE)
    again = later.nodes[node.inode]
    handle = later.open(again)
    later.handles.settle()
    assert later.handles.is_open(again)
    later.release(handle.fh)
    assert not later.handles.is_open(again)
    later.forget(node.inode, 1)
    assert later.nodes == {}
    assert later.handles.by_number == {}


def test_another_readers_open_takes_no_handle_away_whose_answer_may_have_arrived(memfd: int) -> None:
    table = InodeTable(memfd, ORIGIN, TREE)
    node = add(table)
    table.tell(node, b"pw")
    first = table.open(node)  # the worker dies just after the answer, before it could note that
    later = InodeTable(memfd, ORIGIN, TREE)
    later.open(later.nodes[node.inode])
    found = later.handles.use(first.fh)
    assert found is not None
    assert later.handles.is_open(later.nodes[node.inode])


def test_a_forgotten_inode_that_is_open_stays(memfd: int) -> None:
    table = InodeTable(memfd, ORIGIN, TREE)
    node = add(table)
    table.tell(node, b"pw")
    handle = table.open(node)
    table.forget(node.inode, 1)
    assert node.inode in table.nodes
    table.release(handle.fh)
    assert node.inode not in table.nodes
    table.release(handle.fh)  # a RELEASE may run twice


def test_a_superseded_inode_keeps_what_it_shows(memfd: int) -> None:
    table = InodeTable(memfd, ORIGIN, TREE)
    old, new = add(table, number=1), add(table, number=2)
    table.tell(old, b"pw")
    table.supersede(old)
    table.show(old, new)
    table.forget(new.inode, 1)
    assert table.content(InodeTable(memfd, ORIGIN, TREE).nodes[old.inode]).inode == new.inode
    table.forget(old.inode, 1)
    assert not table.nodes
    assert not InodeTable(memfd, ORIGIN, TREE).nodes


def test_an_inode_that_the_kernel_has_lost_loses_its_handles(memfd: int) -> None:
    table = InodeTable(memfd, ORIGIN, TREE)
    node = add(table)
    table.tell(node, b"pw")
    handle = table.open(node)
    table.lost(node)
    assert table.handles.use(handle.fh) is None
    assert not table.nodes


def test_what_is_said_of_an_inode_that_was_let_go_spoils_no_record(memfd: int) -> None:
    table = InodeTable(memfd, ORIGIN, TREE)
    gone = add(table, number=1)
    table.tell(gone, b"pw")
    table.supersede(gone)
    table.forget(gone.inode, 1)
    other = add(table, "other")  # in the slot of the first
    assert other.slot == gone.slot
    table.tell(other, b"other")
    table.notified(gone)
    assert set(InodeTable(memfd, ORIGIN, TREE).nodes) == {other.inode}


def test_a_table_grows_beyond_its_first_size(memfd: int) -> None:
    table = InodeTable(memfd, ORIGIN, TREE)
    for number in range(1000):
        table.tell(add(table, f"n{number}", number), b"n")
    assert len(InodeTable(memfd, ORIGIN, TREE).nodes) == 1000


class Table(RuleBasedStateMachine):
    """Whatever happens: a number that the kernel holds never gets a second meaning, also in a successor's hands."""

    inodes = Bundle("inodes")
    handles = Bundle("handles")

    def __init__(self) -> None:
        super().__init__()
        self.fd = os.memfd_create("table")
        self.table = InodeTable(self.fd, ORIGIN, TREE)
        self.meaning: dict[int, tuple[str, str]] = {}
        self.held: dict[int, int] = {}
        self.open_on: dict[int, str] = {}

    def teardown(self) -> None:
        os.close(self.fd)

    @rule(target=inodes, name=st.sampled_from(["a", "b"]), number=st.integers(1, 3))
    def look_up(self, name: str, number: int) -> int:
        node = add(self.table, name, number)
        told = self.table.entries.nodes.get(name)
        if told is not None and told is not node:
            self.table.supersede(told)
            self.table.notified(told)
        self.table.tell(node, name.encode())
        assert self.meaning.setdefault(node.inode, (name, node.version)) == (name, node.version)
        self.held[node.inode] = self.held.get(node.inode, 0) + 1
        return node.inode

    @rule(inode=inodes, count=st.integers(1, 2))
    def forget(self, inode: int, count: int) -> None:
        count = min(count, self.held.get(inode, 0))
        if count:
            self.table.forget(inode, count)
            self.held[inode] -= count

    @rule(target=handles, inode=inodes)
    def open(self, inode: int) -> int:
        node = self.table.nodes.get(inode)
        if node is None:
            return 0
        handle = self.table.open(node)
        self.table.handles.settle()
        self.open_on[handle.fh] = handle.content.version
        return handle.fh

    @rule(fh=handles)
    def release(self, fh: int) -> None:
        self.table.release(fh)
        self.open_on.pop(fh, None)

    @rule(inode=inodes, other=inodes)
    def switch(self, inode: int, other: int) -> None:
        node, new = self.table.nodes.get(inode), self.table.nodes.get(other)
        if node and new and node.name == new.name and not node.handles and node.state is State.NOTIFIED:
            self.table.show(node, new)

    @rule()
    def take_over(self) -> None:
        self.table = InodeTable(self.fd, ORIGIN, TREE)

    @invariant()
    def every_held_inode_is_known(self) -> None:
        for inode, count in self.held.items():
            if count:
                node = self.table.nodes[inode]
                assert (node.name.key, node.version) == self.meaning[inode]
                assert node.lookups == count

    @invariant()
    def an_open_file_keeps_its_version(self) -> None:
        for fh, opened in self.open_on.items():
            handle = self.table.handles.use(fh)
            assert handle is not None
            assert handle.content.version == opened
            assert handle.content.inode in self.table.nodes


TestTable = Table.TestCase


def test_spellings_of_one_name_are_bounded_and_the_vaults_own_is_always_among_them(memfd: int) -> None:
    """400,000 of them once filled locked memory, and a rotation was told for each."""
    table = InodeTable(memfd, ORIGIN, TREE)
    node = add(table, "abcdefghijkl")
    made_up = [
        "".join(
            letter.upper() if number >> place & 1 else letter for place, letter in enumerate("abcdefghijkl")
        )
        for number in range(1, 4096)
    ]
    noted = [spelling for spelling in made_up if table.tell(node, spelling.encode())]
    assert noted == made_up[:4]
    assert table.tell(node, b"abcdefghijkl")
    assert table.tell(node, made_up[0].encode())
    assert len(table.entries.spellings["abcdefghijkl"]) == 5
