"""What a TOML file says of a mount's tree, and how its mistakes are told."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvaultfs.errors import UsageError
from keyvaultfs.files import names
from keyvaultfs.files.recipes import Formatted, OneSecret, Rendered
from keyvaultfs.files.tree import Directory, File
from keyvaultfs.model import SecretName
from keyvaultfs.settings import file, layout

if TYPE_CHECKING:
    from keyvaultfs.files.tree import Tree

PAGE = """
vault = "mytestkeyvault"
only_files = true

[[rules]]
match = ["postgres", "postgres/**"]
owner = "nobody"
mode = "0600"
dir_mode = "0750"
units = ["postgresql@*.service"]

[[rules]]
match = "**/*.crt"
mode = "0644"

[[map]]
secrets = "pg--*"
files = "postgres/*.conf"

[files."postgres/server.key"]
secret = "pg-tls"
part = "key"

[files."postgres/server.crt"]
secret = "pg-tls"
part = "fullchain"
owner = 7

[files."app/db-user"]
secret = "db"
field = "/hosts/0"

[files."app/old"]
secret = "db"
previous = 2
[files."app/pin"]
secret = "db"
version = "7c2204c6093c4d859bc5b9eff8f29050"

[files."app/.pgpass"]
template = "{{ secret('db') }}{{ secret('pg-tls') }}"

[files."app/.env"]
format = "env"
values = { DB_PASSWORD = "pg", DB_USER = { secret = "db", field = "user" }, AGAIN = "pg" }

[files."keystore.p12"]
secret = "web-tls"
part = "pfx"
password = "keystore-password"
"""


def read(tmp_path: Path, text: str) -> Tree:
    written = tmp_path / "kv.toml"
    written.write_text(text, encoding="utf-8")
    document = file.Document(str(written))
    file.configuration(document)
    found = layout.tree(document)
    document.check()
    return found


def mistakes(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(UsageError) as raised:
        read(tmp_path, text)
    return [line.removeprefix(f"{tmp_path}/kv.toml:") for line in str(raised.value).splitlines()]


def test_a_page_is_a_tree(tmp_path: Path) -> None:
    tree = read(tmp_path, PAGE)
    key, crt = tree.find("postgres/server.key"), tree.find("postgres/server.crt")
    assert isinstance(key, File)
    assert isinstance(crt, File)
    nobody = pwd.getpwnam("nobody").pw_uid
    assert (key.access.owner, key.access.mode, key.access.units) == (nobody, 0o600, ("postgresql@*.service",))
    assert (crt.access.owner, crt.access.mode) == (7, 0o644)
    folder = tree.find("postgres")
    assert isinstance(folder, Directory)
    assert (folder.access.owner, folder.access.dir_mode) == (nobody, 0o750)
    assert sorted(tree.root.children) == ["app", "keystore.p12", "postgres"]
    assert tree.find("app/other") is None
    assert tree.find("mysecret") is None
    old, pin, env = tree.find("app/old"), tree.find("app/pin"), tree.find("app/.env")
    assert isinstance(old, File)
    assert isinstance(pin, File)
    assert isinstance(env, File)
    assert (old.recipe.sources[0].previous, pin.recipe.sources[0].version) == (
        2,
        "7c2204c6093c4d859bc5b9eff8f29050",
    )
    assert isinstance(env.recipe, Formatted)
    assert [source.name.key for source in env.recipe.sources] == ["pg", "db"]
    pgpass = tree.find("app/.pgpass")
    assert isinstance(pgpass, File)
    assert isinstance(pgpass.recipe, Rendered)
    assert not pgpass.recipe.plain


def test_a_map_stands_for_the_same_letters_on_both_sides(tmp_path: Path) -> None:
    tree = read(tmp_path, PAGE)
    main, again = tree.find("postgres/main.conf"), tree.find("postgres/MAIN.conf")
    assert isinstance(main, File)
    assert main is again
    assert main.recipe == OneSecret(main.recipe.sources[0])
    assert main.recipe.sources[0].name == SecretName("pg--main")
    assert tree.find("postgres/.conf") is None
    assert tree.find("postgres/a.b.conf") is None
    folder = tree.directories["postgres"]
    assert [file.raw for file in tree.shown(folder, SecretName("PG--Main"))] == [b"Main.conf"]
    assert list(tree.shown(folder, SecretName("main"))) == []


def test_named_files_hide_the_flat_name_without_regard_to_case(tmp_path: Path) -> None:
    tree = read(tmp_path, '[files."PW"]\nsecret = "other"\n[files."dir/x"]\nsecret = "x"\n')
    assert isinstance(tree.find("PW"), File)
    assert tree.find("pw") is None
    assert tree.find("DIR") is None
    flat = tree.find("Flat")
    assert isinstance(flat, File)
    assert flat is tree.find("fLAT")
    assert list(tree.shown(tree.root, SecretName("pw"))) == []
    assert [file.raw for file in tree.shown(tree.root, SecretName("fLat"))] == [b"fLat"]


WRONG = [
    ('[files."a"]', ["1: what it is made of is missing: a file has exactly one of secret"]),
    ('[files."a"]\nsecret = "x"\ntemplate = ""', ["3: secret and template exclude each other"]),
    ('[files."a"]\nsecret = "x"\npart = "key"\nfield = "u"', ["4: part and field exclude each other"]),
    ('[files."a"]\nsecret = "x"\nprevious = 1\nversion = "' + "0" * 32 + '"', ["3: version and previous exclude"]),
    ('[files."a"]\nsecret = "x_y"', ["2: secret should be a secret's name"]),
    ('[files."a"]\nsecret = 5', ["2: secret should be a secret's name"]),
    ('[files."a"]\nsecret = "x"\npart = "keys"', ["3: part should be key, cert, chain, fullchain, pem or pfx"]),
    ('[files."a"]\nsecret = "x"\npart = ["key"]', ["3: part should be key, cert"]),
    ('[files."a"]\nsecret = "x"\nversion = "ABC"', ["3: version should be a version's id"]),
    ('[files."a"]\nsecret = "x"\nprevious = 0', ["3: previous should be a whole number from 1"]),
    ('[files."a"]\nsecret = "x"\nprevious = true', ["3: previous should be"]),
    ('[files."a"]\nsecret = "x"\nnewline = "yes"', ["3: newline should be true or false"]),
    ('[files."a"]\nsecret = "x"\nfield = "/a~2"', ["3: field should be a key, or a JSON Pointer"]),
    ('[files."a"]\nsecret = "x"\nmode = 400', ["3: mode should be in quotation marks"]),
    ('[files."a"]\nsecret = "x"\nmode = "0999"', ["3: mode should be three octal digits"]),
    ('[files."a"]\nsecret = "x"\nowner = "no such user"', ["3: owner should be a user of this machine"]),
    ('[files."a"]\nsecret = "x"\ngroup = 4294967295', ["3: group should be at most 4294967294"]),
    ('[files."a"]\nsecret = "x"\nunits = ["a b"]', ["3: units should be names of units"]),
    ('[files."a"]\nsecret = "x"\nunits = []', ["3: units should be text, or a list of texts"]),
    ('[files."a"]\nsecret = "x"\npasword = "y"', ["3: unknown key 'pasword'; did you mean 'password'?"]),
    ('[files."a"]\nsecret = "x"\npassword = "y"', ['3: password goes with part = "pfx"']),
    ('[files."a"]\nsecret = "x"\ndir_mode = "0700"', ["3: unknown key 'dir_mode'; did you mean 'mode'?"]),
    ('[files."a"]\ntemplate = ""\nnewline = true', ["3: newline goes with secret, not with template"]),
    ('[files."a"]\ntemplate_file = "none.j2"', ["2: template_file should be a file beside this one"]),
    ('[files."a"]\nformat = "ini"\nvalues = { A = "x" }', ["2: format should be env, properties, json or yaml"]),
    ('[files."a"]\nformat = "env"', ["1: values is missing"]),
    ('[files."a"]\nformat = "env"\nvalues = { 1A = "x" }', ["3: values: 1A should be a name"]),
    ('[files."a"]\nformat = "env"\nvalues = { A = "x y" }', ["3: values: A should be a secret's name"]),
    ('[files."a"]\nformat = "env"\nvalues = { A = { field = "x" } }', ["3: values: A should be a secret's name, or {"]),
    ('[files."/a"]\nsecret = "x"', ["1: '/a' should be a path relative"]),
    ('[files."a/../b"]\nsecret = "x"', ["1: 'a/../b' should be a path without"]),
    ('[files."a//b"]\nsecret = "x"', ["1: 'a//b' should be a path without"]),
    ('[files.""]\nsecret = "x"', ["1: '' should be a path"]),
    ('[files."a\\u0000"]\nsecret = "x"', ["1: 'a\\x00' should be a path without a NUL"]),
    ('[files.".keyvaultfs/x"]\nsecret = "x"', ["1: '.keyvaultfs/x' should be another path: .keyvaultfs is taken"]),
    (f'[files."{"ä" * 128}"]\nsecret = "x"', [f"1: '{'ä' * 128}' should be a path whose parts have at most 255"]),
    ('[files.a.b]\nsecret = "x"', ["1: unknown key 'b'; a path is in quotation marks", "1: what it is made of"]),
    ('files = 3', ["1: files should be tables"]),
    ('[files]\na = "x"', ['2: a should be a table, under [files."a"]']),
    ('[files.a]\nsecret = "x"\n[files."a/b"]\nsecret = "y"', ["3: a is a file, and cannot be the folder of a/b"]),
    ('[[map]]\nsecrets = "p-*"\nfiles = "a/*"\n[files.a]\nsecret = "x"', ["3: a is a file, and cannot be the folder"]),
    ('[[map]]\nsecrets = "p"\nfiles = "a/*/*"', ["2: secrets should be text with exactly one *", "3: files should be"]),
    ('[[map]]\nsecrets = "p_*"\nfiles = "*/a"', ["2: secrets should be a secret's name", "3: files should be a path"]),
    ('[[map]]\nfiles = "*"\nfile = 1', ["1: secrets is missing", "3: unknown key 'file'; did you mean 'files'?"]),
    ('[[map]]\nsecrets = "p-*"\nfiles = "a/*"\n[[map]]\nsecrets = "q-*"\nfiles = "A/*"', ["6: another map has"]),
    ('[map]\nsecrets = "p-*"', ["1: map should be tables, each under [[map]]"]),
    ('[[rules]]\nmatch = "a"', ["1: this rule sets nothing"]),
    ('[[rules]]\nmode = "0400"', ["1: match is missing"]),
    ('[[rules]]\nmatch = "/a"\nmode = "0400"', ["2: match should be a pattern over paths"]),
    ('[[rules]]\nmatch = "a"\nmod = "0400"', ["3: unknown key 'mod'; did you mean 'mode'?"]),
    ('only_files = 1', ["1: only_files should be true or false"]),
    ('[files.a]\nscret = "x"\npart = "keys"', ["1: what it is made of", "2: unknown key 'scret'", "3: part should be"]),
    ('[files.a]\nvalues = { A = 5 }', ["1: what it is made of is missing", "2: values: A should be"]),
    ('[files.a]\nsecret = "x_y"\nformat = "env"', ["1: values is missing", "2: secret should", "3: secret and format"]),
    ('[files.a]\nsecret = "x_y"\n[files."a/b"]\nmode = 1\nsecret = "x"', ["2: secret", "3: a is a file", "4: mode"]),
    ('[files.a]\nsecret = "x"\n[[map]]\nsecrets = "*"\nfiles = "a/*"\nm = 1', ["5: a is a file", "6: unknown key 'm'"]),
    ('[files.a]\nformat = "env"\n[files.a.values]\nA = "x"\nB = "y z"', ["5: values: B should be a secret's name"]),
    ('[files.a]\nformat = "json"\nvalues.A = { secret = "x", feild = "u" }', ["3: unknown key 'feild'; did you mean"]),
    ('[files.a]\nformat = "json"\nvalues.A = { secret = "x y", field = "" }', ["3: field should", "3: secret should"]),
    ('[[rules]]', ["1: match is missing", "1: this rule sets nothing"]),
    ('[[rules]]\nmatch = "/a"', ["1: this rule sets nothing", "2: match should be a pattern"]),
    ('a = [\n1,\n', ["2: "]),
    ('\n[[rules]]\nmode = 0400', ['3: no number begins with 0 in TOML; a mode is in quotation marks, as in "0400"']),
    ('ttl = "soon"\n[files.a]\nsecret = ""', ["1: option ttl=soon", "3: secret should be a secret's name"]),
]  # fmt: skip


def test_letters_of_another_encoding_are_told_with_their_line(tmp_path: Path) -> None:
    page = tmp_path / "kv.toml"
    page.write_bytes('[files."a"]\nsecret = "x"\n[files."ä"]\n'.encode("latin-1"))
    with pytest.raises(UsageError, match=":3: it is not UTF-8"):
        layout.load(str(page))


@pytest.mark.parametrize(("text", "wanted"), WRONG)
def test_a_mistake_is_told_with_its_line(text: str, wanted: list[str], tmp_path: Path) -> None:
    told = mistakes(tmp_path, text)
    assert len(told) == len(wanted), told
    for line, words in zip(told, wanted, strict=True):
        assert line.startswith(words)


def test_a_file_is_checked_without_a_library_in_this_process(tmp_path: Path) -> None:
    written = tmp_path / "kv.toml"
    script = "import sys; from keyvaultfs.settings import layout; layout.check(sys.argv[1]); "
    script += "print(sorted({'jinja2', 'cryptography'} & sys.modules.keys()))"
    written.write_text(PAGE)
    command = [sys.executable, "-c", script, str(written)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    written.write_text('ttl = "soon"\n[files.a]\n')
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"{written}:1: option ttl=soon" in done.stderr
    assert f"{written}:2: what it is made of" in done.stderr


def test_all_mistakes_are_told_at_once_in_their_order(tmp_path: Path) -> None:
    sound = [text for text, _ in WRONG if text.startswith('[files."a"]\n')]
    text = "\n".join(part.replace('"a"', f'"a{number}"', 1) for number, part in enumerate(sound))
    lines = [int(line.partition(":")[0]) for line in mistakes(tmp_path, text)]
    assert len(lines) >= len(sound)
    assert lines == sorted(lines)


@pytest.mark.parametrize(
    ("key", "module", "package"),
    [
        ('secret = "x"\npart = "key"', "cryptography", "python3-cryptography"),
        ('template = "x"', "jinja2", "python3-jinja2"),
    ],
)
def test_a_library_that_is_missing_is_a_mistake_of_the_file(
    key: str, module: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    told = mistakes(tmp_path, f"[files.a]\n{key}")
    assert told == [line for line in told if package in line]
    assert told[0].startswith(f"{1 + key.count(chr(10)) + 1}: ")


@given(
    st.binary(max_size=300)
    | st.lists(st.sampled_from([text for text, _ in WRONG])).map(lambda x: "\n".join(x).encode())
)
def test_any_file_is_a_tree_or_mistakes(body: bytes) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".toml") as written:
        written.write(body)
        written.flush()
        try:
            document = file.Document(written.name)
            file.configuration(document)
            layout.tree(document)
            document.check()
        except UsageError as exc:
            assert str(exc).startswith(written.name)  # noqa: PT017 - either is right


# --- patterns -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "path", "wanted"),
    [
        ("a/*", "a/b", True),
        ("a/*", "a/b/c", False),
        ("a/**", "a/b/c", True),
        ("a/**", "a", False),
        ("**/c", "c", True),
        ("**/c", "a/b/c", True),
        ("a/**/c", "a/c", True),
        ("a/**/c", "a/b/x/c", True),
        ("a?", "ab", True),
        ("a?", "a/", False),
        ("a[b]", "ab", False),
        ("a[b]", "a[b]", True),
        ("*.k*", ".key", True),
        ("**", "a\nb/c", True),
        ("A", "a", False),
    ],
)
def test_a_star_stays_in_a_folder_and_two_cross(pattern: str, path: str, *, wanted: bool) -> None:
    assert names.Pattern(pattern).matches(path) is wanted


PATHS = st.lists(st.text(st.sampled_from("ab.*?["), min_size=1, max_size=4), min_size=1, max_size=3).map(
    "/".join
)


@given(PATHS)
def test_a_path_matches_itself_and_two_stars(path: str) -> None:
    assert names.Pattern(path).matches(path)
    assert names.Pattern("**").matches(path)
    assert names.Pattern("*").matches(path) is ("/" not in path)


@given(st.text("ab-", max_size=3), st.text("ab-", min_size=1, max_size=5), st.text("ab-", max_size=3))
def test_what_a_star_stands_for_fills_it_again(before: str, star: str, after: str) -> None:
    starred = names.Starred(f"{before}*{after}")
    assert starred.star(starred.filled(star)) == star
    assert starred.star(starred.filled(star).upper()) == star.upper()


@given(st.text(max_size=300))
def test_any_text_is_a_path_or_a_mistake(text: str) -> None:
    try:
        names.check(text)
    except ValueError:
        return
    assert os.path.normpath(text) == text
    assert all(len(os.fsencode(part)) <= 255 for part in text.split("/"))


def test_a_table_that_is_nearly_one_of_ours_is_named(tmp_path: Path) -> None:
    (told,) = mistakes(tmp_path, '[file."a"]\nsecret = "x"\n')
    assert told == "1: unknown option 'file'; did you mean 'files'?"


def test_the_recipes_of_the_readme_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pwd.getpwuid(0)
    monkeypatch.setattr("pwd.getpwnam", lambda _: root)
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    section = readme.partition("## Files as programs want them\n")[2].partition("\n## ")[0]
    recipes = "\n".join(line[4:] for line in section.splitlines() if line.startswith("    "))
    assert sorted(read(tmp_path, recipes).named) == [
        "app/.env",
        "app/.pgpass",
        "nginx/site.crt",
        "nginx/site.key",
        "postgres/server.crt",
        "postgres/server.key",
        "tomcat/keystore.p12",
    ]
