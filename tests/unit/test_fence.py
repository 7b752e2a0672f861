"""What a process without rights says of the fence of the token endpoint."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from keyvaultfs.fence import Fence, FenceState, fence, parse

if TYPE_CHECKING:
    from pathlib import Path


def test_a_line_of_the_last_half_minute_is_believed() -> None:
    assert parse(b"in-force 100.25 0\n", 130.25) == FenceState(Fence.IN_FORCE, 30.0, 0)
    assert parse(b"in-force 100.25 2\n", 130.25).restored == 2
    assert parse(b"lost 100.25 2\n", 130.25) == FenceState(Fence.LOST, 30.0, 2)


def test_a_line_that_nobody_renews_is_not() -> None:
    assert parse(b"in-force 100.25 0\n", 400.0).fence is Fence.LOST


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"in-force",
        b"in-force soon 0",
        b"in-force 1 x",
        b"in-force nan 0",
        b"\xff 1 0",
        b"a b c d",
    ],
)
def test_anything_else_is_no_fence(text: bytes) -> None:
    assert parse(text, 10.0).fence is Fence.LOST


def test_a_file_is_read_and_nothing_in_its_place_is_trusted(tmp_path: Path) -> None:
    state = tmp_path / "imds-fence"
    assert fence(str(state)).fence is Fence.ABSENT
    state.write_text(f"in-force {time.clock_gettime(time.CLOCK_BOOTTIME)} 1\n")
    assert fence(str(state)).fence is Fence.IN_FORCE
    link = tmp_path / "link"
    link.symlink_to(state)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for odd in (link, pipe, tmp_path):
        assert fence(str(odd)).fence is Fence.LOST
