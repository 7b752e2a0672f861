"""The option table: what `-o`, the configuration file, `--help`, man page and completion are made from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from keyvaultfs.errors import UsageError
from keyvaultfs.identity import kinds as identities
from keyvaultfs.ipc import one_line
from keyvaultfs.settings import kinds, locations

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from keyvaultfs.settings.kind import Kind

_LONGEST_SHOWN = 200
"""Letters of what somebody wrote that a message about it quotes: it is one line, and can be read."""

_ENDPOINTS = ", ".join(f"{row.endpoint} for {row.word}" for row in identities.KINDS.values() if row.endpoint)
_IDENTITIES = ", ".join(f"{row.word} ({row.phrase})" for row in identities.KINDS.values())


class Option(NamedTuple):
    """One row of the table.

    Attributes:
        name: canonical, with ``_``.
        kind: what values it can have.
        help: what it does, a phrase.
        hidden: for the project's own tests.
    """

    name: str
    kind: Kind
    default: Any
    help: str
    hidden: bool = False

    @property
    def unit(self) -> str:
        """The metavariable of ``--help``, "" for a flag."""
        return self.kind.unit


def described(option: Option) -> str:
    """Its help, and its default as a user would write it."""
    if option.default in (None, False, ()):
        return option.help
    return f"{option.help} (default {option.kind.show(option.default)})"


_DECLARED: list[tuple[Kind, Any, str, bool]] = []
"""What `Option` says beside the name, in the order of the fields of `Settings`."""


def _option(kind: Kind, default: Any, phrase: str, *, hidden: bool = False) -> Any:
    _DECLARED.append((kind, default, phrase, hidden))
    return default


class Settings(NamedTuple):
    """The values of all options. Times in seconds, sizes in bytes."""

    ttl: float = _option(kinds.seconds(least=1), 300.0, "how old a value may be while the vault answers")
    list_ttl: float = _option(kinds.seconds(), 60.0, "the same for a directory listing")
    negative_ttl: float = _option(kinds.seconds(), 5.0, 'how long "no such secret" is remembered')
    max_stale: float = _option(
        kinds.seconds(), 86400.0, "how long past ttl the last value is served while nobody answers; 0: never"
    )
    max_cache: int = _option(kinds.SIZE, 64 << 20, "how much memory cached values may take")
    timeout: float = _option(
        kinds.seconds(least=1, most=kinds.DAY), 10.0, "how long a program may have to wait"
    )
    max_requests: int = _option(kinds.count(1, 256), 16, "how many requests to the vault may be in flight")
    announce: str = _option(
        kinds.choice("WHEN", "auto", "yes", "no"),
        "auto",
        "look for changes that nobody asks for: yes, no, or auto (while the listing is short)",
    )
    client_id: str | None = _option(kinds.text("ID"), None, "the user-assigned identity with this client id")
    object_id: str | None = _option(kinds.text("ID"), None, "the user-assigned identity with this object id")
    msi_res_id: str | None = _option(
        kinds.text("ID"), None, "the user-assigned identity with this resource id"
    )
    auth: str = _option(
        kinds.choice("HOW", *identities.KINDS),
        "imds",
        f"where tokens come from: {_IDENTITIES}",
    )
    imds_endpoint: str | None = _option(
        locations.URL, None, f"base URL of the token endpoint (default: {_ENDPOINTS})"
    )
    arc_tokens: str = _option(
        locations.FOLDER, "/var/opt/azcmagent/tokens", "where the Azure Arc agent puts its key files"
    )
    resource: str | None = _option(
        locations.RESOURCE, None, "whom tokens are for, where the vault's name does not tell"
    )
    api_version: str = _option(kinds.API_VERSION, "7.4", "of the vault's interface")
    ca_file: str | None = _option(locations.FILE, None, "authorities to trust instead of the system's")
    https_proxy: str | None = _option(
        locations.PROXY,
        None,
        "proxy for the vault, never for the token endpoint; @FILE: the file has the URL",
    )
    allow_http_loopback: bool = _option(kinds.FLAG, False, "allow plain HTTP for a vault on loopback")
    uid: int | None = _option(kinds.USER, None, "owner of the files (default: who mounts)")
    gid: int | None = _option(kinds.GROUP, None, "group of the files (default: the group of who mounts)")
    mode: int = _option(kinds.OCTAL, 0o400, "permission bits of a secret's file")
    dir_mode: int = _option(kinds.OCTAL, 0o755, "permission bits of directories")
    allow_other: bool | None = _option(kinds.FLAG, None, "let other users in (default: on when root mounts)")
    config: str | None = _option(locations.FILE, None, "a TOML file with these options as keys")
    run_as: str | None = _option(kinds.USER_NAME, None, "whom the worker becomes when root mounts")
    audit: str | None = _option(locations.AUDIT, None, "record each open in this file, or in the journal")
    decode: bool = _option(kinds.FLAG, False, "decode values whose tag file-encoding says base64 or hex")
    include: tuple[str, ...] = _option(kinds.GLOBS, (), "show these names only, such as pg-*:app-*")
    exclude: tuple[str, ...] = _option(kinds.GLOBS, (), "do not show these names")
    tags: tuple[tuple[str, str], ...] = _option(
        kinds.TAGS, (), "show secrets with this tag only; give it again for each further tag"
    )
    prefetch: tuple[str, ...] = _option(kinds.GLOBS, (), "fetch these at once, and keep them fresh")
    strict: bool = _option(kinds.FLAG, False, "do not mount when the vault cannot be reached")
    resend: bool = _option(kinds.FLAG, True, "use FUSE_NOTIFY_RESEND where the kernel has it", hidden=True)
    rename: bool = _option(kinds.FLAG, True, "announce by rename(2) where the kernel allows it", hidden=True)

    def __repr__(self) -> str:
        # A proxy's URL may have a password.
        shown = [row.name for row in OPTIONS if row.kind is not locations.PROXY]
        return f"Settings({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"


OPTIONS = tuple(Option(name, *row) for name, row in zip(Settings._fields, _DECLARED, strict=True))
BY_NAME = {option.name: option for option in OPTIONS}

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


class Parsed(NamedTuple):
    """What ``-o`` strings say.

    Attributes:
        own: our options as written, by canonical name; the last one of a name wins.
        generic: what goes on to the kernel (SELinux's contexts).
        flags: the generic options that were there, such as ``remount``.
        notes: sentences for the user.
    """

    own: dict[str, str]
    generic: tuple[str, ...]
    flags: frozenset[str]
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
    flags: set[str] = set()
    for piece in (piece for text_ in texts for piece in split(text_) if piece):
        name, _, value = piece.partition("=")
        if name in _CONTEXTS:
            generic.append(f"{name}={value}")
        elif piece in _GENERIC or piece.startswith(_GENERIC_PREFIXES):
            flags.add(piece)
        else:
            option = resolve(name)
            own[option.name] = _joined(option, own.get(option.name), _checked(option, value))
    notes = (
        ("mounted read-only: a vault cannot be written through this file system",) if "rw" in flags else ()
    )
    return Parsed(own, tuple(generic), frozenset(flags), notes)


def _checked(option: Option, value: str) -> str:
    """A value as written on a command line, with files' names made absolute."""
    if not value and option.unit:
        raise UsageError(f"option {option.name} wants {option.unit}: {option.help}")
    if option.kind.exposed(value):
        raise UsageError(
            f"option {option.name}: every user of this machine can read a command line, and this has a password; "
            f"write the URL into a file that root alone may read, and {option.name}=@FILE"
        )
    anchored = option.kind.anchored(value, _current_folder())
    value_of(option, anchored)
    return anchored


def _current_folder() -> str:
    """What names of files are relative to; where it was removed, a name for it in which nothing can be found."""
    try:
        return os.getcwd()  # noqa: PTH109
    except OSError:
        return "/proc/self/cwd"


def _joined(option: Option, before: str | None, value: str) -> str:
    separator = option.kind.separator
    return value if before is None or not separator else before + separator + value


def resolve(raw: str, others: tuple[str, ...] = ()) -> Option:
    """The option of a name, in which ``-`` and ``_`` are the same.

    Args:
        raw: as it is written.
        others: further names with which a wrong one is compared.

    Raises:
        UsageError: no option has this name; the message has the most similar one.
    """
    name = raw.replace("-", "_")
    if name in BY_NAME:
        return BY_NAME[name]
    names = [option.name for option in OPTIONS if not option.hidden]
    import difflib

    near = difflib.get_close_matches(name, [*names, *others, *_GENERIC], n=1)
    raise UsageError(
        f"unknown option {raw[:_LONGEST_SHOWN]!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    )


def value_of(option: Option, raw: str) -> Any:
    """Parse an option's value.

    Raises:
        UsageError: it cannot have that value.
    """
    try:
        return option.kind.parse(raw)
    except ValueError as exc:
        shown = one_line(option.kind.quoted(raw), _LONGEST_SHOWN)
        raise UsageError(f"option {option.name}={shown}: it should be {exc}") from None


def settings(own: Mapping[str, str]) -> Settings:
    """Values for all options, from text by canonical name.

    Raises:
        UsageError: a value that an option cannot have, or options that exclude each other.
    """
    found = Settings(**{name: value_of(resolve(name), raw) for name, raw in own.items()})
    together = excluding(own)
    if together:
        raise UsageError(exclusion(together))
    return found


def excluding(own: Mapping[str, str]) -> list[str]:
    """Those of some options that exclude each other."""
    named = [name for name in own if name in {"client_id", "object_id", "msi_res_id"}]
    return named if len(named) > 1 else []


def exclusion(names: list[str]) -> str:
    """The message about options that exclude each other."""
    return f"{' and '.join(names)} exclude each other: name the identity in one way"
