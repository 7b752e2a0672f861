"""Bytes from the kernel -> a Key Vault name."""

from __future__ import annotations

from keyvaultfs.model import SecretName


def parse(raw: bytes) -> SecretName | None:
    """The secret that a file name stands for, or None where no secret can have that name (``.git``, ``a.txt``)."""
    try:
        return SecretName(raw.decode("ascii"))
    except ValueError:  # UnicodeDecodeError is one
        return None
