"""Secrets that are certificates, as Key Vault keeps them (PROTOCOL §4): a key and its chain, in PEM or PKCS#12."""

from __future__ import annotations

import base64
import datetime as dt
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence

PEM, PKCS12 = "pem", "pkcs12"
_CHOICES: dict[str, tuple[object, ...]] = {
    "format": (PEM, PKCS12),
    "key": ("rsa", "ec"),
    "order": ("leaf-first", "root-first", "shuffled"),
    "intermediates": tuple(range(9)),
    "private_key": (True, False),
}
_DAYS = 365
_PLAIN = serialization.NoEncryption()

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class ChainError(ValueError):
    """A certificate that cannot be made as it is described."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a certificate's secret is to be.

    Args:
        format: "pem" (a PKCS#8 key, then the certificates) or "pkcs12" (base64 of a PFX without password).
        key: "rsa" or "ec".
        intermediates: how many authorities stand between the leaf and the root, up to 8.
        order: of the certificates: "leaf-first", "root-first", or "shuffled", as people upload them.
        private_key: false for one that the vault does not give away.
    """

    format: str = PEM
    key: str = "rsa"
    intermediates: int = 0
    order: str = "leaf-first"
    private_key: bool = True

    @classmethod
    def parse(cls, raw: object) -> Wish:
        """From "pem", "pkcs12", or a table.

        Raises:
            ChainError: saying what it may be.
        """
        given = {"format": raw} if isinstance(raw, str) else raw
        if not isinstance(given, dict):
            raise ChainError('certificate is "pem", "pkcs12", or a table')
        for name, value in given.items():
            choices = _CHOICES.get(name)
            if choices is None:
                raise ChainError(f"certificate: unknown {name}; known: {', '.join(_CHOICES)}")
            if not any(value == one and type(value) is type(one) for one in choices):
                shown = " or ".join(
                    f'"{one}"' if isinstance(one, str) else str(one).lower() for one in choices
                )
                raise ChainError(f"certificate: {name} is {shown}")
        return cls(**given)


@dataclass(frozen=True, slots=True)
class Issuer:
    """An authority that signs."""

    key: Key
    certificate: x509.Certificate


def secret(host: str, wish: Wish, root: Issuer) -> dict[str, Any]:
    """A new key and certificate.

    Args:
        host: whose certificate it is.
        wish: its kind.
        root: the self-signed authority, which is part of the chain.

    Returns:
        value, content_type, managed, nbf and exp of the secret's entry.
    """
    issuers = [root]
    for number in range(wish.intermediates):
        issuers.append(_issued(f"{host} issuer {number + 1}", issuers[-1], _key(wish.key), authority=True))
    leaf = _issued(host, issuers[-1], _key(wish.key), authority=False)
    chain = [one.certificate for one in (leaf, *reversed(issuers))]
    if wish.order == "root-first":
        chain.reverse()
    elif wish.order == "shuffled":
        random.shuffle(chain)
    make, content_type = {
        PEM: (_pem, "application/x-pem-file"),
        PKCS12: (_pfx, "application/x-pkcs12"),
    }[wish.format]
    return {
        "value": make(leaf.key if wish.private_key else None, leaf.certificate, chain),
        "content_type": content_type,
        "managed": True,
        "nbf": _seconds(leaf.certificate, "not_valid_before"),
        "exp": _seconds(leaf.certificate, "not_valid_after"),
    }


def _pem(key: Key | None, leaf: x509.Certificate, chain: Sequence[x509.Certificate]) -> str:
    del leaf  # it is where the chain has it
    form = serialization.PrivateFormat.PKCS8
    blocks = [] if key is None else [key.private_bytes(serialization.Encoding.PEM, form, _PLAIN)]
    blocks += [one.public_bytes(serialization.Encoding.PEM) for one in chain]
    return b"".join(blocks).decode()


def _pfx(key: Key | None, leaf: x509.Certificate, chain: Sequence[x509.Certificate]) -> str:
    """The leaf is marked as such where it comes first; in another order nothing says which one it is."""
    first = leaf if chain[0] is leaf else None
    rest = [one for one in chain if one is not first]
    made = pkcs12.serialize_key_and_certificates(b"dev", key, first, rest, _PLAIN)
    return base64.b64encode(made).decode()


def _key(kind: str) -> Key:
    if kind == "ec":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(public_exponent=65_537, key_size=2048)


def _issued(name: str, issuer: Issuer, key: Key, *, authority: bool) -> Issuer:
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    parent = issuer.certificate
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])]))
        .issuer_name(parent.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=_DAYS))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_above(parent), critical=False)
    )
    if authority:
        builder = builder.add_extension(_signs(), critical=True)
    else:
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        builder = builder.add_extension(names, critical=False)
    return Issuer(key, builder.sign(issuer.key, hashes.SHA256()))


def _signs() -> x509.KeyUsage:
    """RFC 5280, 4.2.1.3: an authority's key signs certificates and lists of revoked ones."""
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )


def _above(parent: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        there = parent.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(parent.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(there.value)


def _seconds(certificate: x509.Certificate, name: str) -> int:
    # cryptography 42 deprecates the naive attribute, Debian 12's 38 has no other
    aware = getattr(certificate, f"{name}_utc", None)
    if aware is None:
        aware = getattr(certificate, name).replace(tzinfo=dt.UTC)
    return int(aware.timestamp())
