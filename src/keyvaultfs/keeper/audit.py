"""Where records of opens go (option ``audit``): opened here, since the worker may not, and handed to each worker."""

from __future__ import annotations

import errno
import os
import socket
import stat

from keyvaultfs.errors import KeyVaultFSError
from keyvaultfs.keeper.process import high

JOURNAL = "journal"
_SOCKET = "/run/systemd/journal/socket"


class AuditTarget:
    """The open file, or a socket to the journal; nothing without the option.

    Args:
        option: ``journal``, an absolute path, or None.

    Raises:
        KeyVaultFSError: it cannot be opened, or is no regular file.
    """

    def __init__(self, option: str | None) -> None:
        self._option = option
        self.fd = None if option is None else high(_opened(option))

    def reopen(self) -> None:
        """Open it anew, as after logrotate(8) moved it; what is open stays so when that fails.

        Raises:
            KeyVaultFSError: it failed.
        """
        if self._option is None or self.fd is None:
            return
        fresh = high(_opened(self._option))
        os.close(self.fd)
        self.fd = fresh


def _opened(option: str) -> int:
    try:
        return _journal() if option == JOURNAL else _file(option)
    except OSError as exc:
        words = {errno.ELOOP: "it is a symbolic link", errno.ENXIO: "it is no regular file"}
        why = words.get(exc.errno or 0) or exc.strerror or "it cannot be opened"
        raise KeyVaultFSError("", f"audit={option}: {why}") from None


def _file(path: str) -> int:
    # Without waiting: the open of a FIFO would wait for its reader.
    flags = (
        os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    )
    fd = os.open(path, flags, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.ENXIO, "")
    return fd


def _journal() -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(_SOCKET)
        return sock.detach()
