"""What the worker can no longer ask of the kernel: seccomp(2) and Landlock, by ctypes; a few hundred microseconds.

Both are for the day on which somebody takes the worker over. It then can write no file, run no program, leave no child
behind, look into no other process and signal none, and reaches none of the system calls by which kernels are mostly
broken: namespaces, mounts, BPF, io_uring, userfaultfd, performance counters, keyrings. A kernel that lacks one of them,
or an architecture whose numbers are not listed, goes without; ``status`` says what is in force.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
# linux/seccomp.h: struct seccomp_data is nr, arch, instruction pointer, six arguments of 64 bits.
_NR, _ARCH, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24
# linux/filter.h: load a word, jump if equal, if at least, if any bit is set; return.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_X32 = 0x40000000
"""System calls of x86-64 with this bit are those of another table of numbers."""

_CLONE_NEW = 0x7E020000 | 0x00000080
"""linux/sched.h: CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET, and TIME."""

_ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_PROGRAMS = {"x86_64": (59, 322), "aarch64": (221, 281)}
"""execve, execveat."""

_CLONE_THREAD = 0x00010000
"""Where no programs are run nothing else is made: a child would live on, with the FUSE device, when its parent is
killed, and the kernel would give it requests that a successor should have."""

_CLONES = {"x86_64": (56, 435), "aarch64": (220, 435)}
"""clone, and clone3, whose flags a filter cannot see: with ENOSYS for it the C library uses the other one."""

_FORKS: dict[str, tuple[int, ...]] = {"x86_64": (57, 58), "aarch64": ()}
"""fork, vfork."""

_OWNERS = {
    "x86_64": ((72, (8, 10, 15)), (16, (0x8901, 0x8902))),
    "aarch64": ((25, (8, 10, 15)), (29, (0x8901, 0x8902))),
}
"""fcntl with F_SETOWN, F_SETSIG, F_SETOWN_EX; ioctl with FIOSETOWN, SIOCSPGRP. By these the kernel sends any signal to
any process of the same user, when there is something to read."""

_OTHERS = {
    "x86_64": (62, 129, 200, 297, 424, 141, 142, 144, 203, 314, 251, 256, 279),
    "aarch64": (129, 138, 130, 240, 424, 140, 118, 119, 122, 274, 30, 238, 239),
}
"""Reach other processes of the same user, such as other mounts' workers: kill, rt_sigqueueinfo, tkill,
rt_tgsigqueueinfo, pidfd_send_signal; setpriority, sched_setparam, -scheduler, -affinity, -attr, ioprio_set,
migrate_pages, move_pages. Not forbidden where programs are run, which have to be ended."""

_ITSELF = {"x86_64": (234, 302), "aarch64": (131, 261)}
"""tgkill, by which abort(3) ends its own process, and prlimit64: allowed if the first argument is that, or 0."""

_SAME = (425, 426, 427, 428, 429, 430, 431, 432, 433, 438, 440, 442, 447, 467)
"""io_uring_*, open_tree, move_mount, fs*, pidfd_getfd, process_madvise, mount_setattr, memfd_secret, open_tree_attr."""

_FORBIDDEN = {
    # ptrace, process_vm_*, mount, umount2, pivot_root, chroot, unshare, setns, *key*, bpf, userfaultfd,
    # perf_event_open, kexec_*, *_module, reboot, swap*, kcmp, open_by_handle_at, quotactl, acct, *time*, set*name,
    # mknod*, fanotify_init, personality, lookup_dcookie, syslog; and of x86-64 alone iopl, ioperm, modify_ldt.
    "x86_64": (
        *(
            101,
            310,
            311,
            165,
            166,
            155,
            161,
            272,
            308,
            248,
            249,
            250,
            321,
            323,
            298,
            246,
            320,
            175,
            313,
            176,
            169,
            167,
        ),
        *(168, 312, 304, 179, 163, 164, 227, 305, 159, 170, 171, 133, 259, 300, 135, 212, 103, 172, 173, 154),
    ),
    "aarch64": (
        *(
            117,
            270,
            271,
            40,
            39,
            41,
            51,
            97,
            268,
            217,
            218,
            219,
            280,
            282,
            241,
            104,
            294,
            105,
            273,
            106,
            142,
            224,
        ),
        *(225, 272, 265, 60, 89, 170, 112, 266, 171, 161, 162, 33, 262, 92, 18, 116),
    ),
}

# The same on every architecture. linux/landlock.h; which of its rights a kernel knows goes by its version.
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_VERSION = 1
_READS = 1 << 2 | 1 << 3
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_SCOPES = 3
"""Abstract UNIX sockets and signals stay within the worker, from version 6 on: other mounts' workers have its user."""

_libc = ctypes.CDLL(None, use_errno=True)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_char_p))


def filter_calls(*, programs: bool) -> bool:
    """Forbid system calls to this thread and those that it starts; needs no-new-privileges.

    Args:
        programs: whether other programs may be run.

    Returns:
        Whether it is in force.
    """
    code = _code(platform.machine(), programs=programs)
    if code is None:
        return False
    wanted = _Filter(len(code) // 8, code)
    return bool(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(wanted), 0, 0) == 0)


def _code(machine: str, *, programs: bool) -> bytes | None:
    """The filter, None for an architecture that is not listed.

    It looks at nothing but the number of a call and the architecture, except for a few rare calls. So the kernel
    (since 5.11) knows which calls are always allowed and runs it for none of them, whatever its length.
    """
    arch = _ARCHES.get(machine)
    if arch is None:
        return None
    clone, clone3 = _CLONES[machine]
    denied = [*_FORBIDDEN[machine], *_SAME]
    if not programs:
        denied += [*_PROGRAMS[machine], *_FORKS[machine], *_OTHERS[machine]]
    deny, missing = _op(_RETURN, _ERRNO | errno.EPERM), _op(_RETURN, _ERRNO | errno.ENOSYS)
    code = [
        _op(_LOAD, _ARCH),
        _op(_EQUAL, arch, 1, 0),
        deny,
        _op(_LOAD, _NR),
        _op(_AT_LEAST, _X32, 0, 1),
        deny,
    ]
    for number in denied:
        code += [_op(_EQUAL, number, 0, 1), deny]
    for number in () if programs else _ITSELF[machine]:
        code += [_op(_EQUAL, number, 0, 5), _op(_LOAD, _FIRST_ARGUMENT), _op(_EQUAL, os.getpid(), 2, 0)]
        code += [_op(_EQUAL, 0, 1, 0), deny, _op(_RETURN, _ALLOW)]
    for number, commands in () if programs else _OWNERS[machine]:
        code += [_op(_EQUAL, number, 0, 2 * len(commands) + 2), _op(_LOAD, _SECOND_ARGUMENT)]
        for command in commands:
            code += [_op(_EQUAL, command, 0, 1), deny]
        code += [_op(_RETURN, _ALLOW)]
    code += [_op(_EQUAL, clone3, 0, 1), missing]
    wanted = [] if programs else [_op(_ANY_BIT, _CLONE_THREAD, 1, 0), deny]
    code += [_op(_EQUAL, clone, 0, 3 + len(wanted)), _op(_LOAD, _FIRST_ARGUMENT)]
    code += [_op(_ANY_BIT, _CLONE_NEW, 0, 1), deny, *wanted]
    return b"".join([*code, _op(_RETURN, _ALLOW)])


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("<HBBI", code, yes, no, value)


def restrict_files() -> int:
    """Forbid to write, make, remove or run any file, but for what is open; needs no-new-privileges.

    Returns:
        The version of Landlock that is in force, 0 for none.
    """
    version = _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    if version < 1:
        return 0
    rights = ((1 << _RIGHTS.get(version, 16)) - 1) & ~_READS
    attributes = struct.pack("<QQQ", rights, 0, _SCOPES if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return 0
    try:
        return version if _libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0 else 0
    finally:
        os.close(ruleset)
