"""The option table: what `-o`, the configuration file, `--help`, man page and completion are made from."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from keyvaultfs import parsers
from keyvaultfs.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

DEFAULT_IMDS = "http://169.254.169.254"


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table.

    Attributes:
        name: canonical, with ``_``.
        parse: text -> value; a ValueError says what the value should be.
        unit: the metavariable of ``--help``, "" for a flag.
        help: what it does, a phrase.
        hidden: for the project's own tests.
    """

    name: str
    parse: Callable[[str], Any]
    default: Any
    unit: str
    help: str
    hidden: bool = False


def described(option: Option) -> str:
    """Its help, and its default as a user would write it."""
    if option.default in (None, False, ()):
        return option.help
    if option.parse is parsers.octal:
        return f"{option.help} (default {option.default:04o})"
    if option.parse is parsers.size:
        return f"{option.help} (default {option.default >> 20}M)"
    text = f"{option.default:g}" if isinstance(option.default, float) else str(option.default)
    return f"{option.help} (default {text})"


def _option(parse: Callable[[str], Any], default: Any, unit: str, words: str, *, hidden: bool = False) -> Any:
    return field(default=default, metadata={"row": (parse, unit, words, hidden)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The values of all options. Times in seconds, sizes in bytes."""

    ttl: float = _option(
        parsers.positive_seconds, 300.0, "SECONDS", "how old a value may be while the vault answers"
    )
    list_ttl: float = _option(parsers.seconds, 60.0, "SECONDS", "the same for a directory listing")
    negative_ttl: float = _option(parsers.seconds, 5.0, "SECONDS", 'how long "no such secret" is remembered')
    max_stale: float = _option(
        parsers.seconds,
        86400.0,
        "SECONDS",
        "how long past ttl the last value is served while nobody answers; 0: never",
    )
    max_cache: int = _option(parsers.size, 64 << 20, "SIZE", "how much memory cached values may take")
    timeout: float = _option(parsers.positive_seconds, 10.0, "SECONDS", "how long a program may have to wait")
    max_requests: int = _option(
        parsers.count, 16, "NUMBER", "how many requests to the vault may be in flight"
    )
    client_id: str | None = _option(
        parsers.text, None, "ID", "the user-assigned identity with this client id"
    )
    object_id: str | None = _option(
        parsers.text, None, "ID", "the user-assigned identity with this object id"
    )
    msi_res_id: str | None = _option(
        parsers.text, None, "ID", "the user-assigned identity with this resource id"
    )
    auth: str = _option(parsers.auth, "imds", "HOW", "imds, or azure-identity (the library of that name)")
    imds_endpoint: str = _option(parsers.url, DEFAULT_IMDS, "URL", "base URL of the token endpoint")
    resource: str | None = _option(
        parsers.resource, None, "URL", "whom tokens are for, where the vault's name does not tell"
    )
    api_version: str = _option(parsers.api_version, "7.4", "VERSION", "of the vault's interface")
    ca_file: str | None = _option(
        parsers.existing_file, None, "FILE", "authorities to trust instead of the system's"
    )
    https_proxy: str | None = _option(
        parsers.url, None, "URL", "proxy for the vault; never for the token endpoint"
    )
    allow_http_loopback: bool = _option(parsers.flag, False, "", "allow plain HTTP for a vault on loopback")
    uid: int | None = _option(parsers.user, None, "USER", "owner of the files (default: who mounts)")
    gid: int | None = _option(
        parsers.group, None, "GROUP", "group of the files (default: the group of who mounts)"
    )
    mode: int = _option(parsers.octal, 0o400, "OCTAL", "permission bits of a secret's file")
    dir_mode: int = _option(parsers.octal, 0o755, "OCTAL", "permission bits of directories")
    allow_other: bool | None = _option(
        parsers.flag, None, "", "let other users in (default: on when root mounts)"
    )
    config: str | None = _option(
        parsers.existing_file, None, "FILE", "a TOML file with these options as keys"
    )
    run_as: str | None = _option(parsers.user_name, None, "USER", "whom the worker becomes when root mounts")
    decode: bool = _option(
        parsers.flag, False, "", "decode values whose tag file-encoding says base64 or hex"
    )
    include: tuple[str, ...] = _option(
        parsers.globs, (), "GLOBS", "show these names only, such as pg-*:app-*"
    )
    exclude: tuple[str, ...] = _option(parsers.globs, (), "GLOBS", "do not show these names")
    prefetch: tuple[str, ...] = _option(
        parsers.globs, (), "GLOBS", "fetch these at once, and keep them fresh"
    )
    strict: bool = _option(parsers.flag, False, "", "do not mount when the vault cannot be reached")
    resend: bool = _option(
        parsers.flag, True, "", "use FUSE_NOTIFY_RESEND where the kernel has it", hidden=True
    )


def _rows() -> tuple[Option, ...]:
    rows = []
    for item in fields(Settings):
        parse_value, unit, words, hidden = item.metadata["row"]
        rows.append(Option(item.name, parse_value, item.default, unit, words, hidden))
    return tuple(rows)


OPTIONS = _rows()
BY_NAME = {option.name: option for option in OPTIONS}

_LATER = {
    "audit": "audit= is not there yet in this version; the kernel's audit subsystem can watch the mount point"
}

_CONTEXTS = {"context", "fscontext", "defcontext", "rootcontext"}
_GENERIC = frozenset(
    """
    defaults auto noauto user users nouser owner group ro rw suid nosuid dev nodev exec noexec sync async dirsync
    atime noatime diratime nodiratime relatime norelatime strictatime nostrictatime lazytime nolazytime
    iversion noiversion mand nomand silent loud nofail fail _netdev _rnetdev remount default_permissions
    nosymfollow symfollow bg fg
    """.split()  # noqa: SIM905 - reads better than forty quotation marks
)
_GENERIC_PREFIXES = ("x-", "X-", "comment=", "uhelper=", "helper=", "fsname=", "subtype=")


@dataclass(frozen=True, slots=True)
class Parsed:
    """What ``-o`` strings say.

    Attributes:
        own: our options as written, by canonical name; the last one of a name wins.
        generic: what goes on to the kernel (SELinux's contexts).
        words: the generic options that were there, such as ``remount``.
        notes: sentences for the user.
    """

    own: dict[str, str]
    generic: tuple[str, ...]
    words: frozenset[str]
    notes: tuple[str, ...]


def split(texts: str) -> list[str]:
    r"""Split at commas, but not inside double quotes nor at ``\,`` (as libfuse and mount(8) do)."""
    pieces, piece, quoted, escaped = [], "", False, False
    for letter in texts:
        if escaped or (letter not in '\\",'):
            piece, escaped = piece + letter, False
        elif letter == "\\":
            escaped = True
        elif letter == '"':
            quoted = not quoted
        elif quoted:
            piece += letter
        else:
            pieces.append(piece)
            piece = ""
    return [*pieces, piece]


def parse(texts: Iterable[str]) -> Parsed:
    """Sort what stands behind ``-o``.

    Raises:
        UsageError: an option that nobody knows, or one of ours with a value that it cannot have.
    """
    own: dict[str, str] = {}
    generic: list[str] = []
    words: set[str] = set()
    for piece in (piece for text_ in texts for piece in split(text_) if piece):
        name, _, value = piece.partition("=")
        if name in _CONTEXTS:
            generic.append(f"{name}={value}")
        elif piece in _GENERIC or piece.startswith(_GENERIC_PREFIXES):
            words.add(piece)
        else:
            option = resolve(name)
            if not value and option.unit:
                raise UsageError(f"option {option.name} wants {option.unit}: {option.help}")
            checked = value_of(option, value)
            own[option.name] = checked if option.parse is parsers.existing_file else value
    notes = (
        ("mounted read-only: a vault cannot be written through this file system",) if "rw" in words else ()
    )
    return Parsed(own, tuple(generic), frozenset(words), notes)


def resolve(raw: str) -> Option:
    """The option of a name, in which ``-`` and ``_`` are the same.

    Raises:
        UsageError: there is none; the nearest is named.
    """
    name = raw.replace("-", "_")
    if name in BY_NAME:
        return BY_NAME[name]
    if name in _LATER:
        raise UsageError(_LATER[name])
    known = [option.name for option in OPTIONS if not option.hidden]
    import difflib

    near = difflib.get_close_matches(name, [*known, *_GENERIC], n=1)
    raise UsageError(f"unknown option {raw!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def value_of(option: Option, raw: str) -> Any:
    """Parse an option's value.

    Raises:
        UsageError: it cannot have that value.
    """
    try:
        return option.parse(raw)
    except ValueError as exc:
        raise UsageError(f"option {option.name}={raw}: it should be {exc}") from None


def settings(own: Mapping[str, str]) -> Settings:
    """Values for all options, from text by canonical name.

    Raises:
        UsageError: a value that an option cannot have, or options that exclude each other.
    """
    found = Settings(**{name: value_of(resolve(name), raw) for name, raw in own.items()})
    identities = [
        name for name in ("client_id", "object_id", "msi_res_id") if getattr(found, name) is not None
    ]
    if len(identities) > 1:
        raise UsageError(f"{' and '.join(identities)} exclude each other: name the identity in one way")
    return found
