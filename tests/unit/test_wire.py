"""Whatever the network sends becomes a model or BadAnswer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvaultfs.errors import BadAnswer
from keyvaultfs.keyvault import challenge, wire
from keyvaultfs.keyvault.origin import Origin
from keyvaultfs.model import NAME_PATTERN, SecretName

NAME = SecretName("pw")
ID = "https://v.vault.azure.net/secrets/pw/" + "a" * 32
GOOD: dict[str, Any] = {"value": "x", "id": ID, "attributes": {"enabled": True, "created": 1, "updated": 2}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_secret_or_a_bad_answer(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        wire.secret(body, NAME, None)
    wire.error(body)


@given(
    st.dictionaries(st.sampled_from(["value", "id", "attributes", "tags", "contentType", "managed"]), JSON)
)
def test_any_field_of_any_type_is_a_secret_or_a_bad_answer(changes: dict[str, Any]) -> None:
    body = json.dumps(GOOD | changes).encode()
    try:
        found = wire.secret(body, NAME, None)
    except BadAnswer as exc:
        cause = exc.cause
        assert cause.isalnum(), "a fixed word, and nothing that was sent"
    else:
        assert found.name == NAME
        assert (found.properties.updated or 0) <= 253_402_300_799
        assert all(value.encode() is not None for value in found.properties.tags.values())


@given(st.lists(st.text(max_size=40)))
def test_no_name_that_is_none_is_ever_listed(names: list[str]) -> None:
    rows = [{"id": f"https://v.vault.azure.net/secrets/{name}", "attributes": {}} for name in names]
    found, link = wire.items(json.dumps({"value": rows, "nextLink": None}).encode())
    assert link is None
    for item in found:
        assert NAME_PATTERN.fullmatch(item.name.spelling)
        assert item.name.spelling in names


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b'{"value":' * 50_000,
        b'{"value": ' + b"9" * 10_000 + b"}",
        json.dumps(GOOD | {"value": "\ud800"}).encode(),
        json.dumps(GOOD | {"id": ID[:-32] + "b" * 31}).encode(),
        json.dumps(GOOD | {"id": ID.replace("/pw/", "/other/")}).encode(),
        json.dumps(GOOD | {"attributes": {"created": 1e300}}).encode(),
        json.dumps(GOOD | {"attributes": {"created": True}}).encode(),
        b'{"value": NaN}',
        b"\xff\xfe",
    ],
    ids=range(10),
)
def test_what_is_odd_is_refused_and_not_quoted(body: bytes) -> None:
    with pytest.raises(BadAnswer) as caught:
        wire.secret(body, NAME, None)
    assert len(str(caught.value)) < 40


def test_null_pages_are_empty_ones() -> None:
    assert wire.items(b'{"value":null,"nextLink":null}') == ((), None)
    assert wire.items(b'{"value":[]}') == ((), None)


ORIGIN = Origin.parse("https://v.vault.azure.net")


@pytest.mark.parametrize(
    ("url", "ours"),
    [
        ("https://v.vault.azure.net/secrets", True),
        ("https://v.vault.azure.net:443/secrets?$skiptoken=x", True),
        ("https://V.vault.azure.net/secrets", True),
        ("https://v.vault.azure.net:444/secrets", False),
        ("http://v.vault.azure.net/secrets", False),
        ("https://v.vault.azure.net.evil.example/secrets", False),
        ("https://v.vault.azure.net@evil.example/secrets", False),
        ("https://evil.example\\@v.vault.azure.net/secrets", False),
        ("https://user@v.vault.azure.net/secrets", False),
        ("//v.vault.azure.net/secrets", False),
        ("https://v.vault.azure.net:x/secrets", False),
    ],
)
def test_a_url_is_the_vaults_own_or_it_is_not(url: str, *, ours: bool) -> None:
    assert ORIGIN.contains(url) is ours


@given(st.text())
def test_no_text_breaks_the_check_of_a_url(text: str) -> None:
    assert ORIGIN.contains(text) in {True, False}


@pytest.mark.parametrize(
    ("named", "accepted"),
    [
        ("https://vault.azure.net", True),
        ("https://VAULT.azure.net/", True),
        ("https://vault.azure.net:443", True),
        ("https://azure.net", True),
        ("https://v.vault.azure.net", False),
        ("https://evil.example", False),
        ("https://lt.azure.net", False),
        ("https://vault.azure.net:8443", False),
    ],
)
def test_a_challenge_for_a_foreign_domain_is_refused(named: str, *, accepted: bool) -> None:
    header = f'Bearer authorization="https://login.microsoftonline.com/x", resource="{named}"'
    if accepted:
        challenge.verify(header, ORIGIN)
        return
    with pytest.raises(BadAnswer):
        challenge.verify(header, ORIGIN)


@given(st.text())
def test_any_other_challenge_is_a_bad_answer(header: str) -> None:
    with pytest.raises(BadAnswer):
        challenge.verify(header, ORIGIN)
