"""Whom the packages' scripts take for a keeper, and which mounts for root's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from keyvaultfs.keeper import mountinfo
from keyvaultfs.keeper.roster import keepers, mounts

ROOT = Path(__file__).resolve().parents[2]


def process(proc: Path, pid: int, **other: object) -> None:
    """A keeper, but for what is said otherwise."""
    facts = {
        "exe": "/usr/bin/python3.11", "ns": "pid:[1]", "uid": "0 0 0 0", "parent": 1,
        "cmdline": b"/usr/bin/python3\0/sbin/mount.keyvaultfs\0https://v\0/mnt\0",
        "held": ("/dev/fuse", "/memfd:keyvaultfs-table (deleted)"),
    } | other  # fmt: skip
    folder = proc / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "ns").mkdir()
    (folder / "exe").symlink_to(str(facts["exe"]))
    (folder / "ns/pid").symlink_to(str(facts["ns"]))
    (folder / "status").write_text(
        f"Name:\tx\nUid:\t{facts['uid']}\nPPid:\t{facts['parent']}\n".replace(" ", "\t")
    )
    assert isinstance(facts["cmdline"], bytes)
    (folder / "cmdline").write_bytes(facts["cmdline"])
    assert isinstance(facts["held"], tuple)
    for number, name in enumerate(facts["held"]):
        (folder / "fd" / str(number)).symlink_to(name)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    process(tmp_path, 10)
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").symlink_to("pid:[1]")
    (tmp_path / "uptime").touch()
    return tmp_path


@pytest.mark.parametrize(
    "other",
    [
        {"exe": "/usr/bin/python3.11 (deleted)"},
        {"cmdline": b"/opt/kv/bin/python3\0-I\0-m\0keyvaultfs.cli.main\0mount\0-f\0"},
    ],
)
def test_a_keeper_is_one_by_what_the_kernel_says(proc: Path, other: dict[str, object]) -> None:
    process(proc, 11, **other)
    assert keepers(str(proc)) == [10, 11]


@pytest.mark.parametrize(
    "other",
    [
        {"uid": "65534 65534 65534 65534"},
        {"uid": "65534 0 0 0"},  # of a set-uid program
        {"exe": "/usr/bin/fusermount3"},
        {"exe": "/home/app/python3-not"},
        {"ns": "pid:[2]"},  # of a container
        {"cmdline": b"/usr/bin/python3\0/usr/sbin/firewalld\0"},
        {"held": ("/dev/fuse",)},
        {"held": ("/memfd:keyvaultfs-table (deleted)",)},
        {"parent": 10},  # a worker that stayed root
        {"cmdline": b""},
    ],
)
def test_nobody_else_is_taken_for_one(proc: Path, other: dict[str, object]) -> None:
    process(proc, 11, **other)
    assert keepers(str(proc)) == [10]


def test_roots_mounts_are_told_by_what_the_kernel_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mountinfo"
    table.write_bytes(
        b"30 24 0:40 / /mnt/a\\040b\\012c\rd ro,nosuid shared:1 - fuse.keyvaultfs https://v ro,user_id=0,group_id=0\n"
        b"31 24 0:41 / /home/u/m rw - fuse.keyvaultfs user_id=0 rw,user_id=1000,group_id=0\n"
        b"32 24 0:42 / /home/u/\r- fuse.keyvaultfs x rw,user_id=0\n"
        b"33 24 0:43 / /mnt/\xff rw - fuse.sshfs x rw,user_id=0\n"
        b"nonsense - fuse.keyvaultfs\n"
        b"34 30 0:40 /pw /run/pw ro - fuse.keyvaultfs https://v ro,user_id=0,group_id=0\n"
    )
    monkeypatch.setattr(mountinfo, "PATH", str(table))
    assert [(one.number, one.mountpoint) for one in mounts()] == [(34, "/run/pw"), (30, "/mnt/a b\nc\rd")]


def test_the_scripts_of_both_packages_leave_mounts_to_the_roster() -> None:
    for script in ("debian/postinst", "debian/prerm", "rpm/keyvaultfs.spec"):
        text = (ROOT / "packaging" / script).read_text(encoding="utf-8")
        assert "keyvaultfs.keeper.roster" in text
        for word in ("umount ", "findmnt", "kill ", "keyvaultfs status", os.sep + "mnt"):
            assert word not in text
