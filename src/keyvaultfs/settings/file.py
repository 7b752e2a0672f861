"""A TOML file with a mount's options as keys. All its mistakes are reported at once, each with its line."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from keyvaultfs.errors import UsageError
from keyvaultfs.settings import options

if TYPE_CHECKING:
    from keyvaultfs.ipc import Launch
    from keyvaultfs.settings.options import Settings
    from keyvaultfs.settings.toml_lines import TomlPath

_NAMES = ("vault", "mountpoint")
LAYOUT_KEYS = ("only_files", "rules", "map", "files")
"""Keys that are no options: they describe what the mount shows, and `layout` reads them."""
_DECODER_LINE = re.compile(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", re.DOTALL)
_BARE_MODE = re.compile(r"[^=#]*=\s*0[0-7]+\s*(#.*)?")


class Document:
    """A TOML file as it was read, and the mistakes that were found in it.

    Attributes:
        path: of the file, for messages.
        folder: names of files in it are relative to this one.
        data: its keys.

    Raises:
        UsageError: it cannot be read, or is no TOML.
    """

    def __init__(self, path: str) -> None:
        import tomllib

        self.path = path
        self.folder = os.path.dirname(os.path.abspath(path))  # noqa: PTH100, PTH120
        self._mistakes: list[tuple[int, str]] = []
        try:
            with open(path, "rb") as file:  # noqa: PTH123 - as the keeper does everywhere
                read = file.read()
            self._text = read.decode("utf-8")
            self.data = tomllib.loads(self._text)
        except OSError as exc:
            raise UsageError(f"{path}: {exc.strerror}") from None
        except UnicodeDecodeError as exc:
            line = read.count(b"\n", 0, exc.start) + 1
            raise UsageError(f"{path}:{line}: it is not UTF-8") from None
        except tomllib.TOMLDecodeError as exc:
            raise UsageError(f"{path}:{_decoder_message(str(exc), self._text)}") from None
        except (ValueError, RecursionError):  # a number of thousands of digits; brackets in brackets
            raise UsageError(
                f"{path}: a number in it is too long, or brackets are nested too deeply"
            ) from None

    def mistake(self, toml_path: TomlPath, message: str) -> None:
        """Note what is wrong with a table or key."""
        from keyvaultfs.settings.toml_lines import TomlLines

        self._mistakes.append((TomlLines(self._text).line(toml_path), message))

    @property
    def laid_out(self) -> bool:
        """Whether it describes a tree."""
        return any(key in self.data for key in LAYOUT_KEYS)

    @property
    def sound(self) -> bool:
        """Whether no mistake was noted."""
        return not self._mistakes

    def check(self) -> None:
        """Tell what is wrong.

        Raises:
            UsageError: ``FILE:LINE: what is wrong`` for each mistake, in their order in the file.
        """
        if self._mistakes:
            lines = dict.fromkeys(
                f"{self.path}:{line}: {message}" for line, message in sorted(self._mistakes)
            )
            raise UsageError("\n".join(lines))


def _decoder_message(message: str, text: str) -> str:
    """The TOML decoder's message, as ``LINE: what is wrong``."""
    found = _DECODER_LINE.fullmatch(message)
    lines = text.split("\n")
    if found is None:
        return f"1: {message}"
    line = int(found[2]) if found[2] else len(text.rstrip("\n").split("\n"))
    if _BARE_MODE.fullmatch(lines[line - 1].rstrip("\r")):
        return f'{line}: no number begins with 0 in TOML; a mode is in quotation marks, as in "0400"'
    return f"{line}: {found[1]}"


class Configuration(NamedTuple):
    """What a file says: vault and mount point (None where it is silent), and options as text."""

    vault: str | None
    mountpoint: str | None
    options: dict[str, str]


def load(path: str) -> Configuration:
    """Read the options of a configuration file.

    Raises:
        UsageError: it cannot be read, or has mistakes; one line each, as ``FILE:LINE: what is wrong``.
    """
    document = Document(path)
    found = configuration(document)
    document.check()
    return found


def configuration(document: Document) -> Configuration:
    """The options of a file; what is wrong with them is noted in the document."""
    named: dict[str, str] = {}
    own: dict[str, str] = {}
    for key, value in document.data.items():
        if key in LAYOUT_KEYS:
            continue
        try:
            if key in _NAMES:
                named[key] = _option_text(key, value)
            else:
                name, raw = _option(key, value, document.folder)
                if name in own:
                    raise UsageError(f"{key} is there twice, once with '-' and once with '_'")  # noqa: TRY301
                own[name] = raw
        except UsageError as exc:
            document.mistake((key,), str(exc))
    together = options.excluding(own)
    if together:
        document.mistake((together[-1],), options.exclusion(together))
    return Configuration(named.get("vault"), named.get("mountpoint"), own)


def settings(launch: Launch) -> Settings:
    """The settings of a mount: its file's, and over them its own.

    Raises:
        UsageError: as `load` and `options.settings`.
    """
    below = load(launch.config).options if launch.config else {}
    return options.settings({**below, **launch.options})


def exposed(launch: Launch, found: Settings) -> tuple[str, ...]:
    """A sentence for the user if other users may read the file that has the proxy's password."""
    if "@" not in (found.https_proxy or ""):
        return ()
    below = load(launch.config).options if launch.config else {}
    raw = {**below, **launch.options}["https_proxy"]
    path = raw[1:] if raw.startswith("@") else launch.config
    try:
        readable = path is not None and os.stat(path).st_mode & 0o004  # noqa: PTH116
    except OSError:
        return ()
    return (f"other users may read the proxy's password: chmod o-r {path}",) if readable else ()


def _option_text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable() or not value:
        raise UsageError(f'{key} should be text, as in {key} = "…"')
    return value


def _option(key: str, value: Any, folder: str) -> tuple[str, str]:
    option = options.resolve(key, LAYOUT_KEYS)
    if option.name == "config" or option.hidden:
        raise UsageError(f"{key} cannot stand in a file")
    try:
        raw = option.kind.anchored(option.kind.toml(value), folder)
    except ValueError as exc:
        raise UsageError(f"{key} should be {exc}") from None
    options.value_of(option, raw)
    return option.name, raw
