"""A table `[files."PATH"]` -> a recipe. What is wrong is noted in the table."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Protocol

from keyvaultfs.content import formats
from keyvaultfs.content.certificate import PARTS
from keyvaultfs.content.field import parse as parse_field
from keyvaultfs.content.libraries import MissingLibrary, need
from keyvaultfs.content.template import Mistake, Template
from keyvaultfs.files.recipes import Formatted, OneSecret, Rendered, Source, Value
from keyvaultfs.model import SecretName, version
from keyvaultfs.settings.kind import as_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from keyvaultfs.files.recipes import Recipe
    from keyvaultfs.settings.file import Document

DECODINGS = ("auto", "raw", "base64", "hex")

_KINDS = ("secret", "template", "template_file", "format")
_OF_SECRET = ("part", "field", "version", "previous", "decode", "newline", "password")
RECIPE_KEYS = (*_KINDS, *_OF_SECRET, "values")

_MOST_PREVIOUS = 1000
_LARGEST_TEMPLATE = 1 << 20
_ENV_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")  # POSIX, 3.216 Name


class Table(Protocol):
    """See `layout`."""

    document: Document
    data: dict[str, Any]

    def wrong(self, message: str, *keys: str) -> None:
        """Note a mistake."""

    def inner(self, key: str) -> Table:
        """A table in this one."""

    def allow_only(self, allowed: Collection[str], hint: str = "") -> None:
        """Note a mistake for each key that is not allowed here."""

    def value(self, key: str, parse: Callable[[Any], Any]) -> Any:
        """A key's value, None where it is absent or wrong."""


def recipe(table: Table) -> Recipe | None:
    """The recipe of a file; None if its table has a mistake, which is noted."""
    which = [key for key in _KINDS if key in table.data]
    if len(which) != 1:
        problem = f"{' and '.join(which)} exclude each other" if which else "what it is made of is missing"
        table.wrong(f"{problem}: a file has exactly one of {', '.join(_KINDS)}", *which[1:2])
        for kind in which or ["format" if "values" in table.data else "secret"]:
            _of_kind(table, kind)  # for what else is wrong
        return None
    kind = which[0]
    for key in _OF_SECRET if kind != "secret" else ():
        if key in table.data:
            table.wrong(f"{key} goes with secret, not with {kind}", key)
    if kind != "format" and "values" in table.data:
        table.wrong(f"values goes with format, not with {kind}", "values")
    return _of_kind(table, kind)


def _of_kind(table: Table, kind: str) -> Recipe | None:
    if kind == "secret":
        return _one_secret(table)
    return _formatted(table) if kind == "format" else _rendered(table, kind)


def _one_secret(table: Table) -> Recipe | None:
    for one, other in (("part", "field"), ("version", "previous")):
        if one in table.data and other in table.data:
            table.wrong(f"{one} and {other} exclude each other", other)
    if "password" in table.data and table.data.get("part") != "pfx":
        table.wrong('password goes with part = "pfx"', "password")
    name = table.value("secret", _secret)
    pinned, previous = table.value("version", _version), table.value("previous", _previous)
    password = table.value("password", _secret)
    made = {
        "decode": table.value("decode", _one_of(DECODINGS)),
        "newline": table.value("newline", _boolean) or False,
        "part": table.value("part", _one_of(PARTS)),
        "field": table.value("field", _field),
    }
    if made["part"] is not None:
        _need(table, "part", "cryptography")
    if name is None:
        return None
    source = Source(name, pinned, previous or 0)
    return OneSecret(source, password=None if password is None else Source(password), **made)


def _rendered(table: Table, kind: str) -> Recipe | None:
    text = table.value(kind, as_text if kind == "template" else _read_in(table.document.folder))
    if text is None:
        return None
    try:
        template = Template(text)
    except Mistake as exc:
        table.wrong(f"{kind}: line {exc.line} of the template: {exc}", kind)
        return None
    except MissingLibrary as exc:
        table.wrong(str(exc), kind)
        return None
    if any(use.function == "part" for use in template.uses):
        _need(table, kind, "cryptography")
    return Rendered(text, template)


def _need(table: Table, key: str, library: str) -> None:
    try:
        need(key, library)
    except MissingLibrary as exc:
        table.wrong(str(exc), key)


def _formatted(table: Table) -> Recipe | None:
    which = table.value("format", _one_of(tuple(formats.FORMATS)))
    values = table.data.get("values")
    if not isinstance(values, dict) or not values:
        table.wrong('values is missing: a table of keys and secrets, { KEY = "secret" }')
        return None
    inner = table.inner("values")
    rows = [(key, value) for key in values if (value := _value(inner, which, key)) is not None]
    return None if which is None else Formatted(which, tuple(rows))


def _key(which: str | None, key: str) -> str:
    if not key or not key.isprintable() or (which == "env" and not _ENV_NAME.fullmatch(key)):
        raise ValueError("a name that the format can have as a key")
    return key


def _value(table: Table, which: str | None, key: str) -> Value | None:
    data = table.data[key]
    try:
        _key(which, key)
        if isinstance(data, str):
            return Value(Source(_secret(data)))
        if not isinstance(data, dict) or "secret" not in data:
            raise ValueError('a secret\'s name, or { secret = "…", field = "…" }')  # noqa: TRY301
    except ValueError as exc:
        table.wrong(f"values: {key} should be {exc}", key)
        if not isinstance(data, dict):
            return None
    inner = table.inner(key)
    inner.allow_only(("secret", "field"))
    name, field = inner.value("secret", _secret), inner.value("field", _field)
    return None if name is None else Value(Source(name), field)


def _secret(value: Any) -> SecretName:
    try:
        return SecretName(as_text(value))
    except ValueError:
        raise ValueError("a secret's name: 1 to 127 letters, digits and '-'") from None


def _version(value: Any) -> Any:
    try:
        return version(as_text(value))
    except ValueError:
        raise ValueError("a version's id: 32 lower-case hexadecimal digits") from None


def _previous(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_PREVIOUS:
        raise ValueError(f"a whole number from 1 to {_MOST_PREVIOUS}")
    return value


def _field(value: Any) -> str:
    text = as_text(value)
    try:
        parse_field(text)
    except ValueError as exc:
        raise ValueError(f"a key, or a JSON Pointer: {exc}") from None
    return text


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _one_of(allowed: tuple[str, ...]) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"{', '.join(allowed[:-1])} or {allowed[-1]}")
        return str(value)

    return parse


def _read_in(folder: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        path = os.path.join(folder, as_text(value))  # noqa: PTH118 - as elsewhere in settings
        try:
            if not os.path.isfile(path):  # noqa: PTH113
                raise ValueError("a file beside this one, and there is none of this name")
            with open(path, encoding="utf-8", newline="") as file:  # noqa: PTH123
                text = file.read(_LARGEST_TEMPLATE + 1)
        except OSError as exc:
            raise ValueError(f"a file that can be read: {exc.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError("a file in UTF-8") from None
        if len(text) > _LARGEST_TEMPLATE:
            raise ValueError("a file of at most 1 MiB")
        return text

    return read
