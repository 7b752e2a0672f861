"""Azure Arc's proof that a caller may have the machine's token: it can read a file that the agent made for it.

PROTOCOL §7. A request without proof gets 401 and `Basic realm=FILE`; the same request with the file's content
as `Authorization: Basic` gets the token.
"""

from __future__ import annotations

import os
import secrets
import uuid
from typing import TYPE_CHECKING

from keyvaultfs_devvault.errors import TokenError

if TYPE_CHECKING:
    from pathlib import Path

_MOST = 32
_MODE = 0o640


class KeyWanted(TokenError):
    """401: the caller is to read a file first.

    Args:
        file: its path.
    """

    def __init__(self, file: Path) -> None:
        super().__init__("unauthorized_client", "Missing Basic Authorization header", 401)
        self.file = file


class KeyFiles:
    """One file for each challenge, good for one request; of those that nobody used the newest few are kept."""

    def __init__(self) -> None:
        self._files: dict[str, Path] = {}

    def check(self, authorization: str | None, folder: Path) -> None:
        """Let a request pass that proves itself.

        Args:
            authorization: the header's value.
            folder: where key files go; the agent's own is ``/var/opt/azcmagent/tokens``. They are the folder's
                group's to read.

        Raises:
            KeyWanted: there is no proof, or it has been used.
            TokenError: 500, the file cannot be made.
        """
        scheme, _, key = (authorization or "").partition(" ")
        used = self._files.pop(key, None) if scheme.lower() == "basic" else None
        if used is not None:
            used.unlink(missing_ok=True)
            return
        try:
            raise KeyWanted(self._make(folder))
        except OSError as error:
            raise TokenError("internal_error", f"no key file can be made: {error.strerror}", 500) from None

    def _make(self, folder: Path) -> Path:
        while len(self._files) >= _MOST:
            self._files.pop(next(iter(self._files))).unlink(missing_ok=True)
        key, file = secrets.token_urlsafe(64), folder / f"{uuid.uuid4()}.key"
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
        with os.fdopen(handle, "w") as opened:
            os.fchmod(handle, _MODE)  # whatever the umask
            os.fchown(handle, -1, folder.stat().st_gid)
            opened.write(key)
        self._files[key] = file
        return file
