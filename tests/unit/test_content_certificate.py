"""Parts of a certificate's secret, checked by OpenSSL and Java's keytool."""

from __future__ import annotations

import base64
import datetime as dt
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvaultfs.content.certificate import PARTS, part
from keyvaultfs.content.der import TOO_MANY, rounds
from keyvaultfs.content.template import Source, Template
from keyvaultfs.errors import CannotMake
from keyvaultfs.model import SecretValue

if TYPE_CHECKING:
    from pathlib import Path

PEM = serialization.Encoding.PEM
PLAIN = serialization.NoEncryption()
CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", re.DOTALL)
Key = Any
KEYTOOL = ("keytool", "-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC", "-J-Xshare:auto")
"""Its life is a second: to compile it better would take longer."""


def issue(name: str, key: Key, issuer: tuple[x509.Certificate, Key] | None, *, ids: bool = True, years: int = 1,
          authority: bool = True) -> x509.Certificate:  # fmt: skip
    """A certificate; without an issuer it signs itself, and without `ids` it has no key identifiers."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    above = (subject, key) if issuer is None else (issuer[0].subject, issuer[1])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above[0])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime(2026, 1, 1))  # noqa: DTZ001 - cryptography takes UTC
        .not_valid_after(dt.datetime(2030 + years, 1, 1))  # noqa: DTZ001
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if ids:
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        theirs = x509.AuthorityKeyIdentifier.from_issuer_public_key(above[1].public_key())
        builder = builder.add_extension(own, critical=False).add_extension(theirs, critical=False)
    return builder.sign(
        above[1], None if isinstance(above[1], ed25519.Ed25519PrivateKey) else hashes.SHA256()
    )


def new_key(kind: str = "ec") -> Key:
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    return (
        ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())
    )


def pem(*parts: Key | x509.Certificate) -> bytes:
    return b"".join(
        one.public_bytes(PEM) if isinstance(one, x509.Certificate)
        else one.private_bytes(PEM, serialization.PrivateFormat.PKCS8, PLAIN)
        for one in parts
    )  # fmt: skip


class World:
    """A root, two intermediates and a leaf, and strangers."""

    def __init__(self, kind: str = "ec", *, ids: bool = True) -> None:
        self.keys = [new_key(kind) for _ in range(4)]
        self.root = issue("Root", self.keys[0], None, ids=ids)
        self.upper = issue("Upper", self.keys[1], (self.root, self.keys[0]), ids=ids)
        self.lower = issue("Lower", self.keys[2], (self.upper, self.keys[1]), ids=ids)
        self.key = self.keys[3]
        self.leaf = issue("leaf.example.com", self.key, (self.lower, self.keys[2]), ids=ids, authority=False)
        self.all = [self.leaf, self.lower, self.upper, self.root]

    def value(self, form: str, order: list[x509.Certificate], *, key: bool = True) -> SecretValue:
        if form == "pem":
            return SecretValue(pem(*([self.key] if key else []), *order))
        first = order[0] if order[0] is self.leaf else None
        rest = [one for one in order if one is not first]
        made = pkcs12.serialize_key_and_certificates(None, self.key if key else None, first, rest, PLAIN)
        return SecretValue(base64.b64encode(made))


WORLDS = {kind: World(kind) for kind in ("ec", "rsa", "ed25519")} | {"without ids": World(ids=False)}


def of(value: SecretValue, which: str) -> str:
    return part(value, which).reveal().decode()


@settings(max_examples=40)
@given(
    world=st.sampled_from(sorted(WORLDS)),
    form=st.sampled_from(["pem", "pfx"]),
    order=st.permutations(range(4)),
    root=st.booleans(),
)
def test_certificates_in_any_order_make_the_same_parts(
    world: str, form: str, order: list[int], root: bool
) -> None:
    there = WORLDS[world]
    value = there.value(form, [there.all[place] for place in order if root or place != 3])
    leaf, chain = pem(there.leaf).decode(), pem(there.lower, there.upper).decode()
    key = pem(there.key).decode()
    assert [of(value, which) for which in PARTS[:-1]] == [key, leaf, chain, leaf + chain, key + leaf + chain]


@pytest.mark.parametrize("form", ["pem", "pfx"])
@pytest.mark.parametrize("world", sorted(WORLDS))
def test_openssl_verifies_what_is_made(tmp_path: Path, world: str, form: str) -> None:
    there = WORLDS[world]
    value = there.value(form, [there.root, there.upper, there.leaf, there.lower])
    for which in PARTS[:-1]:
        (tmp_path / which).write_text(of(value, which))
    (tmp_path / "root").write_bytes(pem(there.root))
    verify = ["openssl", "verify", "-CAfile", "root", "-untrusted", "chain"]
    for which in ("cert", "fullchain"):
        subprocess.run([*verify, which], cwd=tmp_path, check=True, capture_output=True)
    public = [
        subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True).stdout
        for words in (["pkey", "-in", "pem", "-pubout"], ["x509", "-in", "pem", "-pubkey", "-noout"])
    ]
    assert public[0] == public[1]
    assert (tmp_path / "key").read_text().startswith("-----BEGIN PRIVATE KEY-----\n")


@pytest.mark.parametrize("providers", [[], ["-legacy"]])
@pytest.mark.parametrize("password", [None, "changeit", "pä ss'\"\\"])
@pytest.mark.parametrize("world", sorted(WORLDS))
def test_openssl_reads_a_pfx_with_and_without_a_password(
    tmp_path: Path, world: str, password: str | None, providers: list[str]
) -> None:
    there = WORLDS[world]
    given = None if password is None else SecretValue(password.encode())
    made = part(there.value("pem", there.all[::-1]), "pfx", password=given, alias="web-tls")
    (tmp_path / "p12").write_bytes(made.reveal())
    (tmp_path / "word").write_text(f"{password or ''}\n")
    command = ["openssl", "pkcs12", "-in", "p12", "-passin", "file:word", "-nodes", *providers]
    out = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert "friendlyName: web-tls" in out
    assert CERTIFICATE.findall(out) == CERTIFICATE.findall(pem(there.leaf, there.lower, there.upper).decode())
    assert pem(there.key).decode() in out
    key, leaf, chain = pkcs12.load_key_and_certificates(
        made.reveal(), None if password is None else password.encode()
    )
    assert key is not None
    assert (leaf, chain) == (there.leaf, [there.lower, there.upper])


@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_javas_keytool_reads_a_keystore(tmp_path: Path, kind: str) -> None:
    there = WORLDS[kind]
    made = part(
        there.value("pfx", there.all[::-1]), "pfx", password=SecretValue(b"changeit"), alias="web-tls"
    )
    (tmp_path / "keystore.p12").write_bytes(made.reveal())
    done = subprocess.run(
        [*KEYTOOL, "-list", "-v", "-keystore", "keystore.p12", "-storepass", "changeit"],
        cwd=tmp_path, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
    )  # fmt: skip
    assert "Alias name: web-tls\n" in done.stdout
    assert "Entry type: PrivateKeyEntry\nCertificate chain length: 3\n" in done.stdout
    # Java can use the key, which is in its own envelope.
    moved = subprocess.run(
        [*KEYTOOL, "-importkeystore", "-srckeystore", "keystore.p12", "-srcstorepass", "changeit",
         "-destkeystore", "other.p12", "-deststorepass", "changeit2", "-noprompt"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
    )  # fmt: skip
    assert moved.returncode == 0, moved.stdout + moved.stderr


@pytest.mark.parametrize("legacy", [True, False])
def test_a_pfx_of_any_openssl_is_read(tmp_path: Path, legacy: bool) -> None:
    there = WORLDS["rsa"]
    (tmp_path / "all.pem").write_bytes(pem(there.key, there.leaf, there.root, there.lower, there.upper))
    command = ["openssl", "pkcs12", "-export", "-in", "all.pem", "-passout", "pass:", "-out", "p12"]
    subprocess.run(
        [*command, *(["-legacy"] if legacy else [])], cwd=tmp_path, check=True, capture_output=True
    )
    text = base64.encodebytes((tmp_path / "p12").read_bytes())
    assert of(SecretValue(text), "pem").encode() == pem(there.key, there.leaf, there.lower, there.upper)


@pytest.mark.parametrize("form", ["pem", "pfx"])
def test_a_key_that_cannot_be_exported_leaves_the_certificates(form: str) -> None:
    there = WORLDS["rsa"]
    for order in (there.all, there.all[::-1]):
        value = there.value(form, order, key=False)
        assert of(value, "fullchain").encode() == pem(there.leaf, there.lower, there.upper)
        for which in ("key", "pem", "pfx"):
            with pytest.raises(CannotMake, match="no private key: the certificate's key cannot be exported"):
                part(value, which)


def test_a_certificate_that_signed_itself_has_an_empty_chain() -> None:
    key = new_key()
    alone = issue("self.example.com", key, None)
    value = SecretValue(pem(key, alone))
    assert (of(value, "chain"), of(value, "fullchain").encode()) == ("", pem(alone))


def test_after_a_renewal_the_authority_that_is_valid_longer_is_taken() -> None:
    root, upper, key = new_key(), new_key(), new_key()
    above = issue("Root", root, None)
    old, new = (issue("Upper", upper, (above, root), years=years) for years in (1, 5))
    leaf = issue("leaf", key, (old, upper), authority=False)
    for order in ([leaf, old, new], [new, leaf, old]):
        assert of(SecretValue(pem(key, *order)), "chain").encode() == pem(new)


def test_an_authority_of_the_same_name_and_another_key_is_none() -> None:
    there = WORLDS["ec"]
    stranger = issue("Lower", new_key(), None, years=9)
    cross = issue("Lower", new_key(), (there.upper, there.keys[1]), years=9)
    value = SecretValue(pem(there.key, stranger, cross, there.upper, there.lower, there.leaf))
    assert of(value, "chain").encode() == pem(there.lower, there.upper)


def test_authorities_that_signed_each_other_end_somewhere() -> None:
    one, two, key = new_key(), new_key(), new_key()
    first, second = issue("One", one, None), issue("Two", two, None)
    crossed = [issue("One", one, (second, two)), issue("Two", two, (first, one))]
    leaf = issue("leaf", key, (first, one), authority=False)
    assert of(SecretValue(pem(*crossed, leaf, key)), "chain").encode() == pem(*crossed)


def test_where_nothing_is_found_above_the_given_order_stays() -> None:
    there = WORLDS["ec"]
    key = new_key()
    leaf = issue("leaf", key, (issue("Unknown", there.keys[0], None), there.keys[0]), authority=False)
    value = SecretValue(pem(key, there.lower, leaf, there.upper, there.root))
    assert of(value, "chain").encode() == pem(there.lower, there.upper)


@pytest.mark.parametrize("label", ["RSA PRIVATE KEY", "EC PRIVATE KEY"])
def test_older_forms_of_a_key_become_pkcs8(label: str) -> None:
    there = WORLDS["rsa" if label[0] == "R" else "ec"]
    old = there.key.private_bytes(PEM, serialization.PrivateFormat.TraditionalOpenSSL, PLAIN)
    assert label.encode() in old
    value = SecretValue(b"Bag Attributes\r\n" + pem(there.leaf) + old.replace(b"\n", b"\r\n"))
    assert of(value, "key").encode() == pem(there.key)


BROKEN = base64.encodebytes(pem(WORLDS["ec"].leaf))
LEAF = pem(WORLDS["ec"].leaf)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "neither PEM nor a PFX"),
        (b"s3cr3t", "neither PEM nor a PFX"),
        (b"\xff\xfe\x00", "neither PEM nor a PFX"),
        (BROKEN, "neither PEM nor a PFX"),
        (pem(WORLDS["ec"].key), "the value has no certificate"),
        (b"-----BEGIN SOMETHING-----\nAAAA\n-----END SOMETHING-----\n", "the value has no certificate"),
        (b"-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n", "cannot be read"),
        (b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "cannot be read"),
        (LEAF + b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n", "cannot be read"),
        (LEAF + WORLDS["ec"].key.private_bytes(
            PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")), "a password"),
        (pem(WORLDS["rsa"].key) + LEAF, "no certificate of the value is the key's"),
        (LEAF * 101, "more than 100 certificates"),
        # Each of these is looked for to the end of the value.
        (b"-----BEGIN A-----" * 201, "larger than any certificate's"),
        (LEAF + b"x" * (1 << 17), "larger than any certificate's"),
        (base64.b64encode(pkcs12.serialize_key_and_certificates(
            None, WORLDS["ec"].key, WORLDS["ec"].leaf, None, serialization.BestAvailableEncryption(b"x"))),
         "without a password"),
    ],
)  # fmt: skip
def test_what_is_no_certificate_says_why_and_quotes_nothing(raw: bytes, words: str) -> None:
    with pytest.raises(CannotMake, match=words) as caught:
        part(SecretValue(raw), "cert")
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("begin", "inner", "depth"), [(b"\x30\x80", b"\x05\x00", 40), (b"\x24\x80", b"\x04\x00", 40)]
)
def test_what_ends_somewhere_is_not_looked_at_again_without_end(
    begin: bytes, inner: bytes, depth: int
) -> None:
    """25 kB ask for the work of half a second, by elements that are looked at once for each one around them."""
    assert rounds(begin * 5 + inner * 500 + b"\0\0" * 5) == 0
    assert rounds(begin * depth + inner * 9000 + b"\0\0" * depth) == TOO_MANY


@settings(max_examples=200)
@given(raw=st.binary(max_size=80), where=st.integers(0, 900), form=st.sampled_from(["pem", "pfx"]))
def test_any_bytes_make_a_part_or_a_reason(raw: bytes, where: int, form: str) -> None:
    good = WORLDS["ec"].value(form, WORLDS["ec"].all).reveal()
    if form == "pfx":
        plain = base64.b64decode(good)
        good = base64.b64encode(plain[:where] + raw + plain[where + len(raw) :])
    else:
        good = good[:where] + base64.b64encode(raw) + good[where + len(raw) :]
    for which in PARTS:
        try:
            part(SecretValue(good), which, alias="x")
        except CannotMake as exc:
            reason = exc
        else:
            continue
        assert reason.hint


def tlv(tag: int, *parts: bytes) -> bytes:
    """An element of BER, of indefinite length if it is constructed."""
    content = b"".join(parts)
    if tag & 0x20:
        return bytes([tag, 0x80]) + content + b"\0\0"
    size = len(content).to_bytes(2, "big")
    return bytes([tag, 0x82]) + size + content


def pieces(data: bytes) -> bytes:
    return tlv(0x24, tlv(4, data[:5]), tlv(0x24, tlv(4, data[5:])))


@pytest.mark.parametrize("legacy", [True, False])
def test_a_pfx_that_would_take_long_is_refused_at_once(tmp_path: Path, legacy: bool) -> None:
    there = WORLDS["rsa"]
    (tmp_path / "all.pem").write_bytes(pem(there.key, there.leaf))
    command = [
        "openssl",
        "pkcs12",
        "-export",
        "-in",
        "all.pem",
        "-passout",
        "pass:",
        "-out",
        "p12",
        "-iter",
        "1000001",
    ]
    subprocess.run(
        [*command, *(["-legacy"] if legacy else [])], cwd=tmp_path, check=True, capture_output=True
    )
    made = (tmp_path / "p12").read_bytes()
    for data in (made, made + b"junk"):
        assert rounds(data) == 1_000_001
        with pytest.raises(CannotMake, match="more than 1000000 rounds"):
            part(SecretValue(base64.b64encode(data)), "cert")


@settings(max_examples=200)
@given(
    inner=st.recursive(
        st.just(tlv(0x30, tlv(4, b"saltsalt"), tlv(2, (1 << 31).to_bytes(5, "big")))),
        lambda inner: st.one_of(
            inner.map(lambda data: tlv(0x30, tlv(6, b"oid"), data)),
            inner.map(lambda data: tlv(0x31, data, tlv(4, b"\x30\x99"))),
            inner.map(lambda data: tlv(0xA0, tlv(4, tlv(0x30, data)))),
            inner.map(lambda data: pieces(tlv(0x30, data))),
            inner.map(lambda data: tlv(0xA0, tlv(4, tlv(0x30, data) + b"\x1f"))),
        ),
        max_leaves=20,
    )
)
def test_rounds_are_seen_wherever_they_stand(inner: bytes) -> None:
    assert rounds(inner) == 1 << 31


@given(raw=st.binary(max_size=200))
def test_any_bytes_have_a_number_of_rounds(raw: bytes) -> None:
    assert isinstance(rounds(raw), int)


def test_what_is_nested_or_strewn_without_end_has_a_number_of_rounds_too() -> None:
    assert rounds(b"\x30\x80" * 5_000) in (0, TOO_MANY)
    assert rounds(tlv(0x30, *[b"\x05\x00"] * 30_000)) == TOO_MANY


def rsa_key(bits: int) -> bytes:
    """PKCS#8 of the length that an RSA key of so many bits has; its numbers are no key's."""
    numbers = [bits // 8] * 2 + [bits // 16] * 5
    integers = b"".join(number(2, b"\x7f" * length) for length in numbers)
    inner = number(0x30, number(2, b"\0") + integers)
    return number(0x30, number(2, b"\0") + bytes.fromhex("300d06092a864886f70d0101010500") + number(4, inner))


def number(tag: int, content: bytes) -> bytes:
    return bytes([tag, 0x82]) + len(content).to_bytes(2, "big") + content


@pytest.mark.parametrize("bag", [1, 2])
@pytest.mark.parametrize(("bits", "refused"), [(8192, False), (16384, True)])
def test_a_key_that_would_take_minutes_is_refused_unread(bag: int, bits: int, refused: bool) -> None:
    der = rsa_key(bits)
    identifier = bytes.fromhex("060b2a864886f70d010c0a01") + bytes([bag])
    pfx = number(0x30, number(2, b"\3") + number(4, number(0x30, identifier + number(0xA0, der))))
    block = b"-----BEGIN PRIVATE KEY-----\r\n" + base64.encodebytes(der).replace(b"\n", b"\r\n")
    for value in (block + b"-----END PRIVATE KEY-----\r\n", base64.b64encode(pfx)):
        with pytest.raises(CannotMake) as caught:
            part(SecretValue(value), "key")
        assert (caught.value.hint == "the key has more than 8192 bits") is refused


@pytest.mark.parametrize("password", [b"", b"\xff"])
def test_a_password_that_no_pfx_can_have_is_told(password: bytes) -> None:
    value = WORLDS["ec"].value("pem", WORLDS["ec"].all)
    with pytest.raises(CannotMake, match="the password is empty or no UTF-8"):
        part(value, "pfx", password=SecretValue(password))


def test_a_template_has_the_parts() -> None:
    there = WORLDS["ec"]
    source = Source(there.value("pfx", there.all[::-1]), "0" * 32)
    made = Template("# {{ version('tls') }}\n{{ part('tls', 'fullchain') }}").render({"tls": source})
    assert made.reveal() == b"# " + b"0" * 32 + b"\n" + pem(there.leaf, there.lower, there.upper)
