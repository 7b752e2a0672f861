"""What the worker gives up before it touches the network. Standard library only."""

from __future__ import annotations

import contextlib
import ctypes

# Python would look for these codecs when files can no longer be read: name resolution wants the first.
import encodings.idna
import encodings.utf_8_sig
import encodings.utf_16_be  # noqa: F401
import os
import pwd
import resource
import signal
import threading
from typing import TYPE_CHECKING, NamedTuple

from keyvaultfs import isolation
from keyvaultfs.worker import confinement

if TYPE_CHECKING:
    from keyvaultfs.settings.options import Settings

DEFAULT_USER = "keyvaultfs"

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_GET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = (
    1,
    4,
    3,
    24,
    38,
)
_PR_GET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 39, 47, 4
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_THREAD_STACK = 512 * 1024
_LAST_CAPABILITY = 63

_libc = ctypes.CDLL(None, use_errno=True)


class InForce(NamedTuple):
    """What holds for this process; shown in ``status``.

    Attributes:
        mounted_by: uid and gid of who mounted. The files are theirs: the user that the worker became owns nothing, for
            other mounts' workers may be the same user.
        system_calls_filtered: whether those that a worker has no use for are forbidden (seccomp).
        landlock: the version of Landlock by which it may write no file, 0 for none.
    """

    user: str
    uid: int
    mounted_by: tuple[int, int]
    no_new_privileges: bool
    dumpable: bool
    core_limit: int
    memory_locked: bool
    system_calls_filtered: bool
    landlock: int
    notes: tuple[str, ...]


def runs_programs(settings: Settings) -> bool:
    """Whether its credential asks other programs, as azure-identity asks Azure's tools."""
    return settings.auth == "azure-identity"


def drop(run_as: str | None, *, programs: bool = False) -> InForce:
    """Become `run_as` (default `DEFAULT_USER`, if it exists) when root, and harden the process.

    Args:
        programs: whether it may run programs and write files; see `runs_programs`.

    Raises:
        KeyError: `run_as` was named and does not exist.
        OSError: the kernel refused a change of user.
    """
    notes: list[str] = []
    mounted_by = os.getuid(), os.getgid()
    if os.getuid() == 0:
        # A mount unit of systemd is given 8 MiB, and fstab cannot say otherwise.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        _become(run_as, notes)
    isolation.new_keyring()  # once more: of the user that it has become
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A stopped worker goes on when its keeper dies, sees the end of their channel, and ends.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGCONT, 0, 0, 0)
    threading.stack_size(_THREAD_STACK)
    locked = _lock_memory(notes)
    return InForce(
        user=_user_name(os.getuid()),
        uid=os.getuid(),
        mounted_by=mounted_by,
        no_new_privileges=_libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1,
        dumpable=_libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) != 0,
        core_limit=resource.getrlimit(resource.RLIMIT_CORE)[0],
        memory_locked=locked,
        system_calls_filtered=confinement.filter_calls(programs=programs),
        landlock=0 if programs else confinement.restrict_files(),
        notes=tuple(notes),
    )


def _wanted(run_as: str | None) -> pwd.struct_passwd | None:
    """Whom a worker of root's becomes; None: it stays root.

    Raises:
        KeyError: `run_as` was named and does not exist.
    """
    try:
        user = pwd.getpwnam(run_as or DEFAULT_USER)
    except KeyError:
        if run_as is not None:
            raise
        return None
    return user if user.pw_uid else None


def becomes_another(run_as: str | None) -> bool:
    """Whether `drop` changes the user, and so what can be read afterwards.

    Raises:
        KeyError: `run_as` was named and does not exist.
    """
    return os.getuid() == 0 and _wanted(run_as) is not None


def _become(run_as: str | None, notes: list[str]) -> None:
    user = _wanted(run_as)
    if user is None:
        if run_as is None:
            notes.append(
                f"the worker stays root: there is no user {DEFAULT_USER!r}; create it or name one with run_as="
            )
        return
    with contextlib.suppress(OSError):  # as in a container without CAP_SETPCAP
        for capability in range(_LAST_CAPABILITY + 1):
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    os.initgroups(user.pw_name, user.pw_gid)
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)  # clears the capability sets, as no-one kept them


def _lock_memory(notes: list[str]) -> bool:
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if hard == resource.RLIM_INFINITY and soft != hard:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
        soft = hard
    if soft != resource.RLIM_INFINITY and os.geteuid() != 0:
        notes.append("memory is not locked: RLIMIT_MEMLOCK is limited")
        return False
    # Without ONFAULT each thread's whole stack becomes resident (tried: 368 MiB for 40 threads).
    if _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        notes.append(f"memory is not locked: {os.strerror(ctypes.get_errno())}")
        return False
    return True


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
