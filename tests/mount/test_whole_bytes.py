"""Whole bytes of one version by every system call, on a path and through a bind mount of the one file."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.mount import ROOT, run, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.mount import Mount
    from tests.support.vault import VaultProcess

    Mounter = Callable[..., Mount]


def value(number: int) -> bytes:
    """Of another length than its neighbours, and its own proof."""
    return b"%d:" % number + b"x" * (number * 97 % 9000)


def whole(data: bytes) -> bool:
    number, colon, _ = data.partition(b":")
    return bool(colon) and number.isdigit() and data == value(int(number))


def described(data: bytes) -> str:
    """What is wrong with bytes that are not whole."""
    number, colon, _ = data.partition(b":")
    if not (colon and number.isdigit()):
        return f"{len(data)} bytes, which begin {data[:9]!r}"
    want = value(int(number))
    at = next((at for at, (is_, should) in enumerate(zip(data, want, strict=False)) if is_ != should), None)
    first = "none is wrong" if at is None else f"the first wrong one is {data[at : at + 1]!r} at {at}"
    return f"{len(data)} of the {len(want)} bytes of value {int(number)}: {first}, {data.count(0)} are zero"


def by_pread(fd: int) -> bytes:
    return os.pread(fd, 1 << 16, 0)


def by_readv(fd: int) -> bytes:
    buffers = [bytearray(4096), bytearray(1 << 16)]
    got = os.readv(fd, buffers)
    return bytes(b"".join(buffers)[:got])


def by_mmap(fd: int) -> bytes:
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as view:
        return view[:]


def by_sendfile(fd: int) -> bytes:
    out = os.memfd_create("out")
    try:
        while os.sendfile(out, fd, None, 1 << 16):
            pass
        return os.pread(out, 1 << 17, 0)
    finally:
        os.close(out)


def by_splice(fd: int) -> bytes:
    reading, writing = os.pipe()
    try:
        got = os.splice(fd, writing, 1 << 16)
        return os.read(reading, got) if got else b""
    finally:
        os.close(reading)
        os.close(writing)


def by_copy(fd: int) -> bytes:
    """As cp(1) does where it cannot clone: by the size that fstat(2) told."""
    size = os.fstat(fd).st_size
    data = os.pread(fd, size, 0)
    return data if os.pread(fd, 1, size) == b"" else b""


WAYS = [by_pread, by_readv, by_mmap, by_sendfile, by_splice, by_copy]


RAW_WAYS = [
    "copy_file_range", "O_DIRECT", "AIO", "AIO with O_DIRECT",
    "io_uring", "io_uring with O_DIRECT", "splice by io_uring",
]  # fmt: skip


@pytest.fixture(scope="module")
def raw_reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that reads by system calls that Python does not know."""
    program = tmp_path_factory.mktemp("raw") / "whole_bytes"
    run("gcc", "-Wall", "-Werror", "-O1", "-o", program, ROOT / "tests/support/whole_bytes.c")
    return program


def raw_ways() -> list[str]:
    """What this kernel offers: io_uring can be forbidden, to all by 2 and to those without a group by 1."""
    setting = Path("/proc/sys/kernel/io_uring_disabled")
    forbidden = setting.exists() and setting.read_text() == "2\n"
    return [way for way in RAW_WAYS if not (forbidden and "io_uring" in way)]


def rotate(vault: VaultProcess, kv: Mount, numbers: range) -> None:
    """To each of these values; some of the workers die meanwhile."""
    for number in numbers:
        vault.set("pw", value(number).decode())
        if number % 5 == 0:
            os.kill(pid := kv.worker(), signal.SIGKILL)
            wait_until(lambda pid=pid: kv.has_worker() and kv.worker() != pid, "a new worker")  # type: ignore[misc]
        kv.wait_for("pw", value(number).decode())


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("way", ["rename=yes", "rename=no"])
def test_asynchronous_and_direct_reads_get_one_version_whole(
    vault: VaultProcess, mount: Mounter, tmp_path: Path, raw_reader: Path, way: str
) -> None:
    vault.set("pw", value(1).decode())
    kv = mount("ttl=1", way)
    assert whole((kv / "pw").read_bytes())
    bound = tmp_path / "bound"
    bound.touch()
    run("mount", "--bind", kv / "pw", bound)
    readers = {
        (path.name, how): subprocess.Popen(
            [raw_reader, path, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for path in (bound, kv / "pw")
        for how in raw_ways()
    }  # fmt: skip
    try:
        rotate(vault, kv, range(2, 14))
    finally:
        said = {which: reader.communicate("end")[0].splitlines() for which, reader in readers.items()}
    try:
        assert {which: lines[:-1] for which, lines in said.items() if lines[1:]} == {}
        assert min(int(lines[-1].removesuffix(" reads")) for lines in said.values()) > 20
        wait_until(lambda: bound.read_bytes() == value(13), "the bind mount to follow")
    finally:
        subprocess.run(["umount", "--lazy", bound], check=False, capture_output=True)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("way", ["rename=yes", "rename=no"])
def test_every_system_call_gets_one_version_whole(
    vault: VaultProcess, mount: Mounter, tmp_path: Path, way: str
) -> None:
    vault.set("pw", value(1).decode())
    kv = mount("ttl=1", way)
    assert whole((kv / "pw").read_bytes())
    bound = tmp_path / "bound"
    bound.touch()
    run("mount", "--bind", kv / "pw", bound)
    stop = threading.Event()
    wrong: list[tuple[str, str, str]] = []
    reads = [0]

    def read(path: Path, how: Callable[[int], bytes]) -> None:
        while not stop.is_set():
            fd = os.open(path, os.O_RDONLY)
            try:
                data = how(fd)
            finally:
                os.close(fd)
            reads[0] += 1
            if not whole(data):
                wrong.append((path.name, how.__name__, described(data)))
            time.sleep(0.003)

    readers = [threading.Thread(target=read, args=(path, how)) for path in (bound, kv / "pw") for how in WAYS]
    try:
        for reader in readers:
            reader.start()
        rotate(vault, kv, range(2, 14))
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    try:
        assert wrong == []
        assert reads[0] > 200
        wait_until(lambda: bound.read_bytes() == value(13), "the bind mount to follow")
        # What is read directly may be there a moment before the kernel has fetched the attributes.
        wait_until(
            lambda: run("stat", "-c", "%h %s", bound) == f"1 {len(value(13))}\n", "its attributes to follow"
        )
    finally:
        subprocess.run(["umount", "--lazy", bound], check=False, capture_output=True)
