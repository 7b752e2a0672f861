"""The kernel's mount table, in which every user may choose names."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvaultfs.keeper import mountinfo

OURS = b"36 25 0:41 / /mnt/kv ro,nosuid shared:7 - fuse.keyvaultfs kv ro,user_id=0\n"
# What `str.splitlines` and text files take for an end of line, and the kernel does not escape.
ODD = ["\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


def of_somebody(folder: bytes) -> bytes:
    return b"90 25 0:55 / /home/eve/" + folder + b" rw,nosuid - fuse.evil evil rw,user_id=1000\n"


@pytest.mark.parametrize("odd", ODD, ids=ascii)
def test_a_name_that_looks_like_an_end_of_line_changes_nothing(odd: str) -> None:
    data = of_somebody(f"a{odd}b{odd}".encode()) + OURS
    theirs, ours = mountinfo.parse(data)
    assert theirs.mountpoint == f"/home/eve/a{odd}b{odd}"
    assert (ours.number, ours.parent, ours.minor, ours.mountpoint) == (36, 25, 41, "/mnt/kv")
    assert (ours.shared, theirs.shared) == (True, False)


def test_the_kernels_escapes_are_undone() -> None:
    (one,) = mountinfo.parse(of_somebody(rb"sp\040ace\011tab\134040\012"))
    assert one.mountpoint == "/home/eve/sp ace\ttab\\040\n"


def test_a_name_that_is_not_utf_8_is_kept() -> None:
    (one,) = mountinfo.parse(of_somebody(b"\xff\xfe"))
    assert os.fsencode(one.mountpoint) == b"/home/eve/\xff\xfe"


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_whatever_the_other_lines_are_ours_is_found(others: list[bytes]) -> None:
    data = b"".join(line.replace(b"\n", b"") + b"\n" for line in others) + OURS
    assert mountinfo.parse(data)[-1].mountpoint == "/mnt/kv"


def test_the_tables_own_lines_are_all_understood() -> None:
    with open(mountinfo.PATH, "rb") as file:
        lines = file.read().split(b"\n")[:-1]
    assert len(mountinfo.parse(b"\n".join(lines))) == len(lines)
