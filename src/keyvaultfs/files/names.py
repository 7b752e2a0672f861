"""Paths below a mount point, and patterns over them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

RESERVED = ".keyvaultfs"
"""The control directory's."""

_LONGEST_PART = 255
"""Bytes; what the kernel takes (NAME_MAX)."""
_LONGEST_PATH = 4095
"""Bytes (PATH_MAX without the final NUL)."""


def check(path: str) -> str:
    """A relative path of a file.

    Raises:
        ValueError: what it should be.
    """
    parts = path.split("/")
    if not path or path.startswith("/"):
        raise ValueError("a path relative to the mount point")
    if "" in parts or "." in parts or ".." in parts:
        raise ValueError("a path without '.', '..' and empty parts")
    if "\0" in path:
        raise ValueError("a path without a NUL")
    if parts[0] == RESERVED:
        raise ValueError(f"another path: {RESERVED} is taken")
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        raise ValueError("a path in UTF-8") from None
    if max(sizes) > _LONGEST_PART:
        raise ValueError(f"a path whose parts have at most {_LONGEST_PART} bytes each")
    if sum(sizes) + len(parts) - 1 > _LONGEST_PATH:
        raise ValueError(f"a path of at most {_LONGEST_PATH} bytes")
    return path


def parents(path: str) -> list[str]:
    """The directories that a path is in, outermost first; the root is not among them."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _translated(pattern: str) -> str:
    """A pattern over paths -> a regular expression. `*` and `?` stay within a folder, `**` crosses."""
    pieces = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        pieces.get(piece) or re.escape(piece) for piece in re.findall(r"\*\*/|\*\*|\*|\?|[^*?]+", pattern)
    )


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern over paths.

    Raises:
        ValueError: what it should be.
    """

    text: str
    _exact: re.Pattern[str] = field(init=False, repr=False, compare=False)
    _folded: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.text or self.text.startswith("/") or self.text.endswith("/"):
            raise ValueError("a pattern over paths relative to the mount point, such as postgres/**")
        expression = _translated(self.text)
        object.__setattr__(self, "_exact", re.compile(expression, re.DOTALL))
        object.__setattr__(self, "_folded", re.compile(expression, re.DOTALL | re.IGNORECASE))

    def matches(self, path: str, *, folded: bool = False) -> bool:
        """Whether a path is one of those meant.

        Args:
            folded: without regard to case, as names of secrets are compared.
        """
        return (self._folded if folded else self._exact).fullmatch(path) is not None


@dataclass(frozen=True, slots=True)
class Starred:
    """Text with exactly one ``*``, which stands for one letter or more.

    Raises:
        ValueError: it has none, or several.
    """

    text: str
    before: str = field(init=False)
    after: str = field(init=False)

    def __post_init__(self) -> None:
        if self.text.count("*") != 1:
            raise ValueError("text with exactly one *")
        before, _, after = self.text.partition("*")
        object.__setattr__(self, "before", before)
        object.__setattr__(self, "after", after)

    def star(self, name: str) -> str | None:
        """What the star stands for in a name, without regard to the name's case; None where it does not match."""
        folded = name.lower()
        before, after = self.before.lower(), self.after.lower()
        if (
            len(name) <= len(before) + len(after)
            or not folded.startswith(before)
            or not folded.endswith(after)
        ):
            return None
        return name[len(before) : len(name) - len(after)]

    def filled(self, star: str) -> str:
        """The text with something in the star's place."""
        return self.before + star + self.after
