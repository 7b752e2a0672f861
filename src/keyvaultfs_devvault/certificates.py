"""A throw-away certificate authority, for TLS and for secrets that are certificates."""

from __future__ import annotations

import base64
import datetime as dt
import os
import ssl
from typing import TYPE_CHECKING, Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

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

    def secret(self, name: str, kind: str) -> dict[str, Any]:
        """A certificate as Key Vault keeps it: a secret with key and chain.

        Args:
            name: becomes the host ``NAME.example.com``.
            kind: "pem" (PKCS#8 key, then the certificates) or "pkcs12" (base64 of a PFX without password).

        Returns:
            value, content_type, managed, nbf and exp of the entry.

        Raises:
            KeyError: for another kind.
        """
        leaf = self._ca.issue_cert(f"{name.lower()}.example.com")
        key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
        chain = [x509.load_pem_x509_certificate(blob.bytes()) for blob in leaf.cert_chain_pems]
        authority = x509.load_pem_x509_certificate(self._ca.cert_pem.bytes())
        plain = serialization.NoEncryption()
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        pem += b"".join(cert.public_bytes(serialization.Encoding.PEM) for cert in [*chain, authority])
        pfx = pkcs12.serialize_key_and_certificates(
            name.encode(),
            key,  # type: ignore[arg-type]  # trustme makes RSA or EC keys only
            chain[0],
            [*chain[1:], authority],
            plain,
        )
        value, content_type = {
            "pem": (pem.decode(), "application/x-pem-file"),
            "pkcs12": (base64.b64encode(pfx).decode(), "application/x-pkcs12"),
        }[kind]
        return {
            "value": value,
            "content_type": content_type,
            "managed": True,
            "nbf": _seconds(chain[0], "not_valid_before"),
            "exp": _seconds(chain[0], "not_valid_after"),
        }


def _seconds(certificate: x509.Certificate, name: str) -> int:
    # cryptography 42 deprecates the naive attribute, Debian 12's 38 has no other
    aware = getattr(certificate, f"{name}_utc", None)
    if aware is None:
        aware = getattr(certificate, name).replace(tzinfo=dt.UTC)
    return int(aware.timestamp())
