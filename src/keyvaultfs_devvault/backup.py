"""Backup blobs: all versions of a secret, sealed for the process that made them (PROTOCOL §3, backup)."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from typing import TYPE_CHECKING

from cryptography.fernet import Fernet, InvalidToken

from keyvaultfs_devvault import errors
from keyvaultfs_devvault.records import Secret, Version

if TYPE_CHECKING:
    from collections.abc import Callable

_MAGIC = b"AzureKeyVaultSecretBackupV1.microsoft.com"
_PREFIX = bytes([len(_MAGIC)]) + _MAGIC


class Sealer:
    """Seals and opens blobs; one of another process, or another vault, is "invalid or corrupt"."""

    def __init__(self) -> None:
        fernet = Fernet(Fernet.generate_key())
        self._encrypt: Callable[[bytes], bytes] = fernet.encrypt
        self._decrypt: Callable[[bytes], bytes] = fernet.decrypt

    def seal(self, secret: Secret) -> str:
        """The blob, unpadded base64url."""
        plain = json.dumps(dataclasses.asdict(secret)).encode()
        return base64.urlsafe_b64encode(_PREFIX + self._encrypt(plain)).decode().rstrip("=")

    def open(self, blob: object) -> Secret:
        """What went into `seal`.

        Raises:
            VaultError: 400 for anything else.
        """
        if not isinstance(blob, str):
            raise errors.bad_backup()
        try:
            raw = base64.b64decode(blob + "=" * (-len(blob) % 4), altchars=b"-_", validate=True)
            if not raw.startswith(_PREFIX):
                raise errors.bad_backup()
            fields = json.loads(self._decrypt(raw[len(_PREFIX) :]))
        except (binascii.Error, InvalidToken, ValueError):
            raise errors.bad_backup() from None
        versions = {key: Version(**version) for key, version in fields["versions"].items()}
        return Secret(name=fields["name"], versions=versions, current=fields["current"])
