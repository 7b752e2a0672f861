"""The option table, by `-o` and by file."""

from __future__ import annotations

import argparse
import json
import tomllib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvaultfs.cli import arguments
from keyvaultfs.cli.launch import launch
from keyvaultfs.cli.main import COMMANDS
from keyvaultfs.errors import UsageError
from keyvaultfs.settings import file, options
from keyvaultfs.settings.toml_lines import TomlLines, TomlPath

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WORDS = st.text(
    st.characters(codec="ascii", exclude_characters="\x7f", min_codepoint=33), min_size=1, max_size=20
)


def quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace(",", "\\,").replace('"', '\\"')


@given(client_id=WORDS, ttl=st.integers(1, 10**6), mode=st.integers(0, 0o777), decode=st.booleans())
def test_options_survive_the_way_through_a_string(
    client_id: str, ttl: int, mode: int, *, decode: bool
) -> None:
    text = f"client-id={quoted(client_id)},ttl={ttl},mode={mode:04o},decode={'yes' if decode else 'no'}"
    found = options.settings(options.parse([text]).own)
    assert (found.client_id, found.ttl, found.mode, found.decode) == (client_id, float(ttl), mode, decode)


@given(st.lists(st.text(max_size=30)))
def test_any_text_is_options_or_a_mistake(texts: list[str]) -> None:
    try:
        options.parse(texts)
    except UsageError as exc:
        assert str(exc)  # noqa: PT017 - either is right


def test_generic_options_of_fstab_are_accepted_and_contexts_passed_on() -> None:
    text = "_netdev,nofail,noauto,user,defaults,ro,x-systemd.automount,ttl=2m"
    text += ',context="system_u:object_r:tmp_t:s0:c1,c2"'
    found = options.parse([text])
    assert found.own == {"ttl": "2m"}
    assert found.generic == ("context=system_u:object_r:tmp_t:s0:c1,c2",)
    assert found.notes == ()
    assert options.settings(found.own).ttl == 120


def test_rw_mounts_read_only_with_a_note() -> None:
    assert "read-only" in options.parse(["rw"]).notes[0]


@pytest.mark.parametrize(
    ("wrong", "near"), [("tll=3", "ttl"), ("max-stal=3", "max_stale"), ("nofial", "nofail")]
)
def test_an_unknown_option_names_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{near}'"):
        options.parse([wrong])


def test_a_value_is_split_at_the_first_equals_sign() -> None:
    assert options.parse(["client_id=a=b"]).own == {"client_id": "a=b"}


def test_a_file_says_the_same_as_a_string(tmp_path: Path) -> None:
    written = tmp_path / "kv.toml"
    written.write_text(
        'vault = "v-1"\nttl = 90\nmode = "0440"\ndecode = true\ninclude = ["pg-*", "app-?"]\nmax_cache = "1M"\n'
    )
    found = file.load(str(written))
    by_string = options.parse(["ttl=90,mode=0440,decode,include=pg-*:app-?,max_cache=1M"])
    assert options.settings(found.options) == options.settings(by_string.own)


@given(st.binary(max_size=200))
def test_any_file_is_a_configuration_or_mistakes(body: bytes) -> None:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "kv.toml"
        written.write_bytes(body)
        try:
            file.load(str(written))
        except UsageError as exc:
            assert str(written) in str(exc)  # noqa: PT017 - either is right


def test_every_option_has_a_line_of_help_and_a_default_that_its_own_parser_could_have_made() -> None:
    for option in options.OPTIONS:
        assert option.help
        assert getattr(options.Settings(), option.name) == option.default


def test_a_default_is_shown_as_it_can_be_written() -> None:
    for option in options.OPTIONS:
        if option.default is not None and option.default != ():
            assert option.kind.parse(option.kind.show(option.default)) == option.default


NUMBERS = [
    ("uid", "99999999999", "at most 4294967294"),
    ("uid", "4294967295", "at most 4294967294"),
    ("gid", "4294967295", "at most 4294967294"),
    ("gid", "9" * 5000, "at most 4294967294"),
    ("uid", "٣", "a user of this machine"),
    ("timeout", "999999999999", "at most 1 day"),
    ("timeout", "0", "at least 1 second"),
    ("ttl", "0.5", "at least 1 second"),
    ("ttl", "999999999999", "at most 3650 days"),
    ("list_ttl", "4000d", "at most 3650 days"),
    ("negative_ttl", "999999999999d", "at most 3650 days"),
    ("max_stale", "3651d", "at most 3650 days"),
    ("max_cache", "999999999999G", "at most 1T"),
    ("max_requests", "257", "from 1 to 256"),
    ("max_requests", "0", "from 1 to 256"),
    ("mode", "7777", "three octal digits"),
    ("dir_mode", "-755", "three octal digits"),
]


@pytest.mark.parametrize(("name", "value", "words"), NUMBERS)
def test_each_number_has_a_range(name: str, value: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"option {name}=.*{words}"):
        options.parse([f"{name}={value}"])
    written = tmp_path / "kv.toml"
    written.write_text(f'vault = "v-1"\n{name} = "{value}"\n')
    with pytest.raises(UsageError, match=f":2: option {name}=.*{words}"):
        file.load(str(written))


def test_every_number_of_the_table_has_a_range() -> None:
    """Whatever its kind: a number of fifteen digits is in none."""
    for option in options.OPTIONS:
        if option.unit in {"SECONDS", "SIZE", "NUMBER", "OCTAL", "USER", "GROUP"}:
            with pytest.raises(UsageError):
                options.value_of(option, "9" * 15)


@pytest.mark.parametrize("value", ["inf", "nan", "1e300", "-1", "9" * 400, "1979-05-27", "[1]", "{ a = 1 }"])
def test_an_odd_value_in_a_file_is_a_mistake(value: str, tmp_path: Path) -> None:
    written = tmp_path / "kv.toml"
    for name in ("ttl", "uid", "max_cache", "max_requests", "mode", "tags", "strict"):
        written.write_text(f"{name} = {value}\n")
        with pytest.raises(UsageError, match=r"kv.toml:1: "):
            file.load(str(written))


@pytest.mark.parametrize(
    "text", ["ttl = " + "9" * 5000, "x = " + "[" * 9000 + "]" * 9000, "ttl = 1\nttl = 2"]
)
def test_a_file_that_the_parser_gives_up_is_one_sentence(text: str, tmp_path: Path) -> None:
    written = tmp_path / "kv.toml"
    written.write_text(text)
    with pytest.raises(UsageError, match=r"kv\.toml"):
        file.load(str(written))


# --- a proxy's password -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "https_proxy=http://me:p4ss@proxy:3128",
        "https-proxy=http://me:p4ss@proxy:0",
        "https_proxy=me:p4ss@proxy",
        "https_proxy=http://me:p4s@s@proxy",
    ],
)
def test_a_password_on_a_command_line_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError, match="https_proxy=@FILE") as raised:
        options.parse([text])
    assert "p4s" not in str(raised.value)


def test_a_proxys_url_comes_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proxy").write_text("http://me:p4ss@proxy:3128\n")
    monkeypatch.chdir(tmp_path)
    own = options.parse(["https_proxy=@proxy"]).own
    assert own == {"https_proxy": f"@{tmp_path}/proxy"}
    found = options.settings(own)
    assert found.https_proxy == "http://me:p4ss@proxy:3128"
    assert "p4ss" not in repr(found)
    (tmp_path / "kv.toml").write_text('https_proxy = "@proxy"\n')
    assert options.settings(file.load(str(tmp_path / "kv.toml")).options) == found


def test_a_file_may_have_the_password_itself_and_no_message_does(tmp_path: Path) -> None:
    written = tmp_path / "kv.toml"
    written.write_text('https_proxy = "http://me:p4ss@proxy"\n')
    assert options.settings(file.load(str(written)).options).https_proxy == "http://me:p4ss@proxy"
    for wrong in ("ftp://me:p4ss@proxy", "http://me:p4ss@proxy:99999", "me:p4ss@proxy", "http://me:p4ss@"):
        written.write_text(f'https_proxy = "{wrong}"\n')
        with pytest.raises(UsageError, match=":1: option https_proxy=…@") as raised:
            file.load(str(written))
        assert "p4ss" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "mode", "told"),
    [
        ("http://me:p4ss@proxy", 0o644, True),
        ("http://me:p4ss@proxy", 0o640, False),
        ("http://proxy", 0o644, False),
    ],
)
@pytest.mark.parametrize("inline", [False, True])
def test_a_password_in_a_file_that_others_may_read_is_told(
    url: str, mode: int, told: bool, inline: bool, tmp_path: Path
) -> None:
    (tmp_path / "proxy").write_text(f"{url}\n")
    (tmp_path / "kv.toml").write_text(f'https_proxy = "{url if inline else "@proxy"}"\n')
    for path in (tmp_path / "proxy", tmp_path / "kv.toml"):
        path.chmod(mode)
    has_it = tmp_path / ("kv.toml" if inline else "proxy")
    for option in (f"config={tmp_path}/kv.toml", f"https_proxy=@{has_it}"):
        if inline and option.startswith("https_proxy"):
            continue
        _, notes = launch("myvault", "/mnt", [option], foreground=False, debug=False)
        assert [str(has_it) in note for note in notes] == ([True] if told else [])
        assert "p4ss" not in str(notes)


@pytest.mark.parametrize("text", ["@http://me:p4ss@proxy:3128", "@me:p4ss@proxy", "@./me:p4s@s@proxy"])
def test_a_url_where_a_files_name_should_be_is_not_repeated(text: str) -> None:
    with pytest.raises(UsageError, match=r"https_proxy=…@proxy.* none of this name") as raised:
        options.parse([f"https_proxy={text}"])
    assert "p4s" not in str(raised.value)


@pytest.mark.parametrize("name", ["ttl", "max_cache", "max_requests", "uid", "mode", "run_as", "ca_file"])
@pytest.mark.parametrize("value", ["1\n2", "9" * 5000, "x\r\x1b[2J", "5\u2028x"])
def test_a_message_about_any_value_is_one_line_that_can_be_read(name: str, value: str) -> None:
    with pytest.raises(UsageError) as raised:
        options.parse([f"{name}={value}"])
    told = str(raised.value)
    assert told.isprintable()
    assert len(told) < 400
    with pytest.raises(UsageError) as raised:
        options.parse([value])
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"p4ss",
        b"\xffp4ss",
        b"http://a\nhttp://p4ss",
        b"p4ss" * 2000,
        b"http://me:p4ss@proxy/" + b"a" * 5000,
    ],
)
def test_a_proxy_file_that_has_no_url_is_a_sentence(body: bytes, tmp_path: Path) -> None:
    (tmp_path / "proxy").write_bytes(body)
    with pytest.raises(UsageError, match="one line, the proxy's URL") as raised:
        options.parse([f"https_proxy=@{tmp_path}/proxy"])
    assert "p4ss" not in str(raised.value)
    with pytest.raises(UsageError, match="none of this name"):
        options.parse([f"https_proxy=@{tmp_path}"])


@pytest.mark.parametrize("name", ["imds_endpoint", "resource"])
def test_no_other_url_has_a_password(name: str) -> None:
    with pytest.raises(UsageError, match=f"option {name}=…@host") as raised:
        options.parse([f"{name}=http://me:p4ss@host"])
    assert "p4ss" not in str(raised.value)


# --- others ---------------------------------------------------------------------------------------------------


def test_tags_add_up_and_other_options_override(tmp_path: Path) -> None:
    own = options.parse(["tags=env=prod,ttl=5", "tags=team=a=b,ttl=6"]).own
    found = options.settings(own)
    assert (found.tags, found.ttl) == ((("env", "prod"), ("team", "a=b")), 6.0)
    written = tmp_path / "kv.toml"
    written.write_text('tags = ["env=prod", "team=a=b"]\nttl = 6\nannounce = false\n')
    by_file = options.settings(file.load(str(written)).options)
    assert (by_file.tags, by_file.ttl, by_file.announce) == (found.tags, 6.0, "no")
    with pytest.raises(UsageError, match="KEY=VALUE"):
        options.parse(["tags=prod"])


def test_names_of_files_are_relative_to_who_wrote_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/ca.pem").touch()
    (tmp_path / "etc/kv.toml").write_text('ca_file = "ca.pem"\naudit = "audit.log"\n')
    found = file.load(str(tmp_path / "etc/kv.toml")).options
    assert found == {"ca_file": f"{tmp_path}/etc/ca.pem", "audit": f"{tmp_path}/etc/audit.log"}
    monkeypatch.chdir(tmp_path / "etc")
    assert options.parse(["ca_file=ca.pem,audit=audit.log"]).own == found
    assert options.parse(["audit=journal"]).own == {"audit": "journal"}


# --- where things stand in a file -----------------------------------------------------------------------------

PIECES = [
    *(
        "a",
        '"b c"',
        "'d.e'",
        '"f\\"g"',
        ".",
        " = ",
        "=",
        "1",
        "true",
        '"x # y"',
        "'z'",
        '"""m\nn"""',
        "[",
        "]",
    ),
    *(
        "[[",
        "]]",
        "{",
        "}",
        ",",
        "\n",
        "\r\n",
        "# c\n",
        " ",
        "1979-05-27 07:32:00",
        "'''q\n''''",
        "0.5",
        "inf",
    ),
    '"""r\\"""\n"""',
]


def every_path(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from every_path(item, (*path, key))


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_whatever_the_parser_accepts_has_its_places(text: str) -> None:
    try:
        data = tomllib.loads(text)
    except ValueError:
        return
    toml_lines = TomlLines(text)
    assert [path for path in every_path(data) if path not in toml_lines] == []


KEYS = st.text(st.characters(codec="utf-8"), max_size=6) | st.sampled_from(["a", "b", "c-d"])
VALUES = st.recursive(
    st.integers(-9, 9) | st.booleans() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[\n # one\n" + ",\n".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


@settings(max_examples=60)
@given(st.dictionaries(KEYS, st.lists(st.dictionaries(KEYS, VALUES, max_size=3), max_size=3), max_size=4))
def test_each_table_and_key_has_its_line(tables: dict[str, list[dict[str, object]]]) -> None:
    text = ""
    wanted: dict[TomlPath, int] = {}
    for name, rows in tables.items():
        for position, row in enumerate(rows):
            wanted[name, position] = text.count("\n") + 2
            text += f"# a comment\n [[ {toml(name)} ]] # another\n"
            for key, value in row.items():
                wanted[name, position, key] = text.count("\n") + 1
                text += f"{toml(key)} = {toml(value)}\n"
    toml_lines = TomlLines(text)
    assert {path: toml_lines.line(path) for path in wanted} == wanted
    assert tomllib.loads(text) == {name: rows for name, rows in tables.items() if rows}


def test_each_command_of_the_command_line_is_run_by_a_function() -> None:
    (found,) = [one for one in arguments.parser()._actions if isinstance(one, argparse._SubParsersAction)]
    assert sorted(found.choices) == sorted(COMMANDS)
