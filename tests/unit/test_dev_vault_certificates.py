"""Secrets of the embedded vault that are certificates, as OpenSSL reads them."""

from __future__ import annotations

import base64
import re
import subprocess
from itertools import cycle
from typing import TYPE_CHECKING, Any

import pytest

from keyvaultfs_devvault import chains, seed
from keyvaultfs_devvault.certificates import Authority
from keyvaultfs_devvault.chains import ChainError, Wish
from keyvaultfs_devvault.state import State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENDS = re.compile(r"(-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n)", re.DOTALL)
KEY = re.compile(r"-----BEGIN PRIVATE KEY-----.*?-----END PRIVATE KEY-----\n", re.DOTALL)


def openssl(*words: str, stdin: str | bytes = "") -> str:
    raw = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(["openssl", *words], input=raw, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def as_pem(entry: dict[str, Any]) -> str:
    """Keys and certificates in the order of the secret."""
    if entry["content_type"] == "application/x-pem-file":
        return str(entry["value"])
    return openssl("pkcs12", "-passin", "pass:", "-nodes", stdin=base64.b64decode(entry["value"]))


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    """An authority whose RSA keys come again after four, as many as a chain has: one takes a tenth of a second."""
    make, made = chains._key, cycle([chains._key("rsa") for _ in range(4)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chains, "_key", lambda kind: next(made) if kind == "rsa" else make(kind))
        yield Authority()


@pytest.mark.parametrize("order", ["leaf-first", "root-first", "shuffled"])
@pytest.mark.parametrize("key", ["rsa", "ec"])
@pytest.mark.parametrize("form", ["pem", "pkcs12"])
def test_a_chain_verifies_and_its_leaf_is_the_keys(
    authority: Authority, tmp_path: Path, form: str, key: str, order: str
) -> None:
    wish = Wish.parse({"format": form, "key": key, "intermediates": 2, "order": order})
    entry = authority.secret("Web", wish)
    text = as_pem(entry)
    certificates = ENDS.findall(text)
    subjects = [
        openssl("x509", "-noout", "-subject", "-nameopt", "RFC2253", stdin=one) for one in certificates
    ]
    assert len(certificates) == 4
    if form == "pem" and order != "shuffled":
        place = 0 if order == "leaf-first" else 3
        assert "subject=CN=web.example.com\n" in subjects[place]
    (leaf,) = (certificates[i] for i in range(4) if "subject=CN=web.example.com\n" in subjects[i])
    (secret_key,) = KEY.findall(text)
    assert openssl("pkey", "-pubout", stdin=secret_key) == openssl("x509", "-pubkey", "-noout", stdin=leaf)
    authority.write(tmp_path / "ca.pem")
    (tmp_path / "rest.pem").write_text("".join(certificates))
    files = ["-CAfile", str(tmp_path / "ca.pem"), "-untrusted", str(tmp_path / "rest.pem")]
    openssl("verify", "-x509_strict", *files, stdin=leaf)
    dates = openssl("x509", "-noout", "-checkend", "0", stdin=leaf)
    assert "will not expire" in dates
    assert entry["managed"] is True
    assert entry["nbf"] < entry["exp"]


@pytest.mark.parametrize("form", ["pem", "pkcs12"])
@pytest.mark.parametrize("order", ["leaf-first", "shuffled"])
def test_a_key_may_stay_in_the_vault(authority: Authority, form: str, order: str) -> None:
    wish = Wish.parse({"format": form, "order": order, "intermediates": 1, "private_key": False})
    text = as_pem(authority.secret("web", wish))
    assert "PRIVATE KEY" not in text
    assert len(ENDS.findall(text)) == 3


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("der", 'certificate: format is "pem" or "pkcs12"'),
        (7, 'certificate is "pem", "pkcs12", or a table'),
        ({"key": "dsa"}, 'certificate: key is "rsa" or "ec"'),
        ({"private_key": 1}, "certificate: private_key is true or false"),
        ({"intermediates": 99}, "certificate: intermediates is 0 or 1"),
        ({"intermediates": True}, "certificate: intermediates is 0 or 1"),
        ({"bits": 1}, "certificate: unknown bits; known: format, key, order, intermediates, private_key"),
    ],
)
def test_a_certificate_that_cannot_be_is_told(raw: object, words: str) -> None:
    with pytest.raises(ChainError, match=re.escape(words)):
        Wish.parse(raw)


def test_a_seed_file_has_certificates(authority: Authority, tmp_path: Path) -> None:
    file = tmp_path / "seed.toml"
    file.write_text(
        '[secrets]\npem = {certificate = "pem", tags = {a = "b"}}\n'
        '[secrets.pfx]\ncertificate = {format = "pkcs12", key = "ec", intermediates = 1}\n'
    )
    store = State().store
    assert seed.load(store, file, authority) == 2
    (pem, _), (pfx, _) = store.get("pem"), store.get("pfx")
    assert (pem.now.managed, pem.now.content_type, pem.now.tags) == (
        True,
        "application/x-pem-file",
        {"a": "b"},
    )
    assert (pfx.now.managed, pfx.now.content_type) == (True, "application/x-pkcs12")
    file.write_text('[secrets]\nbad = {certificate = "der"}\n')
    with pytest.raises(seed.SeedError, match=r"seed.toml: bad: certificate: format is"):
        seed.load(store, file, authority)
