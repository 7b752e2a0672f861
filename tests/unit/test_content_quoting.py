"""Whatever text a secret has, its reader gets it back to the letter, or there is no file."""

from __future__ import annotations

import json
import netrc
import tomllib
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keyvaultfs.content import formats, quoting
from keyvaultfs.errors import CannotMake
from keyvaultfs.model import SecretValue
from tests.support.readers_of_files import (
    Curl,
    Java,
    Libpq,
    Systemd,
    file_of,
    mysql_option,
    shell_variables,
    shell_words,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ODD = "\0\a\b\t\n\v\f\r\x1b\x7f\x85\xa0 !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~n0"
ODD += "\u2028\u2029\ufeff\ufffe\uffff\ufdd0ä€\U0001f511"
LETTERS = st.one_of(st.sampled_from(ODD), st.characters(exclude_categories=["Cs"]))
TEXTS = st.one_of(
    st.text(st.sampled_from(ODD), max_size=12),
    st.text(LETTERS, max_size=40),
    st.sampled_from(["", " ", "\\", "*", "#"]),
)
KEYS = st.text(st.sampled_from("ab_ :=#!\\\t\n\rä€\U0001f511"), min_size=1, max_size=6)


def quoted(how: Callable[[str], str], text: str) -> str | None:
    """The quoted text, or None where there is none; and then the reason quotes nothing."""
    try:
        return how(text)
    except CannotMake as exc:
        reason = str(exc)
    assert len(text) < 8 or text not in reason
    return None


# --- filters -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def libpq() -> Libpq:
    return Libpq()


@given(text=TEXTS)
@example(text="a:b\\c")
@example(text="\\")
@example(text="#x")
def test_libpq_reads_a_password_of_pgpass(libpq: Libpq, text: str) -> None:
    field = quoted(quoting.pgpass, text)
    assert (field is None) == any(letter in text for letter in "\n\r\0")
    if field is not None and text:
        assert libpq.password(f"*:5432:*:app:{field}\n") == text.encode()


@given(user=st.sampled_from(["*", "#x", "a:b", "a\\b", "a"]), text=st.just("p"))
def test_libpq_reads_any_other_field_of_pgpass_to_the_letter(libpq: Libpq, user: str, text: str) -> None:
    line = f"*:*:*:{quoting.pgpass(user)}:{text}\n"
    assert libpq.password(line, user="other") == b""
    escaped = user.replace("\\", "\\\\")
    assert libpq.password(line, user=f"'{escaped}'") == b"p"


@settings(max_examples=150)
@given(text=TEXTS)
@example(text="#'\" \\n")
@example(text="\\")
@example(text='"')
@example(text="x" * 3_990)
@example(text="x" * 5_000)
def test_mysqls_clients_read_an_option(text: str) -> None:
    value = quoted(quoting.mycnf, text)
    assert (value is None) == ("\0" in text or len(text) > 3_998)
    if value is not None:
        assert mysql_option(f"[client]\npassword = {value}\n", "client", "password") == text.encode()


@pytest.fixture(scope="module")
def curl() -> Iterator[Curl]:
    with Curl() as started:
        yield started


@settings(max_examples=150)
@given(text=TEXTS)
@example(text="#x")
@example(text='a"b')
@example(text="a\\b c")
@example(text="default")
@example(text="!\x80")  # curl 8.14 ends an unquoted word there
def test_python_and_curl_read_a_word_of_netrc(curl: Curl, text: str) -> None:
    word = quoted(quoting.netrc, text)
    assert (word is None) == (not text or any((ord(c) < 32 and c != "\t") or c == "\x7f" for c in text))
    if word is None:
        return
    line = f"machine 127.0.0.1 login app password {word}\n"
    with file_of(line) as file:
        assert netrc.netrc(str(file)).authenticators("127.0.0.1") == ("app", "", text)
    assert curl.login(line) == b"app:" + text.encode()


@pytest.mark.parametrize("shell", ["dash", "bash"])
@given(texts=st.lists(TEXTS, min_size=1, max_size=20))
@settings(max_examples=50)
def test_a_shell_reads_its_words(shell: str, texts: list[str]) -> None:
    words = [(text, quoted(quoting.sh, text)) for text in texts]
    assert all((word is None) == ("\0" in text) for text, word in words)
    line = " ".join(word for _, word in words if word is not None)
    if line:
        assert shell_words(line, shell) == [text.encode() for text, word in words if word is not None]


@pytest.fixture(scope="module")
def systemd() -> Systemd:
    return Systemd()


@given(texts=st.lists(TEXTS, min_size=1, max_size=20))
@example(texts=["a\\\nb", "$HOME `id` \\", "'\"", "a\r\nb", " lead", "trail ", "#", ";"])
@settings(max_examples=100)
def test_shells_and_systemd_read_the_same_env(systemd: Systemd, texts: list[str]) -> None:
    held = [text for text in texts if quoted(quoting.env, text) is not None]
    assert {
        "\0" in text or not set(text).isdisjoint("\ufdd0\ufffe\uffff") for text in set(texts) - set(held)
    } <= {True}
    names = [f"V{number}" for number in range(len(held))]
    if not names:
        return
    values = {name: SecretValue(text.encode()) for name, text in zip(names, held, strict=True)}
    file = formats.make("env", values).reveal().decode()
    wanted = [text.encode() for text in held]
    assert shell_variables(file, names, "dash") == wanted
    assert shell_variables(file, names, "bash") == wanted
    assert systemd.environment(file) == [
        f"{name}={text}".encode() for name, text in zip(names, held, strict=True)
    ]


@pytest.fixture(scope="module")
def java() -> Iterator[Java]:
    with Java() as started:
        yield started


@given(pairs=st.dictionaries(KEYS, TEXTS, min_size=1, max_size=10))
@example(pairs={" a b": " x ", "#": "#!", "a": "\\", "b": "\U0001f511\0\x7f\x80"})
def test_java_reads_properties(java: Java, pairs: dict[str, str]) -> None:
    values = {key: SecretValue(text.encode()) for key, text in pairs.items()}
    file = formats.make("properties", values).reveal()
    assert file.isascii()
    assert java.properties(file.decode()) == pairs
    by_filter = "".join(f"k{n} = {quoting.properties(text)}\n" for n, text in enumerate(pairs.values()))
    assert sorted(java.properties(by_filter).values()) == sorted(pairs.values())


@given(text=TEXTS)
def test_a_string_of_toml_is_read(text: str) -> None:
    assert tomllib.loads(f"k = {quoting.toml(text)}\nafter = 1\n") == {"k": text, "after": 1}


@given(text=TEXTS)
@example(text="a\r\nb\tc]]>&lt;'\"")
def test_a_text_and_an_attribute_of_xml_are_read(text: str) -> None:
    inside = quoted(quoting.xml, text)
    bad = any((ord(c) < 32 and c not in "\t\n\r") or c in "\ufffe\uffff" for c in text)
    assert (inside is None) == bad
    if inside is not None:
        for mark in "'\"":
            tree = ET.fromstring(f"<a b={mark}{inside}{mark}>{inside}</a>")
            assert (tree.text or "", tree.attrib["b"]) == (text, text)


# --- formats -----------------------------------------------------------------------------------------------


@given(pairs=st.dictionaries(st.text(LETTERS, max_size=8), TEXTS, min_size=1, max_size=6))
@example(pairs={"no": "no", "1": "1_000", "d": "2024-01-01", "~": "null", "": "\x85\u2028\ufeff"})
def test_json_and_yaml_are_read_as_texts(pairs: dict[str, str]) -> None:
    values = {key: SecretValue(text.encode()) for key, text in pairs.items()}
    assert json.loads(formats.make("json", values).reveal()) == pairs
    assert yaml.safe_load(formats.make("yaml", values).reveal().decode()) == pairs


@pytest.mark.parametrize("form", list(formats.FORMATS))
def test_bytes_that_are_no_text_make_no_file(form: str) -> None:
    with pytest.raises(CannotMake, match="no text in UTF-8"):
        formats.make(form, {"a": SecretValue(b"\xff\xfe")})
