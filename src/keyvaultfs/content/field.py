"""One field of a value that is JSON."""

from __future__ import annotations

import json
import re
from typing import Any

from keyvaultfs.errors import CannotMake
from keyvaultfs.model import SecretValue

_POINTER = re.compile(
    "(/([^~/]|~[01])*)+"
)  # RFC 6901, section 3; without the whole document, which is no field
_INDEX = re.compile("0|[1-9][0-9]{0,8}")
_MARK = b"\xef\xbb\xbf"  # a byte order mark, which editors on Windows write


class _Number(str):
    """As it is written: a float would be another number, and an int of 5,000 digits an error."""

    __slots__ = ()


class _Constant(ValueError):
    """`NaN` or `Infinity`, which are no JSON."""


def parse(text: str) -> tuple[str, ...]:
    """A field's name, or a JSON Pointer if it begins with ``/``, as the keys that lead to it.

    Raises:
        ValueError: it is empty, or no pointer.
    """
    if not text.startswith("/"):
        if not text:
            raise ValueError("a field has a name")
        return (text,)
    if _POINTER.fullmatch(text) is None:
        raise ValueError("in a JSON Pointer ~ is written ~0, and / in a key ~1")
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in text[1:].split("/"))


def field(value: SecretValue, path: tuple[str, ...]) -> SecretValue:
    """A string is its text; a number, true and false are as JSON writes them; anything else is compact JSON.

    Args:
        value: a JSON document.
        path: from `parse`.

    Raises:
        CannotMake: it is no JSON, has no such field, or the field is null.
    """
    found = _document(value)
    for key in path:
        found = _member(found, key)
    if found is None:
        raise CannotMake("the field is null")
    try:
        text = found if isinstance(found, str) else _compact(found)
        return SecretValue(text.encode())
    except (UnicodeEncodeError, RecursionError):
        pass  # raised below, without a context: its frames hold the value
    raise CannotMake("the field has half a surrogate pair, which is no text, or is nested too deeply")


def _document(value: SecretValue) -> Any:
    try:
        return json.loads(
            value.reveal().removeprefix(_MARK).decode(),
            parse_float=_Number,
            parse_int=_Number,
            parse_constant=_no_constant,
        )
    except (ValueError, RecursionError):
        pass
    raise CannotMake("the value is no JSON")


def _no_constant(_: str) -> Any:
    raise _Constant


def _member(document: Any, key: str) -> Any:
    if isinstance(document, dict) and key in document:
        return document[key]
    if isinstance(document, list) and _INDEX.fullmatch(key) and int(key) < len(document):
        return document[int(key)]
    raise CannotMake("the value has no such field")


def _compact(document: Any) -> str:
    if isinstance(document, _Number):
        return str(document)
    if isinstance(document, list):
        return "[" + ",".join(map(_compact, document)) + "]"
    if isinstance(document, dict):
        return "{" + ",".join(f"{_quoted(key)}:{_compact(item)}" for key, item in document.items()) + "}"
    return _quoted(document) if isinstance(document, str) else json.dumps(document)


def _quoted(text: str) -> str:
    """Letters as they are; half a surrogate pair, which JSON can hold and UTF-8 cannot, as an escape."""
    plain = json.dumps(text, ensure_ascii=False)
    try:
        plain.encode()
    except UnicodeEncodeError:
        return json.dumps(text)
    return plain
