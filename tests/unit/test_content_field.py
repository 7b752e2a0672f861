"""A field of a JSON value, as its document has it."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keyvaultfs.content.decode import Decoding, decode, render
from keyvaultfs.content.ending import newline
from keyvaultfs.content.field import field, parse
from keyvaultfs.errors import CannotMake
from keyvaultfs.model import SecretValue

SECRET = "s3cr3t-value"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def get(document: str | bytes, path: str) -> str:
    raw = document.encode() if isinstance(document, str) else document
    return field(SecretValue(raw), parse(path)).reveal().decode()


@pytest.mark.parametrize(
    ("document", "path", "text"),
    [
        ('{"user": "app", "password": "…"}', "user", "app"),
        ('{"hosts": ["a", "b"]}', "/hosts/1", "b"),
        ('{"a/b": {"m~n": {"": 1}}}', "/a~1b/m~0n/", "1"),
        ('{"~1": "x"}', "/~01", "x"),
        ('{"/x": "y"}', "/~1x", "y"),
        ('{"n": 1.50}', "n", "1.50"),
        ('{"n": 12345678901234567890.125E+400}', "n", "12345678901234567890.125E+400"),
        ('{"n": ' + "9" * 5_000 + "}", "n", "9" * 5_000),
        ('{"t": true, "f": false}', "t", "true"),
        ('{"o": { "a" : [ 1.0, "ä\\n", null ] } }', "o", '{"a":[1.0,"ä\\n",null]}'),
        ('{"o": {}, "l": [ ]}', "l", "[]"),
        ('{"o": ["\\ud800"]}', "o", '["\\ud800"]'),
        ('{"s": ""}', "s", ""),
        ('{"s": "1\\n2\\n"}', "s", "1\n2\n"),
        ('{"0": "key"}', "/0", "key"),
        ("[[1, 2]]", "/0/1", "2"),
        ('\ufeff{"a": "b"}', "a", "b"),
    ],
)
def test_a_field_is_what_json_says(document: str, path: str, text: str) -> None:
    assert get(document, path) == text


@pytest.mark.parametrize(
    ("document", "path", "words"),
    [
        (SECRET, "a", "the value is no JSON"),
        (b'{"a": "\xff"}', "a", "the value is no JSON"),
        (f'{{"a": NaN, "b": "{SECRET}"}}', "a", "the value is no JSON"),
        ("[" * 100_000, "a", "the value is no JSON"),
        (f'{{"a": "{SECRET}"}}', "b", "the value has no such field"),
        (f'{{"a": "{SECRET}"}}', "/a/b", "the value has no such field"),
        (f'["{SECRET}"]', "/1", "the value has no such field"),
        (f'["{SECRET}"]', "/00", "the value has no such field"),
        (f'["{SECRET}"]', "/-1", "the value has no such field"),
        (f'["{SECRET}"]', "/-", "the value has no such field"),
        (f'["{SECRET}"]', "/99999999999999999999", "the value has no such field"),
        (f'"{SECRET}"', "a", "the value has no such field"),
        ('{"a": null}', "a", "the field is null"),
        (f'{{"a": "{SECRET}\\ud800"}}', "a", "half a surrogate pair"),
    ],
)
def test_what_is_no_field_says_why_and_quotes_nothing(document: str | bytes, path: str, words: str) -> None:
    with pytest.raises(CannotMake, match=words) as caught:
        get(document, path)
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("text", ["", "/a~", "/~2", "/a~b"])
def test_a_pointer_that_is_none_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape("~") if text else "has a name"):
        parse(text)


@settings(max_examples=50)
@given(document=st.dictionaries(st.text(), JSON, min_size=1), data=st.data())
def test_any_field_is_found_by_its_pointer_and_means_the_same(
    document: dict[str, object], data: st.DataObject
) -> None:
    key = data.draw(st.sampled_from(sorted(document)))
    pointer = "/" + key.replace("~", "~0").replace("/", "~1")
    wanted = document[key]
    if wanted is None:
        return
    found = get(json.dumps(document), pointer)
    assert (found if isinstance(wanted, str) else json.loads(found)) == wanted


@given(raw=st.binary(max_size=60))
@example(raw=b"")
@example(raw=b"a\n\n")
def test_newline_ends_a_file_once(raw: bytes) -> None:
    made = newline(SecretValue(raw)).reveal()
    assert made == (raw if raw.endswith(b"\n") else raw + b"\n")
    assert newline(SecretValue(made)).reveal() == made


@pytest.mark.parametrize(
    ("how", "raw", "made"),
    [
        (Decoding.BASE64, b"aGkK\n", b"hi\n"),
        (Decoding.BASE64, b"aG\nkK", b"hi\n"),
        (Decoding.HEX, b"68 690A\n", b"hi\n"),
        (Decoding.RAW, b"aGkK\n", b"aGkK\n"),
    ],
)
def test_what_is_encoded_is_decoded(how: Decoding, raw: bytes, made: bytes) -> None:
    assert decode(SecretValue(raw), how).reveal() == made


@pytest.mark.parametrize("how", [Decoding.BASE64, Decoding.HEX])
def test_what_is_not_encoded_cannot_be_made_or_is_served_raw(how: Decoding) -> None:
    value = SecretValue(SECRET.encode() + b"\xff")
    with pytest.raises(CannotMake, match=f"the value is no {how.value}") as caught:
        decode(value, how)
    assert caught.value.__context__ is None
    assert render(value, how) == (value.reveal(), False)
