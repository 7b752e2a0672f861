"""Text as a kind of file reads it back: each function quotes for one reader, or says that the reader cannot have it.

Where the first line says so, the quotation marks come along: ``password = {{ secret('x') | toml }}``.
"""

from __future__ import annotations

import re
import shlex
from types import MappingProxyType
from typing import TYPE_CHECKING

from keyvaultfs.errors import CannotMake

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_LINE = (
    4_000  # bytes that a reader with a buffer of 4,096 for a line can have, with room for what stands before
)
_BREAKS = re.compile(r"[\n\r\0]")
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_ENDS_OF_PLANES = "".join(chr(plane << 16 | end) for plane in range(17) for end in (0xFFFE, 0xFFFF))
_NONCHARACTERS = re.compile(
    f"[\ufdd0-\ufdef{_ENDS_OF_PLANES}]"
)  # systemd, src/basic/utf8.c: unichar_is_valid
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # XML 1.0, section 2.2
_PLAIN_NETRC = re.compile(r"[!$-[\]-~][!#-[\]-~]*")
"""ASCII alone: without quotation marks, curl 8.14 ends a word at the first other byte."""
_TOML = {chr(code): f"\\u{code:04X}" for code in (*range(32), 127)}
_TOML |= {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
_MYCNF = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_PROPERTIES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"} | {
    c: f"\\{c}" for c in "=:#!"
}
_XML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}
_XML |= {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"}  # which an attribute would turn into spaces


def pgpass(text: str) -> str:
    r"""A field of libpq's password file, where ``:`` and ``\`` stand behind a ``\`` (libpq, fe-connect.c).

    Raises:
        CannotMake: it has a line break or a NUL.
    """
    if _BREAKS.search(text):
        raise CannotMake("a line of .pgpass cannot hold a line break or a NUL")
    quoted = text.replace("\\", "\\\\").replace(":", "\\:")
    # A * alone would match everything, and a # that begins a line makes a comment of it.
    return "\\" + quoted if quoted == "*" or quoted.startswith("#") else quoted


def mycnf(text: str) -> str:
    """A value of an option file of MySQL and MariaDB (mysys/my_default.c), in quotation marks.

    Raises:
        CannotMake: it has a NUL, or is too long for the client's buffer.
    """
    if "\0" in text:
        raise CannotMake("an option file of MySQL cannot hold a NUL")
    return _short(f'"{_marked(text, _MYCNF)}"', "an option file of MySQL")


def netrc(text: str) -> str:
    """A word of .netrc, in quotation marks if need be: curl from 7.84 and Python from 3.11 read the same.

    Raises:
        CannotMake: it is empty, too long, or has a control character.
    """
    if not text or _CONTROLS.search(text):
        raise CannotMake("a word of .netrc cannot be empty or hold a control character")
    if _PLAIN_NETRC.fullmatch(text) is None:
        text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return _short(text, ".netrc")


def sh(text: str) -> str:
    """One word of a shell's command line, in quotation marks if need be.

    Raises:
        CannotMake: it has a NUL.
    """
    if "\0" in text:
        raise CannotMake("a shell's word cannot hold a NUL")
    return shlex.quote(text)


def env(text: str) -> str:
    """A value that a shell and systemd's ``EnvironmentFile=`` (src/basic/env-file.c) read alike, in quotation marks.

    Raises:
        CannotMake: it has a NUL, or one of Unicode's noncharacters, which systemd refuses.
    """
    if "\0" in text or _NONCHARACTERS.search(text):
        raise CannotMake("an environment variable cannot hold a NUL or a noncharacter of Unicode")
    return '"' + re.sub(r'(["\\`$])', r"\\\1", text) + '"'


def properties(text: str) -> str:
    """A value of java.util.Properties, all in ASCII."""
    rest = text.lstrip(" ")
    return "\\ " * (len(text) - len(rest)) + "".join(
        _PROPERTIES.get(letter) or _ascii(letter) for letter in rest
    )


def properties_key(text: str) -> str:
    """A key of java.util.Properties, all in ASCII."""
    return "\\ ".join(properties(word) for word in text.split(" "))


def toml(text: str) -> str:
    """A string of TOML, in quotation marks."""
    return f'"{_marked(text, _TOML)}"'


def xml(text: str) -> str:
    """The text of an XML element, or an attribute's value without its quotation marks.

    Raises:
        CannotMake: it has a character that XML 1.0 has not.
    """
    if _NOT_XML.search(text):
        raise CannotMake("XML cannot hold a control character")
    return _marked(text, _XML)


FILTERS: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "pgpass": pgpass,
        "mycnf": mycnf,
        "netrc": netrc,
        "sh": sh,
        "env": env,
        "properties": properties,
        "toml": toml,
        "xml": xml,
    }
)
"""By the name that a template uses."""


def _marked(text: str, marks: Mapping[str, str]) -> str:
    return "".join(marks.get(letter, letter) for letter in text)


def _ascii(letter: str) -> str:
    if " " <= letter <= "~":
        return letter
    units = letter.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02X}{units[i + 1]:02X}" for i in range(0, len(units), 2))


def _short(quoted: str, where: str) -> str:
    if len(quoted.encode()) > _LINE:
        raise CannotMake(f"a line of {where} cannot be so long")
    return quoted
