"""The machine: what a mount needs of it, and what makes one better."""

from __future__ import annotations

import contextlib
import grp
import os
import platform
import pwd
import re
import resource
import shutil
from typing import TYPE_CHECKING

from keyvaultfs import fence
from keyvaultfs.causes import Severity
from keyvaultfs.fence import Fence
from keyvaultfs.worker.privileges import DEFAULT_USER

if TYPE_CHECKING:
    from keyvaultfs.cli.check.report import Report

STEP = "machine"
_FUSE_CONF = "/etc/fuse.conf"
_FUSE_DEVICE = os.makedev(10, 229)
_HELPERS = ("/sbin/mount.keyvaultfs", "/usr/sbin/mount.keyvaultfs", "/usr/local/sbin/mount.keyvaultfs")
_AGENTS_GROUP = "himds"
_RESEND = (6, 9)
"""The first Linux that sends a dead worker's requests again (FUSE_NOTIFY_RESEND)."""


def check(report: Report, run_as: str | None, auth: str) -> None:
    """Look at this machine, as the user who asks.

    Args:
        report: what is found goes there.
        run_as: the option of that name.
        auth: the option of that name: Azure Arc's agent lets a group read its key files.
    """
    _device(report)
    if os.getuid() == 0:
        _user(report, run_as)
        report.ok(STEP, "locked memory", "unlimited for a mount by root")
    else:
        _for_users(report)
        _memory(report)
    _helper(report)
    _kernel(report)
    if auth == "arc":
        _agent(report, run_as)
    else:
        _fence(report)


def _device(report: Report) -> None:
    try:
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        report.bad(STEP, "/dev/fuse", "NoFuse")
    except OSError as exc:
        report.bad(STEP, "/dev/fuse", "FuseForbidden", os.strerror(exc.errno or 0))
    else:
        kind = os.fstat(fd).st_rdev
        os.close(fd)
        if kind == _FUSE_DEVICE:
            report.ok(STEP, "/dev/fuse", "can be opened")
        else:
            report.bad(STEP, "/dev/fuse", "NoFuse", "something else stands there")


def _user(report: Report, run_as: str | None) -> None:
    name = run_as or DEFAULT_USER
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        report.facts["user"] = name
        report.bad(
            STEP, "the worker's user", "NoUser", name, as_bad=Severity.WARN if run_as is None else None
        )
    else:
        report.ok(STEP, "the worker's user", f"{name}, uid {user.pw_uid}")


def _agent(report: Report, run_as: str | None) -> None:
    what = f"group {_AGENTS_GROUP}"
    try:
        group = grp.getgrnam(_AGENTS_GROUP)
    except KeyError:
        report.bad(STEP, what, "NoArcAgent")
        return
    user = _worker(run_as)
    report.facts["user"] = user.pw_name
    if user.pw_uid == 0 or group.gr_gid in os.getgrouplist(user.pw_name, user.pw_gid):
        report.ok(STEP, what, f"{user.pw_name} may read the agent's key files")
    else:
        report.bad(STEP, what, "NotInAgentsGroup", user.pw_name)


def _worker(run_as: str | None) -> pwd.struct_passwd:
    """Whom the worker becomes: as `privileges.drop` does it."""
    if os.getuid() == 0:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(run_as or DEFAULT_USER)
    return pwd.getpwuid(os.getuid())


def _for_users(report: Report) -> None:
    found = shutil.which("fusermount3", path="/usr/local/bin:/usr/bin:/bin")
    if found is None:
        report.bad(STEP, "fusermount3", "NoFusermount")
    else:
        report.ok(STEP, "fusermount3", found)
    try:
        with open(_FUSE_CONF, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - one read
            allowed = any(line.strip() == "user_allow_other" for line in file)
    except OSError:
        allowed = False
    if allowed:
        report.ok(STEP, "allow_other for users", f"{_FUSE_CONF} has user_allow_other")
    else:
        report.bad(STEP, "allow_other for users", "NoAllowOther")


def _memory(report: Report) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if resource.RLIM_INFINITY in {soft, hard}:
        report.ok(STEP, "locked memory", "unlimited")
    else:
        report.facts["user"] = str(os.getuid())
        report.bad(STEP, "locked memory", "MemoryLimited", f"{soft // 1024} KiB")


def _helper(report: Report) -> None:
    found = next((path for path in _HELPERS if os.access(path, os.X_OK)), None)
    if found is None:
        report.bad(STEP, "mount.keyvaultfs", "NoMountHelper")
    else:
        report.ok(STEP, "mount.keyvaultfs", found)


def _kernel(report: Report) -> None:
    release = platform.release()
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers is not None and (int(numbers[1]), int(numbers[2])) >= _RESEND:
        report.ok(STEP, "kernel", f"Linux {release} sends the requests of a dead worker again")
    else:
        report.bad(STEP, "kernel", "NoResend", f"Linux {release}")


def _fence(report: Report) -> None:
    state = fence.fence()
    if state.fence is Fence.IN_FORCE:
        report.ok(STEP, "token endpoint", "fenced off from other users")
    else:
        report.bad(STEP, "token endpoint", "FenceLost" if state.fence is Fence.LOST else "NoFence")
