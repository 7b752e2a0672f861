"""What a process of ours can no longer do; each in a process of its own, since nothing of it can be taken back."""

from __future__ import annotations

import platform
import struct
import subprocess
import sys

import pytest

from keyvaultfs.worker import confinement
from tests.support.mount import environment

PRELUDE = """
import ctypes, fcntl, os, platform, resource, signal, socket, struct, subprocess, threading
from keyvaultfs import isolation
from keyvaultfs.worker import confinement
libc = ctypes.CDLL(None, use_errno=True)
TGKILL, CLONE = (234, 56) if platform.machine() == "x86_64" else (131, 220)
PAIR = []
def signalled():
    PAIR[:] = socket.socketpair()
    return PAIR[0]
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
        "assert refused(lambda: os.kill(os.getppid(), 0))",
        "assert refused(lambda: os.kill(-1, 0))",
        "assert denied(424, 0, 0, None, 0), 'pidfd_send_signal'",
        "assert denied(TGKILL, os.getppid(), os.getppid(), 0), 'tgkill'",
        "assert refused(lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CPU))",
        "assert refused(lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 1))",
        "assert refused(lambda: os.sched_setaffinity(os.getppid(), {0}))",
        "assert refused(os.fork)",
        "assert platform.machine() != 'x86_64' or denied(57) and denied(58), 'fork, vfork'",
        "flags = CLONE_PARENT = 0x8000\nassert denied(CLONE, flags | 17, None, None, None, None), 'clone'",
        "assert refused(lambda: fcntl.fcntl(signalled(), fcntl.F_SETOWN, os.getppid()))",
        "assert refused(lambda: fcntl.fcntl(signalled(), 15, struct.pack('ii', 1, os.getppid()))), 'F_SETOWN_EX'",
        "assert refused(lambda: fcntl.fcntl(signalled(), fcntl.F_SETSIG, 9))",
        "assert refused(lambda: fcntl.ioctl(signalled(), 0x8901, struct.pack('i', os.getppid()))), 'FIOSETOWN'",
        "assert refused(lambda: fcntl.ioctl(signalled(), 0x8902, struct.pack('i', os.getppid()))), 'SIOCSPGRP'",
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
        "assert resource.getrlimit(resource.RLIMIT_NOFILE) == resource.prlimit(os.getpid(), resource.RLIMIT_NOFILE)\n"
        "pair = socket.socketpair(); pair[0].settimeout(1); os.set_blocking(pair[1].fileno(), False)\n"
        "assert fcntl.fcntl(pair[0], fcntl.F_GETFL) and not os.isatty(0)\n"
        "signal.signal(signal.SIGABRT, lambda *_: done.append(2))\n"
        "signal.raise_signal(signal.SIGABRT)\n"
        "assert done == [1, 2]\n"
    )


def test_a_process_that_may_run_programs_may_still_not_have_the_rest() -> None:
    holds(
        "libc.prctl(38, 1, 0, 0, 0)\nassert confinement.filter_calls(programs=True)\n"
        "subprocess.run(['/bin/true'], check=True)\n"
        "child = subprocess.Popen(['/bin/sleep', '60']); child.kill(); child.wait()\n"
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


def constant(code: bytes, number: int, arch: int) -> int | None:
    """What the kernel finds that a filter always returns for a call; None where it must run the filter each time.

    As seccomp_is_const_allow() of kernel/seccomp.c, since Linux 5.11: it follows a few instructions, and gives up at
    one that loads more than the number of the call and the architecture.
    """
    at, accumulator = 0, 0
    while True:
        kind, yes, no, value = struct.unpack_from("<HBBI", code, at * 8)
        at += 1
        if kind == 0x20 and value in {0, 4}:  # load
            accumulator = number if value == 0 else arch
        elif kind == 0x06:  # return
            return int(value)
        elif kind in {0x15, 0x35}:  # equal, at least
            at += yes if (accumulator == value if kind == 0x15 else accumulator >= value) else no
        else:
            return None


@pytest.mark.parametrize(
    ("machine", "calls"),
    [
        (
            "x86_64",
            {
                "read": 0,
                "poll": 7,
                "writev": 20,
                "pread64": 17,
                "futex": 202,
                "epoll_wait": 232,
                "epoll_ctl": 233,
            },
        ),
        (
            "aarch64",
            {
                "read": 63,
                "ppoll": 73,
                "writev": 66,
                "pread64": 67,
                "futex": 98,
                "epoll_pwait": 22,
                "epoll_ctl": 21,
            },
        ),
    ],
)
def test_calls_of_a_warm_read_are_allowed_without_running_the_filter(
    machine: str, calls: dict[str, int]
) -> None:
    for programs in (False, True):
        code = confinement._code(machine, programs=programs)
        assert code is not None
        found = {name: constant(code, number, confinement._ARCHES[machine]) for name, number in calls.items()}
        assert set(found.values()) == {confinement._ALLOW}
        clone = confinement._CLONES[machine][0]
        assert constant(code, clone, confinement._ARCHES[machine]) is None, "its flags are looked at"
        io_uring = confinement._SAME[0]
        assert constant(code, io_uring, confinement._ARCHES[machine]) != confinement._ALLOW


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


@pytest.mark.parametrize(("auth", "works"), [("imds", False), ("azure-identity", True)])
def test_check_may_run_programs_where_its_mount_may(auth: str, works: bool) -> None:
    become = (
        "from keyvaultfs.cli.check import command\nfrom keyvaultfs.settings.options import Settings\n"
        f"command._become(Settings(auth={auth!r}, run_as='root'))\n"
    )
    ran = "subprocess.run(['/bin/true']).returncode == 0"
    holds(become + (f"assert {ran}" if works else f"assert refused(lambda: {ran})"))


def test_no_signal_reaches_who_started_a_filtered_process_by_way_of_a_file() -> None:
    """Not even from a program that has closed itself in so: the signal is sent by the kernel, when there is data."""
    holds(
        "child = os.fork()\n"
        "if child == 0:\n"
        + "".join(f"    {line}\n" for line in CONFINED.splitlines())
        + "    ours, theirs = socket.socketpair()\n"
        "    parent, names = os.getppid(), ('F_SETSIG', 'F_SETOWN', 'F_SETFL')\n"
        "    for name, value in zip(names, (signal.SIGKILL, parent, os.O_ASYNC)):\n"
        "        refused(lambda: fcntl.fcntl(ours, getattr(fcntl, name), value))\n"
        "    theirs.send(b'x')\n"
        "    os._exit(0)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
    )
