"""`Kind`, the description of the values that an option can have; and the conversion of TOML values to an option's text.

Options are text on a command line and typed values in TOML: both become text first, which the kind then parses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


def as_text(value: Any) -> str:
    """A TOML value that has to be text.

    Raises:
        ValueError: it is of another type; the message says what it should be.
    """
    if not isinstance(value, str):
        raise ValueError("text, in quotation marks")
    return value


def as_number(value: Any) -> str:
    """The text of a TOML number; text stays as it is. Raises as `as_text`."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError('a number, or text such as "5m"')
    return str(value)


def as_id(value: Any) -> str:
    """The text of a whole number in TOML; text, such as a user's name, stays as it is. Raises as `as_text`."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("a number, or a name in quotation marks")
    return str(value)


def as_flag(value: Any) -> str:
    """TOML's true and false as "yes" and "no"; text stays as it is. Raises as `as_text`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, str):
        raise ValueError("true or false")
    return value


def as_list(separator: str) -> Callable[[Any], str]:
    """A function that joins a TOML array of texts; it raises as `as_text`."""

    def joined(value: Any) -> str:
        if isinstance(value, str):
            return value
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError("a list of texts")
        return separator.join(value)

    return joined


def _anywhere(raw: str, _folder: str) -> str:
    return raw


def _plain(raw: str) -> str:
    return raw


def _never(_raw: str) -> bool:
    return False


class Kind(NamedTuple):
    """How the values of an option are parsed, shown, written in TOML and completed by a shell.

    Attributes:
        unit: the metavariable of ``--help``; "" for a flag, which may stand without a value.
        parse: text -> value; a ValueError says what it should be, and never quotes the text.
        show: value -> text, as a user would write it.
        toml: a TOML value -> text; a ValueError says what it should be.
        anchored: text and a folder -> the same text, in which a file's name is no longer relative to the folder.
        quoted: text -> how a message may quote it: a password is left out.
        exposed: whether the text has what other users must not see; they see a command line.
        separator: what joins texts of an option that may be given several times; "" where the last one counts.
        offers: what a shell offers: words, or one of "files", "folders", "users", "groups".
    """

    unit: str
    parse: Callable[[str], Any]
    show: Callable[[Any], str] = str
    toml: Callable[[Any], str] = as_text
    anchored: Callable[[str, str], str] = _anywhere
    quoted: Callable[[str], str] = _plain
    exposed: Callable[[str], bool] = _never
    separator: str = ""
    offers: str | tuple[str, ...] = ()
