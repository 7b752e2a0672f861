"""What a process of ours can no longer do; each in a process of its own, since nothing of it can be taken back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from keyvaultfs.worker import confinement
from tests.support.mount import environment

PRELUDE = """
import ctypes, os, socket, subprocess, threading
from keyvaultfs import isolation
from keyvaultfs.worker import confinement
libc = ctypes.CDLL(None, use_errno=True)
def refused(call):
    try:
        call()
    except OSError as exc:
        return exc.errno in (1, 13)
    return False
def denied(number, *arguments):
    return libc.syscall(number, *arguments) == -1 and ctypes.get_errno() == 1
"""
CONFINED = "libc.prctl(38, 1, 0, 0, 0)\nassert confinement.filter_calls(programs=False)\n"


def holds(code: str) -> None:
    words = [sys.executable, "-c", PRELUDE + code]
    done = subprocess.run(words, check=False, capture_output=True, text=True, env=environment(), timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "assert refused(lambda: os.execv('/bin/true', ['true']))",
        "assert refused(lambda: subprocess.run(['/bin/true']))",
        "assert libc.unshare(0x10000000) == -1, 'a user namespace'",
        "assert libc.mount(None, b'/', None, 1 << 18, None) == -1",
        "assert libc.ptrace(16, os.getppid(), 0, 0) == -1",
        "assert denied(425, 1, None), 'io_uring'",
        "assert denied(438, 0, 0, 0), 'pidfd_getfd'",
    ],
)
def test_a_filtered_process_is_refused(code: str) -> None:
    holds(CONFINED + code)


def test_a_filtered_process_does_what_a_worker_does() -> None:
    holds(
        CONFINED + "done = []\n"
        "thread = threading.Thread(target=lambda: done.append(1))\n"
        "thread.start(); thread.join(); assert done\n"
        "fd = os.memfd_create('x'); os.ftruncate(fd, 100); os.write(fd, b'x')\n"
        "socket.getaddrinfo('localhost', 1)\n"
        "socket.socketpair()[0].close()\n"
        "assert os.listdir('/proc/self/task')\n"
    )


def test_a_process_that_may_run_programs_may_still_not_have_the_rest() -> None:
    holds(
        "libc.prctl(38, 1, 0, 0, 0)\nassert confinement.filter_calls(programs=True)\n"
        "subprocess.run(['/bin/true'], check=True)\n"
        "assert libc.unshare(0x10000000) == -1\n"
    )


def test_no_file_is_written_where_the_kernel_has_landlock() -> None:
    holds(
        "libc.prctl(38, 1, 0, 0, 0)\n"
        "memfd = os.memfd_create('x')\n"
        "version = confinement.restrict_files()\n"
        "if version:\n"
        "    assert refused(lambda: open('/tmp/keyvaultfs-test-file', 'w'))\n"
        "    assert refused(lambda: os.mkdir('/tmp/keyvaultfs-test-folder'))\n"
        "    assert refused(lambda: open('/dev/null', 'w'))\n"
        "os.ftruncate(memfd, 10)\n"
        "assert open('/proc/self/status').read()\n"
    )


def test_an_architecture_that_is_not_listed_goes_without() -> None:
    assert confinement._code("sparc64", programs=False) is None
    for machine in ("x86_64", "aarch64"):
        code = confinement._code(machine, programs=False)
        assert code is not None
        assert len(code) % 8 == 0
    assert platform.machine() in confinement._ARCHES, "of those that the suite runs on"


def test_the_session_keyring_is_left() -> None:
    holds(
        "import platform\n"
        "base = 248 if platform.machine() == 'x86_64' else 217\n"
        "add = lambda: libc.syscall(base, b'user', b'keyvaultfs-test', b'x', 1, -3)\n"
        "join = lambda: libc.syscall(base + 2, 1, None)\n"
        "search = lambda: libc.syscall(base + 2, 10, -3, b'user', b'keyvaultfs-test', 0)\n"
        "if join() > 0:\n"
        "    assert add() > 0 and search() > 0\n"
        "    isolation.new_keyring()\n"
        "    assert search() == -1\n"
    )
