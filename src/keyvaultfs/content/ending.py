"""How a file ends."""

from __future__ import annotations

from keyvaultfs.model import SecretValue


def newline(value: SecretValue) -> SecretValue:
    """The value with a newline at its end; one that is there already is not doubled."""
    raw = value.reveal()
    return value if raw.endswith(b"\n") else SecretValue(raw + b"\n")
