"""Parts of a certificate's secret: a PFX in base64 or PEM, with its certificates in the order of their upload.

Key Vault sorts nothing (PROTOCOL §4). The leaf is the certificate of the key's public half; what issued it is found
upwards by issuer and subject, and by the key identifiers where both sides have one.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keyvaultfs.content.der import rounds
from keyvaultfs.errors import CannotMake
from keyvaultfs.model import SecretValue

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from cryptography import x509

PARTS = ("key", "cert", "chain", "fullchain", "pem", "pfx")
_BEGIN = b"-----BEGIN "
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)
_KEYS = (b"PRIVATE KEY", b"RSA PRIVATE KEY", b"EC PRIVATE KEY")
_CERTIFICATES = (b"CERTIFICATE", b"X509 CERTIFICATE")
_UNREADABLE = "a key or a certificate of the value cannot be read"
_ROUNDS = 1_000_000  # OpenSSL makes 2,048, cryptography 20,000, Java 10,000
_MOST_BITS = 8192
"""Of an RSA key; Key Vault's own have at most 4,096. The primes of a larger one may be proved for minutes."""

_LONGEST_KEY = 4_950  # bytes of PKCS#8 that such a key takes, with some room
# The identifiers of keyBag and pkcs8ShroudedKeyBag (RFC 7292, 4.2), and the length of what is in the bag.
_KEY_BAG = re.compile(rb"\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x0a\x01[\x01\x02]\xa0\x82(..)", re.DOTALL)
_TOO_LARGE = f"the key has more than {_MOST_BITS} bits"
_MOST = 100  # certificates of a value; a chain has a handful
_LONGEST = 1 << 17  # bytes of a value; Key Vault takes 25 kB


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Bundle:
    """What a certificate's secret holds.

    Args:
        key: the private key, or None where Key Vault keeps it (a key that cannot be exported).
        certificates: in the order of the value.
    """

    key: Any
    certificates: tuple[x509.Certificate, ...]


def part(
    value: SecretValue, which: str, *, password: SecretValue | None = None, alias: str = "keyvaultfs"
) -> SecretValue:
    """One of `PARTS`.

    ``key`` is PKCS#8, ``cert`` the leaf, ``chain`` what issued it, upwards and without the self-signed root (so it may
    be empty), ``fullchain`` cert and chain, ``pem`` key and fullchain: all PEM. ``pfx`` is PKCS#12 in DER, and another
    each time, since it has salts.

    Args:
        value: the secret's.
        which: of `PARTS`.
        password: of the PFX; without it the PFX has none.
        alias: the name of key and leaf in a PFX.

    Raises:
        CannotMake: the value is no certificate's, has no key where one is needed, or no certificate that is the key's.
    """
    bundle = load(value)
    if which == "key":
        return SecretValue(_key_pem(bundle))
    leaf = _leaf(bundle)
    chain = _climb(leaf, bundle.certificates)
    if which == "pfx":
        return SecretValue(_pfx(bundle, leaf, chain, password, alias))
    wanted = {"cert": [leaf], "chain": chain, "fullchain": [leaf, *chain], "pem": [leaf, *chain]}[which]
    head = _key_pem(bundle) if which == "pem" else b""
    return SecretValue(head + b"".join(map(_certificate_pem, wanted)))


def load(value: SecretValue) -> Bundle:
    """Key and certificates of a value.

    Raises:
        CannotMake: it is neither PEM nor a PFX in base64 without a password, or has no certificate.
    """
    raw = value.reveal()
    if len(raw) > _LONGEST or raw.count(_BEGIN) > 2 * _MOST:
        raise CannotMake("the value is larger than any certificate's of a vault")
    bundle = _from_pem(raw) if _BEGIN in raw else _from_pfx(raw)
    if not bundle.certificates:
        raise CannotMake("the value has no certificate")
    if len(bundle.certificates) > _MOST:
        raise CannotMake(f"the value has more than {_MOST} certificates")
    if getattr(bundle.key, "key_size", 0) > _MOST_BITS:
        raise CannotMake(_TOO_LARGE)
    if not all(map(_readable, bundle.certificates)):
        raise CannotMake(_UNREADABLE)
    return bundle


def _readable(certificate: x509.Certificate) -> bool:
    """Names and dates are parsed when they are asked for, and may be nonsense."""
    try:
        _ = (certificate.subject, certificate.issuer, _end(certificate))
    except Exception:  # noqa: BLE001 - as in _from_pem
        return False
    return True


def _from_pem(raw: bytes) -> Bundle:
    from cryptography import x509

    key, certificates, readable = None, [], True
    for found in _BLOCK.finditer(raw):
        label = found[1]
        if b"ENCRYPTED" in label or b"Proc-Type" in found[2]:
            raise CannotMake("the key has a password, which Key Vault's never have")
        if label in _KEYS and len(b"".join(found[2].split())) * 3 // 4 > _LONGEST_KEY:
            raise CannotMake(_TOO_LARGE)
        try:
            if label in _KEYS and key is None:
                key = _private_key(found[0])
            elif label in _CERTIFICATES:
                certificates.append(x509.load_der_x509_certificate(base64.b64decode(found[2])))
        except Exception:  # noqa: BLE001 - cryptography raises errors of several kinds, and some quote what they read
            readable = False
    if not readable:
        raise CannotMake(_UNREADABLE)
    return Bundle(key, tuple(certificates))


def _private_key(block: bytes) -> Any:
    """The key of a PEM block.

    Its primes are not proved, which takes a minute for the largest; a certificate that is the key's tells as much.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(block, None, unsafe_skip_rsa_key_validation=True)
    except TypeError:  # Debian 12's 38 always proves them
        return load_pem_private_key(block, None)


def _from_pfx(raw: bytes) -> Bundle:
    from cryptography.hazmat.primitives.serialization.pkcs12 import load_key_and_certificates

    try:
        data = base64.b64decode(b"".join(raw.split()), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if rounds(data) > _ROUNDS:
        raise CannotMake(f"the PFX asks for more than {_ROUNDS} rounds of key derivation")
    if any(int.from_bytes(found[1], "big") > _LONGEST_KEY for found in _KEY_BAG.finditer(data)):
        raise CannotMake(_TOO_LARGE)
    for password in (None, b""):  # the two ways of having none
        try:
            key, leaf, others = load_key_and_certificates(data, password)
        except Exception:  # noqa: BLE001, S112 - as above
            continue
        return Bundle(key, tuple(one for one in (leaf, *others) if one is not None))
    raise CannotMake("the value is neither PEM nor a PFX in base64 without a password")


def _public(holder: Any) -> bytes | None:
    """The public key of a key or a certificate, in DER; None for a kind that cryptography does not know."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        raw: bytes = holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except Exception:  # noqa: BLE001 - UnsupportedAlgorithm, ValueError, by version
        return None
    return raw


def _leaf(bundle: Bundle) -> x509.Certificate:
    if bundle.key is not None:
        mine = _public(bundle.key)
        for one in bundle.certificates:
            if mine is not None and _public(one) == mine:
                return one
        raise CannotMake("no certificate of the value is the key's")
    issuers = {one.issuer for one in bundle.certificates if one.issuer != one.subject}
    ends = [one for one in bundle.certificates if one.subject not in issuers]
    # Without a key nothing is certain: rather one that signs nobody, rather one that is no authority, rather the first.
    return next((one for one in ends if not _is_authority(one)), (ends or bundle.certificates)[0])


def _is_authority(certificate: x509.Certificate) -> bool:
    from cryptography import x509

    found = _extension(certificate, x509.BasicConstraints)
    return found is not None and bool(found.ca)


def _extension(certificate: x509.Certificate, kind: Any) -> Any:
    """The value of an extension; None where there is none, or none that can be read."""
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return None


def _climb(leaf: x509.Certificate, certificates: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """What issued the leaf, upwards, without self-signed ones; where nothing did, the others in their order."""
    others = [one for one in certificates if one != leaf and one.subject != one.issuer]
    chain: list[x509.Certificate] = []
    while (above := _issuer((chain or [leaf])[-1], [one for one in others if one not in chain])) is not None:
        chain.append(above)
    rooted = any(one.subject == leaf.issuer and _may_sign(one, leaf) for one in certificates)
    return chain if chain or rooted else others


def _issuer(certificate: x509.Certificate, candidates: Sequence[x509.Certificate]) -> x509.Certificate | None:
    """Of several, such as before and after a renewal, the one that is valid for longest."""
    fitting = [one for one in candidates if one.subject == certificate.issuer and _may_sign(one, certificate)]
    return max(fitting, key=_end, default=None)


def _may_sign(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Whether the key identifiers agree, where both have one: they are optional (RFC 5280, 4.2.1.1 and 4.2.1.2)."""
    from cryptography import x509

    wanted, has = (
        _extension(certificate, x509.AuthorityKeyIdentifier),
        _extension(issuer, x509.SubjectKeyIdentifier),
    )
    if wanted is None or has is None or wanted.key_identifier is None:
        return True
    return bool(wanted.key_identifier == has.digest)


def _end(certificate: x509.Certificate) -> dt.datetime:
    # cryptography 42 deprecates the naive attribute, and Debian 12's 38 has no other.
    name = "not_valid_after_utc" if hasattr(certificate, "not_valid_after_utc") else "not_valid_after"
    end: dt.datetime = getattr(certificate, name)
    return end


def _key_pem(bundle: Bundle) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    if bundle.key is None:
        raise CannotMake("the value has no private key: the certificate's key cannot be exported")
    raw: bytes = bundle.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return raw


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _pfx(
    bundle: Bundle,
    leaf: x509.Certificate,
    chain: Sequence[x509.Certificate],
    password: SecretValue | None,
    alias: str,
) -> bytes:
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, NoEncryption, pkcs12

    if bundle.key is None:
        raise CannotMake("the value has no private key: the certificate's key cannot be exported")
    encryption: NoEncryption | BestAvailableEncryption = NoEncryption()
    if password is not None:
        try:
            password.reveal().decode()
            encryption = BestAvailableEncryption(password.reveal())
        except ValueError:  # UnicodeDecodeError is one
            encryption = NoEncryption()
        if isinstance(encryption, NoEncryption):
            raise CannotMake("the password is empty or no UTF-8")
    try:
        return pkcs12.serialize_key_and_certificates(alias.encode(), bundle.key, leaf, chain, encryption)
    except (TypeError, ValueError):
        pass  # raised below, without a context
    raise CannotMake("a PFX cannot hold this key")
