"""Whatever the network sends becomes a model or BadAnswer."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvaultfs.errors import BadAnswer
from keyvaultfs.keyvault import challenge, wire
from keyvaultfs.keyvault.origin import Origin
from keyvaultfs.model import NAME_PATTERN, SecretName

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        b"\xef\xbb\xbf\xef\xbb\xbf" + json.dumps(GOOD).encode(),
        json.dumps(GOOD).encode().replace(b'"x"', b'"\xff"'),
        b'{"value": NaN}',
        b"\xff\xfe",
    ],
    ids=range(10),
)
def test_what_is_odd_is_refused_and_not_quoted(body: bytes) -> None:
    with pytest.raises(BadAnswer) as caught:
        wire.secret(body, NAME, None)
    assert len(str(caught.value)) < 40
    assert caught.value.hint, "status says in words what is wrong"


ODD: list[Any] = [
    None,
    True,
    -1,
    1e300,
    float("nan"),
    float("inf"),
    253402303861,
    10**5000,
    "1",
    [],
    {},
    "\ud800",
]
"""What optional fields were seen to hold, or may: the value and the name beside them are right all the same."""


@contextmanager
def numbers_of_any_length() -> Iterator[None]:
    """Lets the test itself write them."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(before)


def with_odd(field: str, odd: object) -> dict[str, Any]:
    attributes = GOOD["attributes"] | (
        {field: odd} if field in {"exp", "nbf", "created", "updated", "enabled"} else {}
    )
    return GOOD | {"attributes": attributes} | ({field: odd} if attributes == GOOD["attributes"] else {})


@pytest.mark.parametrize(
    "odd", ODD, ids=lambda odd: repr(odd)[:20] if not isinstance(odd, int) else "integer"
)
@pytest.mark.parametrize(
    "field",
    [
        "exp",
        "nbf",
        "created",
        "updated",
        "enabled",
        "attributes",
        "tags",
        "contentType",
        "managed",
        "kid",
        "new",
    ],
)
def test_an_odd_field_that_is_merely_shown_decides_over_no_answer_and_no_page(
    field: str, odd: object
) -> None:
    with numbers_of_any_length():
        body = json.dumps(with_odd(field, odd)).encode()
        page = json.dumps({"value": [with_odd(field, odd), GOOD | {"id": ID.replace("pw", "b")}]}).encode()
    found = wire.secret(body, NAME, None)
    assert found.value.reveal() == b"x"
    assert [item.name.key for item in wire.items(page)[0]] == ["pw", "b"]
    assert [item.version for item in wire.versions(page.replace(b"/b/", b"/pw/"), NAME)[0]] == ["a" * 32] * 2


def test_a_date_out_of_range_is_left_out_and_those_beside_it_are_not() -> None:
    found = wire.secret(json.dumps(with_odd("exp", 253402303861)).encode(), NAME, None).properties
    assert (found.expires, found.created, found.updated) == (None, 1, 2)


def test_an_odd_tag_takes_no_other_tag_along() -> None:
    tags: dict[str, Any] = {"a": 1, "b": "x" * 5000, "c": None} | {f"t{n}": "v" for n in range(100)}
    body = json.dumps(GOOD | {"tags": tags | {"file-encoding": "base64"}}).encode()
    found = wire.secret(body, NAME, None).properties.tags
    assert found["file-encoding"] == "base64"
    assert found["t0"] == "v"
    assert 60 < len(found) <= 65


@pytest.mark.parametrize("row", [None, 1, "x", [], {}, {"id": 5}, {"id": "https://v/secrets/no_name"}])
def test_an_odd_row_takes_no_other_row_along(row: object) -> None:
    page = json.dumps({"value": [row, GOOD, row]}).encode()
    assert [item.name.key for item in wire.items(page)[0]] == ["pw"]
    assert [item.version for item in wire.versions(page, NAME)[0]] == ["a" * 32]


@pytest.mark.parametrize("field", ["contentType", "tags"])
def test_bytes_that_are_no_text_spoil_only_the_field_that_has_them(field: str) -> None:
    field_value = {"contentType": "QQ", "tags": {"k": "QQ"}}[field]
    body = json.dumps(GOOD | {field: field_value}).encode().replace(b"QQ", b"\xff")
    found = wire.secret(body, NAME, None)
    assert found.value.reveal() == b"x"
    assert (found.properties.content_type or found.properties.tags["k"]) == "?"


def test_a_byte_order_mark_before_an_answer_is_none_of_it() -> None:
    mark = b"\xef\xbb\xbf"
    assert wire.secret(mark + json.dumps(GOOD).encode(), NAME, None).value.reveal() == b"x"
    assert len(wire.items(mark + json.dumps({"value": [GOOD]}).encode())[0]) == 1
    assert wire.error(mark + b'{"error":{"code":"SecretNotFound"}}') == wire.ErrorBody(
        "SecretNotFound", "", ""
    )


@pytest.mark.parametrize("form", ["HTTPS://V.Vault.Azure.Net/Secrets/PW/" + "A" * 32, ID + "/"])
def test_ids_are_compared_without_regard_to_case(form: str) -> None:
    assert wire.secret(json.dumps(GOOD | {"id": form}).encode(), NAME, None).version == "a" * 32


def test_null_pages_are_empty_ones() -> None:
    assert wire.items(b'{"value":null,"nextLink":null}') == ((), None)
    assert wire.items(b'{"value":[]}') == ((), None)


def test_an_answer_of_countless_pieces_is_none_but_a_value_or_tag_may_hold_what_it_likes() -> None:
    """What takes seconds to decode would hold up cached reads, too."""
    row = {"id": f"https://v.vault.azure.net/secrets/{NAME}"}
    for rows in ("{}," * 300_000 + "{}", "[[[[]]]]," * 100_000 + "[]", ",".join([json.dumps(row)] * 15_000)):
        body = f'{{"value":[{rows}],"nextLink":null}}'.encode()
        assert len(body) < 1 << 20
        with pytest.raises(BadAnswer):
            wire.items(body)
    odd = '{["\\' * 6400
    assert wire.secret(json.dumps(GOOD | {"value": odd}).encode(), NAME, None).value.reveal() == odd.encode()
    tags = {f"tag-{number}": odd[:512] for number in range(15)}
    page = {"value": [{"id": f"{row['id']}-{number}", "tags": tags} for number in range(25)]}
    assert len(wire.items(json.dumps(page).encode())[0]) == 25


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


OURS = 'Bearer authorization="https://login.windows.net/x", resource="https://vault.azure.net"'


@pytest.mark.parametrize(
    "header",
    [
        OURS,
        f"Negotiate, {OURS}",
        f"{OURS}, Negotiate",
        f"Negotiate YIIG+abc/def==, {OURS}",
        f"NTLM TlRMTVNTUAAC==,{OURS},Basic YWJj",
        f'Basic realm="a, Bearer resource=\\"https://evil.example\\"", charset="UTF-8", {OURS}',
        f'PoP authorization="https://login.windows.net/x", resource="https://evil.example", {OURS}',
        f'{OURS}, PoP authorization="https://login.windows.net/x", nonce="a,b"',
        f"Bearer, {OURS}",
        f"Bearer , ,{OURS}",
        f'Bearer realm="", error="invalid_token", {OURS}',
        OURS.replace("Bearer", "BEARER").replace("resource", "Resource"),
        OURS.replace(", ", " "),
        OURS.replace("=", " = "),
        'Bearer authorization=x,resource="https://vault.azure.net",error_description="a \\"b\\", c"',
        'Bearer authorization_uri="https://login.windows.net/x", scope="https://vault.azure.net/.default"',
        'Bearer realm="", error="insufficient_claims", claims="eyJhY2Nlc3NfdG9rZW4iOnt9fQ=="',
        f'{OURS}, error="insufficient_claims", claims="eyJhY2Nlc3NfdG9rZW4iOnt9fQ=="',
        f'=;"", Digest username=", {OURS}',
    ],
)
def test_the_bearer_challenge_is_found_among_others_in_any_order(header: str) -> None:
    """RFC 9110 §11.6.1."""
    found = challenge.verify(header, ORIGIN)
    assert found.wants_another_token == ("claims" in header)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Negotiate",
        OURS.replace("Bearer", "PoP"),
        OURS.replace("vault.azure.net", "evil.example"),
        OURS.replace("vault.azure.net", "evil.example") + ', error="insufficient_claims", claims="x"',
        f"Basic realm={json.dumps(OURS)}",
        "Bearer",
        'Bearer resource=""',
    ],
)
def test_what_stands_in_another_challenge_is_no_challenge_of_ours(header: str) -> None:
    with pytest.raises(BadAnswer):
        challenge.verify(header, ORIGIN)


@pytest.mark.parametrize("piece", ['a="', "a=", 'a="\\', "a ", "a,", "=", '"', 'a="b" ', "Bearer a==", "\\"])
def test_the_longest_header_is_read_at_once(piece: str) -> None:
    """A pattern that tried again and again would take minutes: the test's own time limit would end it."""
    with pytest.raises(BadAnswer):
        challenge.verify(piece * (65536 // len(piece)), ORIGIN)
