"""A throw-away certificate authority, for TLS and for secrets that are certificates."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from keyvaultfs_devvault import chains

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from keyvaultfs_devvault.chains import Wish

_HOSTS = ("127.0.0.1", "::1", "localhost", "*.vault.localhost")


class Authority:
    """A new one for every run, whose key never leaves the process, unless a file is named.

    Args:
        keep: key and certificate, PEM; made with mode 0600 when it is not there.

    Raises:
        OSError: the file cannot be read or made.
        ValueError: it holds no authority.
    """

    def __init__(self, keep: Path | None = None) -> None:
        if keep is not None and keep.exists():
            text = keep.read_bytes()
            self._ca = trustme.CA.from_pem(text, text)
            return
        self._ca = trustme.CA(organization_name="keyvaultfs dev")
        if keep is not None:
            handle = os.open(keep, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(self._ca.private_key_pem.bytes() + self._ca.cert_pem.bytes())

    def write(self, path: Path) -> None:
        """Write the authority's certificate, PEM."""
        self._ca.cert_pem.write_to_path(str(path))

    def server_context(self, hosts: Iterable[str] = ()) -> ssl.SSLContext:
        """A server's TLS for loopback, `*.vault.localhost`, and any other names.

        OpenSSL refuses a certificate for ``*.localhost``: a wildcard needs two labels after it.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        self._ca.issue_cert(*dict.fromkeys([*_HOSTS, *hosts])).configure_cert(context)
        return context

    def secret(self, name: str, wish: Wish) -> dict[str, Any]:
        """A certificate as Key Vault keeps it, which the authority itself has issued.

        Args:
            name: of the secret; becomes the host ``NAME.example.com``.
            wish: what kind.

        Returns:
            value, content_type, managed, nbf and exp of the entry.
        """
        key = serialization.load_pem_private_key(self._ca.private_key_pem.bytes(), None)
        assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)  # trustme makes no others
        certificate = x509.load_pem_x509_certificate(self._ca.cert_pem.bytes())
        return chains.secret(f"{name.lower()}.example.com", wish, chains.Issuer(key, certificate))
