"""Templates: what they make, what they may not do, and what they cost."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvaultfs.content.libraries import MissingLibrary, need
from keyvaultfs.content.template import MAX_FILE, MAX_TEXT, Mistake, Source, Template, Use
from keyvaultfs.errors import CannotMake
from keyvaultfs.model import SecretValue

VERSION = "7c2204c6093c4d859bc5b9eff8f29050"
SECRETS = {
    "pw": "p:a\\ss",
    "Text": 'don\'t $HOME "x"\n',
    "db": '{"user": "app", "hosts": ["a", "b"]}',
    "bytes": "",
}


def source(value: str | bytes) -> Source:
    return Source(SecretValue(value.encode() if isinstance(value, str) else value), VERSION)


SOURCES = {name: source(text) for name, text in SECRETS.items()} | {"bytes": source(b"\xff\xfe")}


def made(text: str) -> str:
    return Template(text).render(SOURCES).reveal().decode()


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("db:5432:*:app:{{ secret('pw') | pgpass }}\n", "db:5432:*:app:p\\:a\\\\ss\n"),
        ("{{ secret('pw') }}", "p:a\\ss"),
        ("{{ secret('db', 'user') }}@{{ secret('db', '/hosts/1') }}\n\n", "app@b\n\n"),
        ("{{ version('pw') }}", VERSION),
        ("{{ secret('Text') | tojson }}", '"don\\u0027t $HOME \\"x\\"\\n"'),
        ("{{ secret('Text') | urlencode }}", "don%27t%20%24HOME%20%22x%22%0A"),
        ("{{ secret('Text') }}<&>", "don't $HOME \"x\"\n<&>"),
        ("{{ '<' ~ (secret('pw') | tojson) ~ '>' }}", '<"p:a\\\\ss">'),
        ("{{ secret('pw') | toml }}{{ secret('pw') | xml }}", '"p:a\\\\ss"p:a\\ss'),
        ("{% for h in ['a', 'b'] %}{{ loop.index }}:{{ h }}{{ '' if loop.last else ',' }}{% endfor %}", "1:a,2:b"),
        ("{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}={{ v }};{% else %}none{% endfor %}", "a=2;b=1;"),
        ("{% if secret('db', 'user') == 'app' and 'p' in secret('pw') %}yes{% else %}no{% endif %}", "yes"),
        ("{% set u = secret('db', 'user') %}{{ u | upper }}{{ u[0] }}{{ u[1:] }}", "APPapp"),
        ("{% set both %}{{ secret('pw') }}!{% endset %}{{ both | length }}", "7"),
        ("{% with n = 2 %}{{ n * 3 + 2 ** 3 - 9 // 2 % 3 }}{% endwith %}", "13"),
        ("{% filter upper %}x{{ secret('db', 'user') }}{% endfilter %}", "XAPP"),
        ("{% raw %}{{ not ours }}{% endraw %}{# nor this #}", "{{ not ours }}"),
        ("{{ '%s=%s' | format('a', secret('pw')) }}{{ ['x', 'y'] | map('upper') | join('+') }}", "a=p:a\\ssX+Y"),
        ("{{ secret('Text') | replace('\n', '') | trim | indent(2) | default('none') }}", "don't $HOME \"x\""),
        ("{{ {'a': {'b': 'c'}}['a']['b'] }}{{ range(3) | list }}{{ 'x' is string }}", "c[0, 1, 2]True"),
        ("one\r\ntwo\r\n{{ secret('pw') }}\r\n", "one\r\ntwo\r\np:a\\ss\r\n"),
        ("one\r\ntwo\n", "one\ntwo\n"),
        ("", ""),
    ],
)  # fmt: skip
def test_a_template_makes_its_file(text: str, file: str) -> None:
    assert made(text) == file


def test_what_it_uses_is_known_before_it_is_rendered() -> None:
    text = "{{ secret('a') }}{% if false %}{{ secret('b', 'f') ~ part('c', 'key') }}{% endif %}\n"
    template = Template(text + "{{ [version('d'), secret('a')] | join(secret('A')) }}")
    assert template.uses == (
        Use("secret", "a"), Use("secret", "b", "f"), Use("part", "c", "key"), Use("version", "d"), Use("secret", "A"),
    )  # fmt: skip
    assert template.secrets == ("a", "b", "c", "d", "A")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        # names that are no literals
        ("\n{{ secret(name) }}", 2, "in quotation marks: secret('NAME') or secret('NAME', 'FIELD')"),
        ("{% set n = 'pw' %}{{ secret(n) }}", 1, "in quotation marks"),
        ("{{ secret('p' ~ 'w') }}", 1, "in quotation marks"),
        ("{{ secret('pw' if true else 'db') }}", 1, "in quotation marks"),
        ("{{ secret(*['pw']) }}", 1, "in quotation marks"),
        ("{{ secret(**{'name': 'pw'}) }}", 1, "in quotation marks"),
        ("{{ secret(name='pw') }}", 1, "in quotation marks"),
        ("{{ secret() }}{{ version() }}", 1, "in quotation marks"),
        ("{{ version('pw', 'x') }}", 1, "version('NAME')"),
        ("{{ part('pw') }}", 1, "part('NAME', 'PART')"),
        ("{{ secret(7) }}", 1, "in quotation marks"),
        ("{{ secret }}", 1, "secret is a function"),
        ("{% set s = secret %}{{ s('db') }}", 1, "secret is a function"),
        ("{{ ['pw'] | map(secret) }}", 1, "secret is a function"),
        ("{% set secret = 'x' %}", 1, "secret is a function"),
        ("{% for part in [1] %}{% endfor %}", 1, "part is a function"),
        # names that are none
        ("{{ secret('no_name') }}", 1, "'no_name' is no secret's name"),
        ("{{ secret('../x') }}", 1, "is no secret's name"),
        ("\n\n{{ part('web', 'pfx') }}", 3, "one of key, cert, chain, fullchain, pem"),
        ("{{ part('web', 'cart') }}", 1, "one of key, cert"),
        ("{{ secret('db', '/a~x') }}", 1, "JSON Pointer"),
        # the way out
        ("{{ secret('pw').__class__ }}", 1, "attributes"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", 1, "call"),
        ("{{ 'a'.format }}", 1, "attributes"),
        ("{{ '{0.__class__}'.format(1) }}", 1, "call"),
        ("{{ secret('pw').upper() }}", 1, "call"),
        ("{{ range.__init__.__globals__ }}", 1, "attributes"),
        ("{{ secret('pw') | attr('__class__') }}", 1, "no filter 'attr'"),
        ("{{ self }}", 1, "self"),
        ("{{ _purse }}", 1, "begin with _"),
        ("{{ loop.__init__ }}", 1, "attributes"),
        ("{{ cycler('a') }}{{ namespace() }}", 1, "call"),
        ("{{ lipsum }}", 1, "'lipsum' is not defined"),
        ("{{ caller() }}", 1, "call"),
        ("{% include '/etc/passwd' %}", 1, "cannot use include"),
        ("{% import 'os' as os %}", 1, "cannot use import"),
        ("{% from 'os' import path %}", 1, "cannot use import"),
        ("{% extends 'x' %}", 1, "cannot use extends"),
        ("{% block x %}{% endblock %}", 1, "cannot use block"),
        ("{% macro m() %}{% endmacro %}", 1, "cannot use macro"),
        ("{% for i in [1] recursive %}{% endfor %}", 1, "recursive"),
        ("{{ 'a' | _made }}", 1, "no filter '_made'"),
        ("{{ [1, 2] | random }}", 1, "no filter 'random'"),
        ("{{ [1] | map('attr', '__class__') | list }}", 1, None),
        # mistakes
        ("{{ pw }}", 1, "'pw' is not defined; a secret is written secret('NAME')"),
        ("{{ undefined | default('x') }}", 1, "'undefined' is not defined"),
        ("\n{{ 'a' | nope }}", 2, "no filter 'nope'"),
        ("{% if true %}\n{{ 'a' is nope }}{% endif %}", 2, "no test 'nope'"),
        ("\n\n{{ secret('pw' }}", 3, "unexpected"),
        ("{% for %}", 1, ""),
        ("{% if true %}", 1, "Unexpected end of template"),
        ("{{ " + "(" * 5_000, 1, ""),
        ("{{ " + "-" * 50_000 + "1 }}", 1, "nested too deeply"),
        ("x" * (MAX_TEXT + 1), 1, "at most 256 KiB"),
        ("{% for x in [1] %}" * 11 + "{% endfor %}" * 11, 1, "nested too deeply"),
        ("{% if true %}" * 60 + "{% endif %}" * 60, 1, "nested too deeply"),
        ("{{ " + "(" * 50 + "1" + " + 1)" * 50 + " }}", 1, "nested too deeply"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line(text: str, line: int, words: str | None) -> None:
    if words is None:  # a name of a filter that is only known when it runs
        with pytest.raises(CannotMake):
            made(text)
        return
    with pytest.raises(Mistake) as caught:
        Template(text)
    assert caught.value.line == line
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{ secret('bytes') }}", "no text in UTF-8"),
        ("{{ secret('pw', 'user') }}", "the value is no JSON"),
        ("{{ secret('db', 'password') }}", "no such field"),
        ("{{ part('pw', 'key') }}", "neither PEM nor a PFX"),
        ("{{ secret('Text') | pgpass }}", "a line of .pgpass cannot hold a line break"),
        ("{{ (secret('pw') | int(none)) + 1 }}", "uses + on what are no numbers"),
        ("\n{{ {'p': 1}[secret('pw')] }}", "the template fails in line 2: UndefinedError"),
        ("{{ secret('pw')['__class__'] }}", "the template fails in line 1: UndefinedError"),
        ("{{ [secret('pw')] | map(attribute='__class__') | list }}", "UndefinedError"),
        ("{{ [secret('pw'), 'b'] | sort(attribute='__len__') }}", "UndefinedError"),
        ("{{ [secret('pw')] | join(attribute='__class__') }}", "UndefinedError"),
        ("{{ [secret('pw')] | max(attribute='__class__.__name__') }}", "UndefinedError"),
        ("{{ [secret('pw')] | selectattr('__class__') | list }}", "UndefinedError"),
        ("\n\n{{ 1 / 0 }}", "the template fails in line 3: ZeroDivisionError"),
        ("{{ 'a'['b'] ~ 'c' }}", "the template fails in line 1: UndefinedError"),
        ("{{ 1 if 1 is divisibleby(0) }}", "the template fails in line 1: ZeroDivisionError"),
        ("{{ secret('pw') < 1 }}", "the template fails in line 1: TypeError"),
        ("{{ '\\ud800' }}", "UnicodeEncodeError"),
        ("{{ '%d' | format(secret('pw')) }}", "TypeError"),
    ],
)
def test_what_cannot_be_made_quotes_no_value(text: str, words: str) -> None:
    template = Template(text)
    with pytest.raises(CannotMake, match=words.replace("(", r"\(").replace("+", r"\+")) as caught:
        template.render(SOURCES)
    told = "".join(traceback.format_exception(caught.value))
    assert not any(value in told for value in SECRETS.values() if len(value) > 4)
    assert caught.value.__context__ is None


DOUBLING = "{% set x = 'aaaaaaaaaaaaaaaa' %}" + "{% set x = x ~ x ~ x ~ x %}" * 20 + "{{ x }}"
GROWING = [
    "{{ 'x' * 10 ** 9 }}",
    "{{ [0] * 10 ** 9 }}",
    "{{ 9 ** 999999999 }}",
    "{% set x = 9 ** 99 %}" + "{% set x = x * x %}" * 40 + "{{ x }}",
    "{{ range(10 ** 9) | list }}",
    "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "{% for a in range(9999) %}{% for b in range(9999) %}{{ secret('pw') }}{% endfor %}{% endfor %}",
    DOUBLING,
    DOUBLING.replace("~", "+"),
    "{% set x = [1] %}" + "{% set x = [x, x, x, x] %}" * 40 + "{{ x }}",
    "{% set x = {'a': 1} %}" + "{% set x = {'a': x, 'b': x} %}" * 40 + "{{ x | tojson }}",
    "{{ '%999999999d' | format(1) }}",
    "{{ '%*d' | format(999999999, 1) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ 'x' | center(10 ** 9) }}",
    "{{ 'a\nb' | indent(10 ** 9) }}",
    "{{ [1] | tojson(indent=10 ** 9) }}",
    "{% set x = 'a' | center(100000) %}{{ x | replace('', x) }}",
    "{% set x = 'a' | center(100000) %}{{ range(9999) | join(x) }}",
    "{% set x = 'a' | center(100000) %}{{ range(9999) | map('center', 100000) | list | length }}",
    "{% set x = 'a' | center(100000) %}{% for i in range(9999) %}{% if 'b' in x %}{% endif %}{{ x }}{% endfor %}",
    "{% for i in range(9000) %}" + "y" * 200 + "{% endfor %}",
    "{% set x %}{% for i in range(9000) %}{{ 'a' | center(10000) }}{% endfor %}{% endset %}{{ x | length }}",
]


@pytest.mark.parametrize("text", GROWING)
def test_what_would_grow_without_bound_is_given_up_soon(text: str) -> None:
    begin = time.process_time()
    try:
        template = Template(text)
        with pytest.raises(CannotMake):
            template.render(SOURCES)
    except Mistake:
        pass
    assert time.process_time() - begin < 20  # without a bound: hours, or no memory left


def test_a_file_of_a_mebibyte_is_the_largest() -> None:
    assert len(Template("x" * 1000 + "{{ 'y' | center(100000) }}" * 10).render({})) == 1_001_000
    with pytest.raises(CannotMake, match=f"more than {MAX_FILE >> 10} KiB"):
        Template("{{ 'y' | center(100000) }}" * 11).render({})


def test_two_renderings_share_nothing() -> None:
    template = Template("{{ secret('pw') }}")
    assert template.render({"pw": source("a")}).reveal() == b"a"
    assert template.render({"pw": source("b")}).reveal() == b"b"
    assert repr(template.render({"pw": source("b")})) == "<SecretValue 1 B>"


def test_a_library_that_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    need("a template", "jinja2")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingLibrary) as caught:
        Template("x")
    assert str(caught.value) == (
        "a template needs jinja2: apt install python3-jinja2, or: pip install 'keyvaultfs[templates]'"
    )
    assert caught.value.package == "python3-jinja2"


def test_nothing_is_imported_before_it_is_needed() -> None:
    names = "certificate decode ending field formats language libraries quoting template"
    program = "import sys\n" + "".join(f"import keyvaultfs.content.{name}\n" for name in names.split())
    program += "print([m for m in ('jinja2', 'cryptography') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def words(text: str) -> list[str]:
    return text.split()


FILTERS = words(
    """upper pgpass join(',') map('upper') list replace('a',2) default(1) tojson sort sum center(9) int first dictsort
    format(2) select('odd') round items indent(2) e urlencode max unique reverse title truncate(3) wordcount"""
)
TOKENS = words(
    """{{ }} {% %} {# #} for in if else elif endif endfor set endset with filter endfilter recursive is not and or
    loop loop.index secret('pw') secret('db','user') version('pw') secret part range(3) range x y _x 'a' '%s' 1 2.5
    9999 none true [1,x] {'a':1} ( ) [ ] , . : = == + - * ** / // % ~ | attr('x') __class__ .__class__ ['__class__']
    block macro call include import extends raw endraw autoescape defined divisibleby(0) self"""
)
TOKENS += [f"|{name}" for name in FILTERS]
SIMPLE = [
    "secret('pw')",
    "secret('db', 'user')",
    "'a'",
    "1",
    "2.5",
    "none",
    "[1, 'a']",
    "{'a': 1}",
    "range(3)",
]
SIGNS = ["+", "-", "*", "**", "/", "//", "%", "~", "==", "<", "in", "and"]
VALUES = st.recursive(
    st.sampled_from(SIMPLE),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(SIGNS), inner).map(lambda three: "({} {} {})".format(*three)),
        st.tuples(inner, st.sampled_from(FILTERS)).map(lambda two: "({}|{})".format(*two)),
        st.tuples(inner, inner).map(lambda two: "{}[{}]".format(*two)),
    ),
    max_leaves=6,
)


@settings(max_examples=300)
@given(text=st.lists(st.sampled_from(TOKENS), max_size=20).map(" ".join))
def test_any_text_is_a_template_or_a_mistake(text: str) -> None:
    with contextlib.suppress(Mistake, CannotMake):
        Template(text).render(SOURCES)


@settings(max_examples=300)
@given(value=VALUES)
def test_any_value_makes_a_file_or_a_reason_that_quotes_nothing(value: str) -> None:
    text = "{% for x in [" + value + "] %}{{ x }}{% endfor %}{{ " + value + " }}"
    try:
        Template(text).render(SOURCES)
    except (CannotMake, Mistake) as exc:
        reason = str(exc)
    else:
        return
    assert not any(secret in reason for secret in SECRETS.values() if len(secret) > 4)
