"""A TOML file with a mount's options as flat keys. Every mistake is told at once, each with its place."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keyvaultfs import options, parsers
from keyvaultfs.errors import UsageError

if TYPE_CHECKING:
    from keyvaultfs.ipc import Launch
    from keyvaultfs.options import Settings

_NAMES = ("vault", "mountpoint")
_MISTAKE_SEPARATOR = "\n"


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a file says: vault and mount point (None where it is silent), and options as text."""

    vault: str | None
    mountpoint: str | None
    options: dict[str, str]


def load(path: str) -> Configuration:
    """Read a configuration file.

    Raises:
        UsageError: it cannot be read, or has mistakes; one line each, as ``FILE:LINE: what is wrong``.
    """
    import tomllib

    try:
        with open(path, "rb") as file:  # noqa: PTH123 - as the keeper does everywhere
            text = file.read().decode("utf-8")
        data = tomllib.loads(text)
    except OSError as exc:
        raise UsageError(f"{path}: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: it is not UTF-8") from None
    except tomllib.TOMLDecodeError as exc:
        raise UsageError(f"{path}: {exc}") from None
    named: dict[str, str] = {}
    own: dict[str, str] = {}
    mistakes: list[str] = []
    for key, value in data.items():
        try:
            if key in _NAMES:
                named[key] = _word(key, value)
            else:
                name, raw = _option(key, value, path)
                own[name] = raw
        except UsageError as exc:
            mistakes.append(f"{path}:{_line(text, key)}: {exc}")
    if not mistakes:
        try:
            options.settings(own)
        except UsageError as exc:
            mistakes.append(f"{path}: {exc}")
    if mistakes:
        raise UsageError(_MISTAKE_SEPARATOR.join(mistakes))
    return Configuration(named.get("vault"), named.get("mountpoint"), own)


def settings(launch: Launch) -> Settings:
    """The settings of a mount: its file's, and over them its own.

    Raises:
        UsageError: as `load` and `options.settings`.
    """
    below = load(launch.config).options if launch.config else {}
    return options.settings(below | launch.options)


def _word(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f'{key} should be text, as in {key} = "…"')
    return value


def _option(key: str, value: Any, path: str) -> tuple[str, str]:
    option = options.resolve(key)
    if option.name == "config" or option.hidden:
        raise UsageError(f"{key} cannot stand in a file")
    if option.parse in {parsers.octal, parsers.text} and not isinstance(value, str):
        raise UsageError(f'{key} should be in quotation marks, as in {key} = "0400"')
    if isinstance(value, bool):
        raw = "yes" if value else "no"
    elif isinstance(value, list) and all(isinstance(item, str) for item in value):
        raw = ":".join(value)
    elif isinstance(value, str | int | float):
        raw = str(value)
    else:
        raise UsageError(f"{key} cannot be a {type(value).__name__}")
    if option.parse is parsers.existing_file:
        raw = os.path.join(os.path.dirname(os.path.abspath(path)), raw)  # noqa: PTH100, PTH118, PTH120
    options.value_of(option, raw)
    return option.name, raw


def _line(text: str, key: str) -> int:
    """The line of a key: tomllib does not tell."""
    pattern = re.compile(rf"""^\s*["']?{re.escape(key)}["']?\s*[.=\]]|^\s*\[+\s*["']?{re.escape(key)}""")
    return next((number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line)), 1)
