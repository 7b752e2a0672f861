"""`[rules]`, `[map]` and `[files]` of a mount's TOML file -> a checked tree. Every mistake is noted with its line."""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from keyvaultfs.errors import UsageError
from keyvaultfs.files import names
from keyvaultfs.files.rules import Access, Rule
from keyvaultfs.files.tree import Map, Tree
from keyvaultfs.settings import kinds
from keyvaultfs.settings.file import Document, configuration
from keyvaultfs.settings.kind import as_text
from keyvaultfs.settings.recipes import RECIPE_KEYS, recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from keyvaultfs.files.recipes import Recipe
    from keyvaultfs.settings.toml_lines import TomlPath

_OWN = ("owner", "group", "mode", "units")
RULE_KEYS = ("match", *_OWN, "dir_mode")
_UNIT_SUFFIXES = (".service", ".scope", "*")


class _Table:
    """A table of the file: its keys, each checked once, and where mistakes in it are."""

    def __init__(self, document: Document, toml_path: TomlPath, data: dict[str, Any]) -> None:
        self.document = document
        self.toml_path = toml_path
        self.data = data
        self.sound = True

    def wrong(self, message: str, *keys: str) -> None:
        self.sound = False
        self.document.mistake((*self.toml_path, *keys), message)

    def inner(self, key: str) -> _Table:
        return _Table(self.document, (*self.toml_path, key), self.data[key])

    def allow_only(self, allowed: Collection[str], hint: str = "") -> None:
        """Note a mistake for each key that is not allowed here."""
        for key in self.data:
            if key not in allowed:
                near = difflib.get_close_matches(key, allowed, n=1)
                advice = f"; did you mean {near[0]!r}?" if near else hint
                self.wrong(f"unknown key {key!r}{advice}", key)

    def value(self, key: str, parse: Callable[[Any], Any]) -> Any:
        """A key's value, None where it is absent or wrong."""
        if key not in self.data:
            return None
        try:
            return parse(self.data[key])
        except ValueError as exc:
            self.wrong(f"{key} should be {exc}", key)
            return None


def load(path: str) -> Tree:
    """The tree of a mount that has this file.

    Raises:
        UsageError: the file cannot be read or has mistakes, in its options or its tree; all of them, a line each.
    """
    document = Document(path)
    configuration(document)
    found = tree(document)
    document.check()
    return found


def check(path: str) -> None:
    """As `load`, in a child process that ends: the libraries for templates do not stay in a process that holds a mount.

    Raises:
        UsageError: as `load`.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        message = "the check of it failed"
        try:
            load(path)
            message = ""
        except UsageError as exc:
            message = str(exc)
        finally:
            with open(writing, "w", encoding="utf-8", errors="backslashreplace") as answer:  # noqa: PTH123
                answer.write(message)
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as answer:  # noqa: PTH123 - a descriptor
        message = answer.read()
    os.waitpid(child, 0)
    if message:
        raise UsageError(message)


def tree(document: Document) -> Tree:
    """The tree that a file describes; what is wrong with it is noted in the document."""
    top = _Table(document, (), document.data)
    only = top.value("only_files", _boolean) or False
    rules = [_rule(table) for table in _tables(top, "rules")]
    tables = _files(top)
    files = [found for table in tables if (found := _file(table)) is not None]
    maps = [(table, one) for table in _tables(top, "map") if (one := _map(table)) is not None]
    _check_paths(document, [str(table.toml_path[-1]) for table in tables], maps)
    if not document.sound:
        return Tree(written=True)
    return Tree(
        [(file.path, file.recipe, file.access) for file in files],
        [one for _, one in maps],
        [rule for rule in rules if rule is not None],
        flat=not only,
        written=True,
    )


class _File(NamedTuple):
    table: _Table
    path: str
    recipe: Recipe
    access: Access


def _tables(top: _Table, key: str) -> list[_Table]:
    rows = top.data.get(key, [])
    if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
        return [_Table(top.document, (key, number), row) for number, row in enumerate(rows)]
    top.wrong(f"{key} should be tables, each under [[{key}]]", key)
    return []


def _files(top: _Table) -> list[_Table]:
    tables = top.data.get("files", {})
    if not isinstance(tables, dict):
        top.wrong('files should be tables, each under [files."PATH"]', "files")
        return []
    found = []
    for path, data in tables.items():
        if isinstance(data, dict):
            found.append(_Table(top.document, ("files", path), data))
        else:
            top.document.mistake(("files", path), f'{path} should be a table, under [files."{path}"]')
    return found


def _file(table: _Table) -> _File | None:
    path = str(table.toml_path[-1])
    try:
        names.check(path)
    except ValueError as exc:
        table.wrong(f"{path!r} should be {exc}")
    nested = [key for key, value in table.data.items() if isinstance(value, dict) and key != "values"]
    hint = f'; a path is in quotation marks: [files."{path}/{nested[0]}"]' if nested else ""
    table.allow_only((*RECIPE_KEYS, *_OWN), hint)
    access = _access(table)
    made = recipe(table)
    return None if made is None or not table.sound else _File(table, path, made, access)


def _access(table: _Table) -> Access:
    return Access(
        owner=table.value("owner", lambda value: kinds.USER.parse(kinds.USER.toml(value))),
        group=table.value("group", lambda value: kinds.GROUP.parse(kinds.GROUP.toml(value))),
        mode=table.value("mode", lambda value: kinds.OCTAL.parse(kinds.OCTAL.toml(value))),
        dir_mode=table.value("dir_mode", lambda value: kinds.OCTAL.parse(kinds.OCTAL.toml(value))),
        units=table.value("units", _units),
    )


def _rule(table: _Table) -> Rule | None:
    table.allow_only(RULE_KEYS)
    if "match" not in table.data:
        table.wrong('match is missing: a pattern over paths, such as "postgres/**"')
    patterns = table.value("match", _patterns)
    access = _access(table)
    if not table.data.keys() - {"match"}:
        table.wrong("this rule sets nothing: owner, group, mode, dir_mode or units")
    return Rule(patterns, access) if table.sound else None


def _map(table: _Table) -> Map | None:
    table.allow_only(("secrets", "files"))
    for key in ("secrets", "files"):
        if key not in table.data:
            table.wrong(f"{key} is missing: text with exactly one *")
    secrets, files = table.value("secrets", _secrets_pattern), table.value("files", _files_pattern)
    return None if secrets is None or files is None else Map(secrets, files)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _texts(value: Any) -> list[str]:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not found or not all(isinstance(item, str) for item in found):
        raise ValueError("text, or a list of texts")
    return found


def _patterns(value: Any) -> tuple[names.Pattern, ...]:
    return tuple(names.Pattern(text) for text in _texts(value))


def _units(value: Any) -> tuple[str, ...]:
    found = _texts(value)
    for text in found:
        if not text.endswith(_UNIT_SUFFIXES) or not text.isprintable() or "/" in text or " " in text:
            raise ValueError("names of units or patterns over them, such as postgresql@*.service or *.scope")
    return tuple(found)


def _secrets_pattern(value: Any) -> names.Starred:
    found = names.Starred(as_text(value))
    if not all(letter in kinds.NAME_LETTERS for letter in found.before + found.after):
        raise ValueError("a secret's name with exactly one *: letters, digits and '-'")
    return found


def _files_pattern(value: Any) -> names.Starred:
    found = names.Starred(as_text(value))
    names.check(found.filled("x"))
    if "/" in found.after:
        raise ValueError("a path whose * is in its last part")
    return found


def _is_path(text: str) -> bool:
    try:
        names.check(text)
    except ValueError:
        return False
    return True


def _check_paths(document: Document, paths: list[str], maps: list[tuple[_Table, Map]]) -> None:
    files = {path for path in paths if _is_path(path)}
    for path in filter(files.__contains__, paths):
        inside = next((outer for outer in names.parents(path) if outer in files), None)
        if inside is not None:
            document.mistake(("files", path), f"{inside} is a file, and cannot be the folder of {path}")
    seen: set[str] = set()
    for table, one in maps:
        inside = next((outer for outer in names.parents(one.files.text) if outer in files), None)
        if inside is not None:
            table.wrong(f"{inside} is a file, and cannot be the folder of {one.files.text}", "files")
        if one.files.text.lower() in seen:
            table.wrong(f"another map has the files {one.files.text} already", "files")
        seen.add(one.files.text.lower())
