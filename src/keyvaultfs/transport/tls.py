"""What certificates are verified with."""

from __future__ import annotations

import ssl

from keyvaultfs.errors import UsageError


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Verifies with `ca_file`, or with the system's own store.

    Args:
        ca_file: authorities.

    Raises:
        UsageError: the file has no certificate, or cannot be read.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise UsageError(f"option ca_file={ca_file}: it holds no certificate in PEM form") from None
    except OSError as exc:
        raise UsageError(f"option ca_file={ca_file}: {exc.strerror}") from None
