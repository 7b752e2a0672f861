"""What is imported before readers are served, and where that which comes later can be read."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keyvaultfs import version
from keyvaultfs.cli import ahead
from keyvaultfs.ipc import Channel, Noise
from keyvaultfs.worker import network, privileges

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).parents[2] / "src"

_BEFORE_THE_WORKER = ("typing", "re", "json", "ctypes", "keyvaultfs.ipc")
_OF_THE_KEEPER = (
    "trio",
    "pyfuse3",
    "requests",
    "logging",
    "argparse",
    "importlib.metadata",
    "dataclasses",
    "inspect",
    "urllib.parse",
)
_OF_THE_NETWORK = (
    "requests",
    "urllib3",
    "http.client",
    "charset_normalizer",
    "chardet",
    "jinja2",
    "cryptography",
)


@pytest.mark.parametrize(
    ("modules", "without"),
    [
        (("cli.main", "cli.mount_helper", "keeper.start"), _BEFORE_THE_WORKER),
        (("keeper.__main__",), _OF_THE_KEEPER),
        (("worker.main", "worker.network", "settings.layout", "files.makers"), _OF_THE_NETWORK),
    ],
)
def test_readers_wait_for_no_import_that_can_come_later(
    modules: tuple[str, ...], without: tuple[str, ...]
) -> None:
    names = ", ".join(f"keyvaultfs.{module}" for module in modules)
    code = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); import {names}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True)
    assert not set(without) & set(done.stdout.split())


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Where anybody may look: the folders of pytest are for their owner."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        yield Path(made)


def test_code_that_another_user_cannot_read_is_told(open_folder: Path) -> None:
    folder = open_folder / "a"
    folder.mkdir()
    file = folder / "code.py"
    file.write_text("")
    for path in (open_folder, folder, file):
        path.chmod(0o755)
    assert network._readable_by_all(str(file))
    (open_folder / "link").symlink_to(file)
    assert network._readable_by_all(str(open_folder / "link"))
    for path, mode in ((folder, 0o750), (folder, 0o754), (open_folder, 0o700), (file, 0o640)):
        path.chmod(mode)
        assert not network._readable_by_all(str(file)), (path, mode)
        assert not network._readable_by_all(str(open_folder / "link"))
        path.chmod(0o755)
    assert not network._readable_by_all(str(folder / "absent"))


def test_code_that_is_not_found_is_not_left_for_later() -> None:
    assert not network._is_open("keyvaultfs.nothing")


def test_the_user_changes_for_root_alone_and_not_to_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert not privileges.becomes_another("nobody")
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert privileges.becomes_another("nobody")
    assert not privileges.becomes_another("root")
    with pytest.raises(KeyError):
        privileges.becomes_another("nobody-at-all")


def test_the_version_is_in_the_name_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "keyvaultfs"
    package.mkdir()
    monkeypatch.setattr(version, "__file__", str(package / "version.py"))
    monkeypatch.setattr(sys, "path", ["", str(tmp_path / "absent")])
    monkeypatch.chdir(tmp_path)
    assert version.package_version() == "unknown"
    (tmp_path / "keyvaultfs-1.2.3.dist-info").mkdir()
    assert version.package_version() == "1.2.3"


@pytest.mark.parametrize(
    ("line", "begun"),
    [
        ("mount v /mnt", (False, "/mnt")),
        ("mount -f v /mnt", (True, "/mnt")),
        ("mount v /mnt --foreground -d", (True, "/mnt")),
        ("mount -o ttl=5 v -o mode=400 /mnt", (False, "/mnt")),
        ("mount -o -f v /mnt", (False, "/mnt")),
        ("mount -o config=x", (False, "-")),
        ("mount -df v /mnt", None),
        ("mount --fore v /mnt", None),
        ("mount -h", None),
        ("mount v /mnt -- -f", None),
        ("mount v /mnt -o", None),
        ("mount v /mnt -o remount", None),
        ("status /mnt", None),
        ("-h mount v /mnt", None),
        ("", None),
    ],
)
def test_a_mount_begins_before_its_command_line_is_read_where_there_is_no_doubt(
    line: str, begun: tuple[bool, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, str]] = []
    monkeypatch.setattr(
        "keyvaultfs.keeper.start.Start", lambda foreground, name: seen.append((foreground, name))
    )
    ahead.of_mount(line.split())
    assert seen == ([begun] if begun else [])


@pytest.mark.parametrize(
    ("line", "begins"),
    [
        ("v /mnt -o ro,nofail", True),
        ("v /mnt -s -n -v -o ro", True),
        ("v /mnt -f", False),
        ("v /mnt -N 12", False),
        ("v /mnt -o remount,ro", False),
        ("v", False),
    ],
)
def test_what_mount_8_asks_for_begins_ahead_unless_nothing_is_mounted_here(
    line: str, begins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    monkeypatch.setattr("keyvaultfs.keeper.start.Start", lambda foreground, **_: seen.append(foreground))
    ahead.of_helper(line.split())
    assert seen == [False] * begins


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield Channel(ours), Channel(theirs)


def test_descriptors_that_go_with_a_message_are_found_at_their_numbers(pair: tuple[Channel, Channel]) -> None:
    keeper, worker = pair
    reading, writing = os.pipe()
    numbers = (700, 701)
    assert keeper.hand("charge", {numbers[0]: reading, numbers[1]: writing}, charge="x")
    message = worker.accept(2)
    try:
        assert (message.kind, message.facts) == ("charge", {"charge": "x"})
        os.close(writing)
        os.write(numbers[1], b"through")
        assert os.read(numbers[0], 10) == b"through"
        assert not os.get_inheritable(numbers[0])
    finally:
        for fd in (*numbers, reading):
            os.close(fd)


def test_a_charge_without_descriptors_and_noise_are_told_apart(pair: tuple[Channel, Channel]) -> None:
    keeper, worker = pair
    keeper.sock.send(b"no message")
    with pytest.raises(Noise):
        worker.accept(2)
    assert keeper.hand("charge", {}, charge="x")
    assert worker.accept(2).facts == {"charge": "x"}
    keeper.sock.close()
    with pytest.raises(EOFError):
        worker.accept(2)
