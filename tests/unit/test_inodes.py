from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from keyvaultfs.content.decode import Decoding
from keyvaultfs.filesystem.inodes import InodeTable
from keyvaultfs.filesystem.nodes import State
from keyvaultfs.model import SecretName, Version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyvaultfs.filesystem.nodes import Node

ORIGIN = "https://v.vault.azure.net"


def version(number: int) -> Version:
    return Version(f"{number:032x}")


def add(table: InodeTable, name: str = "pw", number: int = 1, size: int = 9) -> Node:
    return table.add(SecretName(name), version(number), Decoding.RAW, size=size, created=5, updated=6)


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = os.memfd_create("table")
    yield fd
    os.close(fd)


def test_a_number_is_the_same_after_a_restart(memfd: int) -> None:
    first = InodeTable(memfd, ORIGIN).number(SecretName("pw"), version(1), Decoding.RAW)
    fresh = os.memfd_create("other")
    assert InodeTable(fresh, ORIGIN).number(SecretName("PW"), version(1), Decoding.RAW) == first
    os.close(fresh)
    assert first < 1 << 63


@pytest.mark.parametrize(
    "other",
    [
        ("pw2", 1, Decoding.RAW, False, ORIGIN),
        ("pw", 2, Decoding.RAW, False, ORIGIN),
        ("pw", 1, Decoding.HEX, False, ORIGIN),
        ("pw", 1, Decoding.RAW, True, ORIGIN),
        ("pw", 1, Decoding.RAW, False, "https://w.vault.azure.net"),
    ],
)
def test_whatever_changes_the_bytes_changes_the_number(
    memfd: int, other: tuple[str, int, Decoding, bool, str]
) -> None:
    name, number, how, pinned, origin = other
    here = InodeTable(memfd, ORIGIN).number(SecretName("pw"), version(1), Decoding.RAW)
    fresh = os.memfd_create("other")
    assert InodeTable(fresh, origin).number(SecretName(name), version(number), how, pinned=pinned) != here
    os.close(fresh)


def test_a_collision_gives_the_second_another_number(memfd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Colliding:
        def __init__(self, text: bytes, **_: int) -> None:
            self.salt = text.rpartition(b"\0")[2]

        def digest(self) -> bytes:
            return (0x123456789ABC0 + 2 * int(self.salt)).to_bytes(8, "little")

    monkeypatch.setattr("keyvaultfs.filesystem.inodes.hashlib.blake2b", Colliding)
    table = InodeTable(memfd, ORIGIN)
    one, two = add(table, "one"), add(table, "two")
    assert one.inode != two.inode
    assert add(table, "one") is one
    assert add(table, "two") is two


def test_a_successor_knows_inodes_and_open_files(memfd: int) -> None:
    table = InodeTable(memfd, ORIGIN)
    node = add(table)
    table.tell(node, b"PW")
    handle = table.open(node)
    table.settle()
    later = InodeTable(memfd, ORIGIN)
    again = later.nodes[node.inode]
    assert (again.name, again.version, again.size, again.created, again.updated) == (
        node.name,
        node.version,
        9,
        5,
        6,
    )
    assert (again.lookups, again.state) == (1, State.CURRENT)
    assert later.told["pw"] is again
    found = later.handle(handle.fh)
    assert found is not None
    assert found.content is again


def test_an_open_that_the_kernel_sends_again_counts_once(memfd: int) -> None:
    table = InodeTable(memfd, ORIGIN)
    node = add(table)
    table.tell(node, b"pw")
    table.open(node)  # the worker dies before the answer is known to have arrived
    later = InodeTable(memfd, ORIGIN)
    again = later.nodes[node.inode]
    handle = later.open(again)
    later.settle()
    assert later.is_open(again)
    later.release(handle.fh)
    assert not later.is_open(again)
    later.forget(node.inode, 1)
    assert later.nodes == {}
    assert later.handles == {}


def test_another_readers_open_takes_no_handle_away_whose_answer_may_have_arrived(memfd: int) -> None:
    table = InodeTable(memfd, ORIGIN)
    node = add(table)
    table.tell(node, b"pw")
    first = table.open(node)  # the worker dies just after the answer, before it could note that
    later = InodeTable(memfd, ORIGIN)
    later.open(later.nodes[node.inode])
    found = later.handle(first.fh)
    assert found is not None
    assert later.is_open(later.nodes[node.inode])


def test_a_forgotten_inode_that_is_open_stays(memfd: int) -> None:
    table = InodeTable(memfd, ORIGIN)
    node = add(table)
    table.tell(node, b"pw")
    handle = table.open(node)
    table.forget(node.inode, 1)
    assert node.inode in table.nodes
    table.release(handle.fh)
    assert node.inode not in table.nodes
    table.release(handle.fh)  # a RELEASE may run twice


def test_a_superseded_inode_keeps_what_it_shows(memfd: int) -> None:
    table = InodeTable(memfd, ORIGIN)
    old, new = add(table, number=1), add(table, number=2)
    table.tell(old, b"pw")
    table.supersede(old)
    table.show(old, new)
    table.forget(new.inode, 1)
    assert table.content(InodeTable(memfd, ORIGIN).nodes[old.inode]).inode == new.inode
    table.forget(old.inode, 1)
    assert not table.nodes
    assert not InodeTable(memfd, ORIGIN).nodes


def test_an_inode_that_the_kernel_has_lost_loses_its_handles(memfd: int) -> None:
    table = InodeTable(memfd, ORIGIN)
    node = add(table)
    table.tell(node, b"pw")
    handle = table.open(node)
    table.lost(node)
    assert table.handle(handle.fh) is None
    assert not table.nodes


def test_what_is_said_of_an_inode_that_was_let_go_spoils_no_record(memfd: int) -> None:
    table = InodeTable(memfd, ORIGIN)
    gone = add(table, number=1)
    table.tell(gone, b"pw")
    table.supersede(gone)
    table.forget(gone.inode, 1)
    other = add(table, "other")  # in the slot of the first
    assert other.slot == gone.slot
    table.tell(other, b"other")
    table.notified(gone)
    assert set(InodeTable(memfd, ORIGIN).nodes) == {other.inode}


def test_a_table_grows_beyond_its_first_size(memfd: int) -> None:
    table = InodeTable(memfd, ORIGIN)
    for number in range(1000):
        table.tell(add(table, f"n{number}", number), b"n")
    assert len(InodeTable(memfd, ORIGIN).nodes) == 1000


class Table(RuleBasedStateMachine):
    """Whatever happens: a number that the kernel holds never gets a second meaning, also in a successor's hands."""

    inodes = Bundle("inodes")
    handles = Bundle("handles")

    def __init__(self) -> None:
        super().__init__()
        self.fd = os.memfd_create("table")
        self.table = InodeTable(self.fd, ORIGIN)
        self.meaning: dict[int, tuple[str, str]] = {}
        self.held: dict[int, int] = {}
        self.open_on: dict[int, str] = {}

    def teardown(self) -> None:
        os.close(self.fd)

    @rule(target=inodes, name=st.sampled_from(["a", "b"]), number=st.integers(1, 3))
    def look_up(self, name: str, number: int) -> int:
        node = add(self.table, name, number)
        told = self.table.told.get(name)
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
        self.table.settle()
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
        self.table = InodeTable(self.fd, ORIGIN)

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
            handle = self.table.handle(fh)
            assert handle is not None
            assert handle.content.version == opened
            assert handle.content.inode in self.table.nodes


TestTable = Table.TestCase


def test_spellings_of_one_name_are_bounded_and_the_vaults_own_is_always_among_them(memfd: int) -> None:
    """400,000 of them once filled locked memory, and a rotation was told for each."""
    table = InodeTable(memfd, ORIGIN)
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
    assert len(table.spellings["abcdefghijkl"]) == 5
