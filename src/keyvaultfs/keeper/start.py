"""How a keeper comes to run: in the foreground, or in the background with an answer to who started it.

It is a program of its own, started by exec with an environment, descriptors and arguments of ours (`isolation`). What
it is to mount goes through a memfd: a proxy's password in an option would otherwise stand in the command line, for
every user to read, as long as the mount lives.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from keyvaultfs import isolation
from keyvaultfs.errors import UsageError
from keyvaultfs.settings import file

if TYPE_CHECKING:
    from keyvaultfs.ipc import Launch

LAUNCH_FD, ANSWER_FD = 3, 4
_ABOVE = 16
_LONGEST = 1 << 16
"""Bytes of what is to be mounted: a worker is handed it in one message, with more beside it."""


def run(launch: Launch) -> int:
    """Mount and serve; in the background unless `launch` says otherwise: then it does not return.

    Returns:
        0 when the file system answers, 1 when it could not be mounted.

    Raises:
        UsageError: the options are too long to be handed on, or too long for a limit that we may not raise.
    """
    isolation.standard_streams()
    isolation.lift_limits()  # a memfd has its size limited too
    packed = launch.pack().encode()
    if len(packed) > _LONGEST:
        raise UsageError("the options are too long; put them into a file: -o config=FILE")
    handed = _clear_of_ours(os.memfd_create("keyvaultfs-launch", os.MFD_CLOEXEC))
    if os.write(handed, packed) != len(packed):
        raise UsageError("a limit on the size of files is in force (ulimit -f); raise it")
    os.lseek(handed, 0, os.SEEK_SET)
    if launch.foreground:
        _become(launch, handed, None)
    reading, writing = (_clear_of_ours(fd) for fd in os.pipe())
    if os.fork() == 0:
        try:
            _become(launch, handed, writing)
        finally:
            os._exit(1)
    os.close(handed)
    os.close(writing)
    with open(reading, encoding="utf-8") as answer:  # noqa: PTH123 - a descriptor
        text = answer.read()
    code, _, words = text.partition(" ")
    if words:
        _say(words)
    return int(code) if code.isdigit() else 1


def _clear_of_ours(fd: int) -> int:
    """A duplicate that is at none of the numbers that a keeper is given."""
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE)
    finally:
        os.close(fd)


def _become(launch: Launch, handed: int, answer: int | None) -> None:
    os.dup2(handed, LAUNCH_FD)
    if answer is not None:
        os.dup2(answer, ANSWER_FD)
    isolation.close_descriptors(LAUNCH_FD + 1 if answer is None else ANSWER_FD + 1)
    # Before the exec: a process keeps alive the keys of whoever opened its program and its libraries.
    isolation.new_keyring()
    command = isolation.command("keyvaultfs.keeper", launch.mountpoint)
    azure = file.settings(launch).auth == "azure-identity"
    os.execve(command[0], command, isolation.environment(azure=azure, developer=isolation.from_source()))  # noqa: S606


def _say(words: str) -> None:
    try:
        os.write(2, f"keyvaultfs: {words}\n".encode(errors="backslashreplace"))
    except OSError:
        return
