"""How a keeper comes to run: in the foreground, or in the background with an answer to who started it.

It is a program of its own, started by exec with an environment, descriptors and arguments of ours (`isolation`). What
it is to mount goes through a memfd: a proxy's password in an option would otherwise stand in the command line, for
every user to read, as long as the mount lives.
"""

from __future__ import annotations

import contextlib
import os

from keyvaultfs import isolation
from keyvaultfs.keeper import spawn

# Not typing's: to import that is a fifth of all that comes before the first worker starts.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from keyvaultfs.ipc import Launch
    from keyvaultfs.keeper.spawn import Begun

LAUNCH_FD, ANSWER_FD, CHANNEL_FD, LOG_FD = 3, 4, 5, 6
_FIRST_FREE_FD = 7
_LONGEST = 1 << 16
"""Bytes of what is to be mounted: a worker is handed it in one message, with more beside it."""


class Start:
    """A mount that has begun, before it is known what is to be mounted: `run` it, or `abandon` it.

    The first worker imports what it needs meanwhile. In the background it is the child of a process that waits to
    become the keeper; in the foreground this one becomes it.

    Args:
        foreground: whether this process stays.
        name: what the first worker is called in the list of processes; "" to start none ahead.
    """

    def __init__(self, *, foreground: bool, name: str = "") -> None:
        isolation.standard_streams()
        isolation.lift_limits()  # a memfd has its size limited too
        self.foreground = foreground
        self._begun: Begun | None = None
        self._over = False
        if foreground:
            self._begun = _first_worker(name)
            return
        orders, self._orders = (spawn.high(fd) for fd in os.pipe())
        self._answer, answer = (spawn.high(fd) for fd in os.pipe())
        if os.fork() == 0:
            try:
                os.close(self._orders)
                os.close(self._answer)
                _await_orders(orders, answer, _first_worker(name))
            finally:
                os._exit(1)
        os.close(orders)
        os.close(answer)

    def run(self, launch: Launch) -> int:
        """Mount and serve; in the background unless `launch` says otherwise: then it does not return.

        Returns:
            0 when the file system answers, 1 when it could not be mounted.

        Raises:
            UsageError: the options are too long to be handed on, or too long for a limit that we may not raise.
        """
        from keyvaultfs.errors import UsageError
        from keyvaultfs.settings import file

        packed = launch.pack().encode()
        if len(packed) > _LONGEST:
            raise UsageError("the options are too long; put them into a file: -o config=FILE")
        azure = file.settings(launch).auth == "azure-identity"
        self._over = True
        if self.foreground:
            _become(launch.mountpoint, packed, None, self._begun, azure=azure)
        with open(self._orders, "wb") as orders:  # noqa: PTH123 - a descriptor
            orders.write(b"\0".join((b"azure" if azure else b"", os.fsencode(launch.mountpoint), packed)))
        with open(self._answer, encoding="utf-8") as answer:  # noqa: PTH123
            text = answer.read()
        code, _, words = text.partition(" ")
        if words:
            _say(words)
        return int(code) if code.isdigit() else 1

    def abandon(self) -> None:
        """Nothing is to be mounted; after `run` there is nothing to do."""
        if self._over:
            return
        self._over = True
        if self._begun is not None:
            self._begun.give_up()
        elif not self.foreground:
            os.close(self._orders)
            os.close(self._answer)


def run(launch: Launch, begun: Start | None = None) -> int:
    """Mount and serve, as `Start.run` does it.

    Args:
        launch: what.
        begun: what has begun, if it has.

    Raises:
        UsageError: as `Start.run`; or a limit of who started us leaves no room.
    """
    isolation.lift_limits()
    if words := isolation.too_narrow():
        from keyvaultfs.errors import UsageError

        raise UsageError(words)
    if begun is not None and begun.foreground != launch.foreground:
        begun.abandon()
        begun = None
    return (begun or Start(foreground=launch.foreground)).run(launch)


def _first_worker(name: str) -> Begun | None:
    # Before any exec: a process keeps alive the keys of whoever opened its program and its libraries.
    isolation.new_keyring()
    return spawn.ahead(name) if name else None


def _await_orders(orders: int, answer: int, begun: Begun | None) -> None:
    """Become the keeper of what is to be mounted, once that is said; end if it is not."""
    with open(orders, "rb") as pipe:
        azure, found, rest = pipe.read().partition(b"\0")
    if found:
        mountpoint, _, packed = rest.partition(b"\0")
        try:
            _become(os.fsdecode(mountpoint), packed, answer, begun, azure=bool(azure))
        except Exception as exc:  # noqa: BLE001 - who waits is told, whatever it is
            os.write(answer, f"1 {exc}".encode(errors="backslashreplace"))
    elif begun is not None:
        begun.give_up()


def _become(mountpoint: str, packed: bytes, answer: int | None, begun: Begun | None, *, azure: bool) -> None:
    if begun is not None and azure:  # it has not the variables that this identity is configured by
        begun.give_up()
        begun = None
    handed = spawn.high(os.memfd_create("keyvaultfs-launch", os.MFD_CLOEXEC))
    text = f"{begun.pid if begun else 0}\n".encode() + packed
    os.write(handed, text)
    os.lseek(handed, 0, os.SEEK_SET)
    wanted = {LAUNCH_FD: handed, ANSWER_FD: answer}
    wanted |= {CHANNEL_FD: begun.channel if begun else None, LOG_FD: begun.log if begun else None}
    for number, fd in wanted.items():
        if fd is not None:
            os.dup2(fd, number)
        else:
            with contextlib.suppress(OSError):
                os.close(number)
    isolation.close_descriptors(_FIRST_FREE_FD)
    command = isolation.command("keyvaultfs.keeper", mountpoint)
    os.execve(command[0], command, isolation.environment(azure=azure, developer=isolation.from_source()))  # noqa: S606


def _say(words: str) -> None:
    try:
        os.write(2, f"keyvaultfs: {words}\n".encode(errors="backslashreplace"))
    except OSError:
        return
