"""A child that renames and unlinks names of the mount, so that whoever watches it hears of a change (DESIGN §2).

A thread of the serving process that touched its own mount would survive SIGKILL in state D, so another process does
it: without the FUSE device, and never waited for. It goes through a private writable clone of the mount, or by the
mount point where a user has mounted and there is none. One child serves as long as there is something to announce.

A worker asks for each announcement by a token, which is also the made-up name that is renamed. One that was carried out
is not carried out again, so a worker that takes over may ask for what its predecessor asked for. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import signal
import socket
from collections import OrderedDict
from typing import TYPE_CHECKING

from keyvaultfs.keeper import child, newmount
from keyvaultfs.keeper.allowance import Allowance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RENAME, UNLINK, LOOK, REFRESH = "rename", "unlink", "look", "refresh"
_A_SECOND, _BURST = 250.0, 500.0
_AT_ONCE = 64
_REMEMBERED = 1024
_IDLE_SECONDS = 30.0
_PR_SET_PDEATHSIG = 1
_TOKEN = re.compile("[0-9a-f]{16}")
_LONGEST_NAME, _LONGEST_PATH = 255, 4096  # NAME_MAX, and PATH_MAX with a final NUL
_LONGEST_REQUEST = 8192

_libc = ctypes.CDLL(None, use_errno=True)


class Announcer:
    """The keeper's side.

    Args:
        clone: a descriptor through which the mount can be written to, -1 to go by the mount point.
        mountpoint: where it is.
        patience: seconds that the child may take before it is replaced.
        crowded: whether so many that were replaced still hang that there may be no other.
    """

    def __init__(
        self, clone: int, mountpoint: str, patience: float, crowded: Callable[[], bool] = lambda: False
    ) -> None:
        self._clone = clone
        self._mountpoint = mountpoint
        self._patience = patience
        self._crowded = crowded
        self._sock: socket.socket | None = None
        self._pid = 0
        self._asked: OrderedDict[str, float] = OrderedDict()
        self._done: OrderedDict[str, None] = OrderedDict()
        self._allowance = Allowance(_A_SECOND, _BURST)
        self._used = 0.0
        self._ended = False

    def fileno(self) -> int | None:
        """What becomes readable when the child has done something; None while there is no child."""
        return None if self._sock is None else self._sock.fileno()

    def ask(self, token: str, what: str, name: str, inode: int, now: float) -> int | None:
        """Have something done.

        Args:
            token: tells this from all else that is asked for: 16 hexadecimal digits.
            what: RENAME, UNLINK, LOOK or REFRESH.
            name: of the root; "" for REFRESH.
            inode: for REFRESH.
            now: seconds of a clock.

        Returns:
            None when the child is on it; else an errno, 0 when it was done before.

        Raises:
            ValueError: what is asked for is none of that.
        """
        check(token, what, name, inode)
        if token in self._asked:
            return None
        if token in self._done:
            return 0
        if self._ended:
            return errno.ESHUTDOWN
        full = len(self._asked) >= _AT_ONCE or (self._sock is None and self._crowded())
        if full or not self._allowance.take(now):
            return errno.EAGAIN
        try:
            if self._sock is None:
                self._start()
            assert self._sock is not None
            self._sock.send(f"{token} {what} {inode} {name}".encode())
        except OSError as exc:
            return exc.errno or errno.EIO
        self._asked[token] = self._used = now
        return None

    def answers(self, bury: Callable[[int], None]) -> Iterator[tuple[str, int]]:
        """What the child has done since the last call: tokens and errno. ECHILD: it died, and nobody knows.

        Args:
            bury: is given a child that has ended, to reap it.
        """
        while self._sock is not None:
            try:
                data = self._sock.recv(64)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                yield from self._lost(bury)
                return
            token, _, code = data.decode().partition(" ")
            if self._asked.pop(token, None) is None:
                continue
            if code == "0":
                self._done[token] = None
                if len(self._done) > _REMEMBERED:
                    self._done.popitem(last=False)
            yield token, int(code)

    def mind(self, now: float, bury: Callable[[int], None]) -> Iterator[tuple[str, int]]:
        """Let a child go that has nothing to do, and replace one that hangs; yields as `answers`."""
        if self._sock is None:
            return
        oldest = next(iter(self._asked.values()), None)
        if oldest is None and now - self._used > _IDLE_SECONDS:
            self._close(bury)
        elif oldest is not None and now - oldest > self._patience:
            yield from self._lost(bury)

    def end(self, bury: Callable[[int], None]) -> None:
        """The mount ends: what keeps the superblock alive is let go. Nothing is announced any more."""
        self._ended = True
        if self._clone >= 0:
            os.close(self._clone)
            self._clone = -1
        if self._sock is not None:
            self._close(bury)

    def _lost(self, bury: Callable[[int], None]) -> Iterator[tuple[str, int]]:
        self._close(bury)
        tokens, self._asked = tuple(self._asked), OrderedDict()
        for token in tokens:
            yield token, errno.ECHILD

    def _close(self, bury: Callable[[int], None]) -> None:
        assert self._sock is not None
        self._sock.close()
        self._sock = None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        bury(self._pid)

    def _start(self) -> None:
        kept = {self._clone} - {-1}
        # Ctrl-C in a terminal is for the keeper.
        self._pid, self._sock = child.start(self._serve, kept, ignore=(signal.SIGINT,))

    def _serve(self, sock: socket.socket) -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _serve(sock, self._clone, self._mountpoint)


def poke(mountpoint: str) -> int:
    """Ask the mount for its statistics, once, from a child that is never waited for.

    Returns:
        The child's process id, to be reaped when it ends.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        child.close_all_but(())
        os.statvfs(mountpoint)
    except OSError:
        pass
    finally:
        os._exit(0)


def check(token: str, what: str, name: str, inode: int) -> None:
    """See whether it may be asked for: a path of a file of ours below the mount, since root goes there.

    Raises:
        ValueError: it may not.
    """
    named = what in {RENAME, UNLINK, LOOK} and _is_path(name)
    refreshed = what == REFRESH and not name and inode > 1
    # True is an int as well, and the child cannot read it.
    numbered = type(inode) is int and 0 <= inode < 1 << 63
    if _TOKEN.fullmatch(token) is None or not numbered or not (named or refreshed):
        raise ValueError


def _is_path(name: str) -> bool:
    """Of parts that are names, and none of them the control directory's: what the configuration may call a file."""
    parts = name.split("/")
    sizes = [len(part.encode()) for part in parts]  # UnicodeEncodeError is a ValueError
    return (
        "\0" not in name
        and not {"", ".", ".."} & {*parts}
        and parts[0] != ".keyvaultfs"
        and max(sizes) <= _LONGEST_NAME
        and sum(sizes) + len(parts) <= _LONGEST_PATH
    )


def _serve(sock: socket.socket, clone: int, mountpoint: str) -> None:
    while data := sock.recv(_LONGEST_REQUEST):
        token, what, inode, name = data.decode().split(" ", 3)
        code = 0
        # By the mount point a descriptor is held for this moment alone: with one, an unmount finds the mount busy.
        root = clone
        try:
            if clone < 0:
                root = os.open(mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            _do(root, token, what, int(inode), name)
        except OSError as exc:
            code = exc.errno or errno.EIO
        if root != clone and root >= 0:
            os.close(root)
        sock.send(f"{token} {code}".encode())


def _do(root: int, token: str, what: str, inode: int, path: str) -> None:
    made_up = f".{token}"
    *folders, name = path.split("/")
    folder = _folder(root, folders)
    try:
        if what == RENAME:
            os.rename(made_up, name, src_dir_fd=folder, dst_dir_fd=folder)
            return
        os.stat(made_up, dir_fd=folder, follow_symlinks=False)  # by this the worker knows who we are
        if what == REFRESH:
            _refresh(root, inode)
        elif what == UNLINK:
            os.unlink(name, dir_fd=folder)
        else:
            os.stat(name, dir_fd=folder, follow_symlinks=False)
    finally:
        if folder != root:
            os.close(folder)


def _folder(root: int, parts: list[str]) -> int:
    """Open a folder below the root, a part at a time: a worker that somebody has taken over could serve a link."""
    folder = root
    for part in parts:
        inner = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        if folder != root:
            os.close(folder)
        folder = inner
    return folder


def _refresh(root: int, inode: int) -> None:
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    try:
        newmount.refresh(directory, inode)
    finally:
        os.close(directory)
