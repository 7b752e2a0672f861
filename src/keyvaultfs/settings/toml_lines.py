"""The line of each table, key and array element in a TOML text, for messages: `tomllib` does not tell it."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections import Counter

TomlPath = tuple[str | int, ...]
"""Keys from the outermost table inwards, and positions in arrays."""

_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}(?!")' + r"|'''.*?'{3,5}(?!')" + r"""|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""",
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]*")


class TomlLines:
    """Finds lines by path.

    Args:
        text: TOML that `tomllib` has accepted.
    """

    def __init__(self, text: str) -> None:
        self._lines: dict[TomlPath, int] = {}
        self._text = text.replace("\r\n", "\n")
        self._breaks = [found.start() for found in re.finditer("\n", self._text)]
        self._at = 0
        self._scan()

    def __contains__(self, path: TomlPath) -> bool:
        return path in self._lines

    def line(self, path: TomlPath) -> int:
        """The line of a table, key or element; if it has none, that of the innermost table or array around it."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def _scan(self) -> None:
        table: TomlPath = ()
        arrays: Counter[TomlPath] = Counter()
        while self._skip(_BLANK) < len(self._text):
            start = self._at
            if self._text[start] == "[":
                table = self._header(start, arrays)
            else:
                self._pair(table)
                # A date may go on behind a space.
                self._at = (
                    self._text.find("\n", self._at) if "\n" in self._text[self._at :] else len(self._text)
                )

    def _header(self, start: int, arrays: Counter[TomlPath]) -> TomlPath:
        double = self._text.startswith("[[", start)
        self._at += 1 + double
        *outer, last = self._keys()
        self._skip(_SPACE)
        self._at += 1 + double
        path: TomlPath = ()
        for key in outer:
            path = (*path, key)
            self._note(path, start)
            if path in arrays:
                path = (*path, arrays[path] - 1)
        path = (*path, last)
        if double:
            self._note(path, start)
            path = (*path, arrays[path])
            arrays[path[:-1]] += 1
        self._note(path, start)
        return path

    def _pair(self, table: TomlPath) -> None:
        start = self._at
        path = table
        for key in self._keys():
            path = (*path, key)
            self._note(path, start)
        self._skip(_SPACE)
        self._at += 1  # the =
        self._skip(_SPACE)
        self._value(path)

    def _keys(self) -> list[str]:
        found = []
        while True:
            self._skip(_SPACE)
            key = _KEY.match(self._text, self._at)
            assert key is not None
            self._at = key.end()
            quoted = key[0][0] in "\"'"
            found.append(tomllib.loads(f"x = {key[0]}")["x"] if quoted else key[0])
            self._skip(_SPACE)
            if not self._text.startswith(".", self._at):
                return found
            self._at += 1

    def _value(self, path: TomlPath) -> None:
        opening = self._text[self._at]
        if opening == "[":
            self._array(path)
        elif opening == "{":
            self._inline(path)
        else:
            self._skip(_STRING if opening in "\"'" else _SCALAR)

    def _array(self, path: TomlPath) -> None:
        self._at += 1
        position = 0
        while self._text[self._skip(_BLANK)] != "]":
            if self._text[self._at] == ",":
                self._at += 1
                continue
            self._note((*path, position), self._at)
            self._value((*path, position))
            position += 1
        self._at += 1

    def _inline(self, path: TomlPath) -> None:
        self._at += 1
        while self._text[self._skip(_BLANK)] != "}":
            if self._text[self._at] == ",":
                self._at += 1
                continue
            self._pair(path)
        self._at += 1

    def _skip(self, pattern: re.Pattern[str]) -> int:
        found = pattern.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
        return self._at

    def _note(self, path: TomlPath, start: int) -> None:
        self._lines.setdefault(path, bisect_right(self._breaks, start - 1) + 1)
