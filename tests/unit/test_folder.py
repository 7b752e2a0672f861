"""What of listings and look-ups is news to who watches the folder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from keyvaultfs.filesystem.folder import Folder
from keyvaultfs.filesystem.inodes.table import InodeTable
from tests.support.world import TREE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyvaultfs.filesystem.inodes.nodes import Dirent

ONE, TWO = "1" * 32, "2" * 32


class Watched:
    """A folder, and what of it is pending."""

    def __init__(self, fd: int) -> None:
        self.table = InodeTable(fd, "https://v.vault.azure.net", TREE)
        self.pending: list[str] = []
        self.folder = Folder(self.table, self._note)

    def _note(self, dirent: Dirent) -> None:
        self.pending.append(dirent.name.path)

    def listed(self, **lines: int) -> list[str]:
        """Names that it lacks."""
        items = [(TREE.file(name), updated) for name, updated in lines.items()]
        missing = self.folder.listed(items, lambda _: False, lambda _: True)
        return [file.path for file in missing]

    def news(self) -> set[str]:
        """What has become pending since the last look; it counts as told."""
        found, self.pending = set(self.pending), []
        for dirent in tuple(self.table.dirents.by_key.values()):
            dirent.announced, dirent.changed = dirent.present, False
        return found


@pytest.fixture
def watched() -> Iterator[Watched]:
    fd = os.memfd_create("table")
    yield Watched(fd)
    os.close(fd)


def test_a_first_listing_is_no_news_and_a_second_tells_what_differs(watched: Watched) -> None:
    assert watched.listed(a=1, b=1) == []
    assert watched.news() == set()
    moment = watched.table.changed
    assert watched.listed(a=1, b=1) == []
    assert (watched.news(), watched.table.changed) == (set(), moment)
    assert watched.listed(a=2, c=1) == ["b"]
    assert watched.news() == {"a", "c"}
    assert watched.table.changed > moment


def test_a_look_up_tells_of_another_version_and_of_a_name_that_was_not_there(watched: Watched) -> None:
    pw, late = TREE.file("pw"), TREE.file("late")
    watched.folder.found(pw, ONE, 1)
    assert watched.news() == set()
    watched.folder.found(pw, ONE, 5)
    assert watched.news() == set()
    watched.folder.found(pw, TWO, 5)
    watched.folder.found(late, ONE, 1, appeared=True)
    assert watched.news() == {"pw", "late"}
    watched.folder.gone(pw)
    assert watched.news() == {"pw"}


def test_what_a_listing_announced_is_not_announced_again_by_the_look_up_that_finds_it(
    watched: Watched,
) -> None:
    watched.listed(pw=1)
    watched.listed(pw=2)
    assert watched.news() == {"pw"}
    watched.folder.found(TREE.file("pw"), ONE, 2)
    assert watched.news() == set()


def test_a_name_that_is_refused_is_heard_of_once_as_one_that_has_changed(watched: Watched) -> None:
    """Whoever lists the folder goes on seeing it."""
    pw = TREE.file("pw")
    watched.listed(pw=1)
    watched.folder.found(pw, ONE, 1)
    assert watched.news() == set()
    watched.folder.refused(pw, replaces=True)
    assert watched.table.dirents.by_key["pw"].present
    assert watched.news() == {"pw"}
    watched.folder.refused(pw, replaces=False)
    watched.listed(pw=1)
    assert watched.news() == set()
    watched.folder.found(pw, ONE, 1)
    assert watched.news() == {"pw"}
    watched.folder.refused(TREE.file("made-up"), replaces=False)
    assert watched.news() == set()


def test_metadata_that_alone_have_changed_are_no_news_when_that_is_found_in_time(watched: Watched) -> None:
    pw = TREE.file("pw")
    watched.folder.found(pw, ONE, 1)
    watched.folder.changed(pw, 2)
    watched.folder.found(pw, ONE, 2)
    assert not watched.table.dirents.by_key["pw"].pending


def test_many_names_that_vanish_at_once_are_not_asked_for_singly(watched: Watched) -> None:
    watched.listed(**{f"n{number}": 1 for number in range(100)})
    watched.news()
    assert watched.listed(n0=1) == []
    assert len(watched.news()) == 99


def test_a_first_listing_that_comes_after_a_rotation_of_what_was_read_hides_it_from_nobody(
    watched: Watched,
) -> None:
    """The kernel was told of an inode by a look-up, and somebody may watch it since."""
    for name in ("rotated", "same"):
        node = watched.table.add(TREE.file(name), ONE, size=1, created=1, updated=1)
        watched.table.tell(node, name.encode())
    watched.listed(rotated=2, same=1, other=1)
    assert watched.news() == {"rotated"}
