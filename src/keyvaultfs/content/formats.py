"""Whole files of names and values: env, properties, json, yaml."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING

from keyvaultfs.content import quoting
from keyvaultfs.errors import CannotMake
from keyvaultfs.model import SecretValue

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def make(form: str, values: Mapping[str, SecretValue]) -> SecretValue:
    """The file; each value is text, whatever it looks like.

    Args:
        form: one of `FORMATS`.
        values: in the order of the file.

    Raises:
        CannotMake: a value is no UTF-8, or nothing that the format can hold.
    """
    texts = {key: text_of(value) for key, value in values.items()}
    return SecretValue(FORMATS[form](texts).encode())


def text_of(value: SecretValue) -> str:
    """The value as text.

    Raises:
        CannotMake: it is no UTF-8.
    """
    try:
        return value.reveal().decode()
    except UnicodeDecodeError:
        pass  # raised below, without a context: it quotes the value
    raise CannotMake("a value is no text in UTF-8")


def _env(texts: Mapping[str, str]) -> str:
    return "".join(f"{key}={quoting.env(text)}\n" for key, text in texts.items())


def _properties(texts: Mapping[str, str]) -> str:
    return "".join(
        f"{quoting.properties_key(key)}={quoting.properties(text)}\n" for key, text in texts.items()
    )


def _json(texts: Mapping[str, str]) -> str:
    return json.dumps(texts, ensure_ascii=False, indent=2) + "\n"


def _yaml(texts: Mapping[str, str]) -> str:
    """Both sides in quotation marks, so that no, 1_000 and 2024-01-01 stay text; YAML 1.1 and 1.2 read the same."""
    return "".join(f"{_yaml_string(key)}: {_yaml_string(text)}\n" for key, text in texts.items())


def _yaml_string(text: str) -> str:
    return '"' + "".join(map(_yaml_letter, text)) + '"'


def _yaml_letter(letter: str) -> str:
    if letter in '"\\':
        return "\\" + letter
    if letter == "\n":
        return "\\n"
    if letter.isprintable():  # not so: controls, line and paragraph separators, the byte order mark
        return letter
    code = ord(letter)
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"


FORMATS: Mapping[str, Callable[[Mapping[str, str]], str]] = MappingProxyType(
    {"env": _env, "properties": _properties, "json": _json, "yaml": _yaml}
)
"""By the name that a file's ``format`` has."""
