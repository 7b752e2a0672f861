"""What ``mount.keyvaultfs`` does: the words of mount(8), and what it wants of a helper."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from keyvaultfs.cli.launch import launch
from keyvaultfs.cli.messages import guarded, say
from keyvaultfs.errors import KeyVaultFSError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyvaultfs.keeper.start import Start

PROGRAM = "mount.keyvaultfs"
EX_USAGE, EX_SYSERR, EX_FAIL = 1, 2, 32
"""mount(8), "EXIT STATUS"."""

_VAULT_NAME = re.compile("[0-9A-Za-z-]{3,24}")

_KERNELS = ("user_id=", "group_id=", "max_read=", "default_permissions", "allow_other")
"""Options that mount(8) takes from mountinfo for a remount of what is not in fstab: the user has not written them."""


_NS_GET_USERNS, _NS_GET_USERNS_ELSEWHERE = 0xB701, 0x2000B701
"""ioctl_ns(2); elsewhere: where an ioctl's number has other bits."""
_ELSEWHERE = ("alpha", "mips", "ppc", "sparc")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Called by mount(8); see keyvaultfs mount --help."
    )
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")
    parser.add_argument("-s", dest="sloppy", action="store_true", help="ignore options that nobody knows")
    parser.add_argument("-f", dest="fake", action="store_true", help="check everything, and do not mount")
    parser.add_argument("-n", dest="no_mtab", action="store_true", help="accepted; there is no mtab")
    parser.add_argument("-v", dest="verbose", action="store_true", help="say what is done")
    parser.add_argument(
        "-N", dest="namespace", metavar="NAMESPACE", help="a mount namespace, as mount(8) has it"
    )
    parser.add_argument("-t", dest="fstype", metavar="TYPE", help="accepted")
    parser.add_argument("-o", dest="options", metavar="OPTIONS", action="append", default=[])
    return parser


def _enter(namespace: str) -> None:
    """Work in another mount namespace: a path, or the process id of who is in it."""
    import ctypes
    import os

    path = f"/proc/{namespace}/ns/mnt" if namespace.isdigit() else namespace
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise UsageError(f"-N {namespace}: {exc.strerror}") from None
    if not _is_ours(fd):
        raise UsageError(
            f"-N {namespace}: it belongs to another user namespace, whose Python would run here as root; mount in there"
        )
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, 0x00020000) != 0:
        raise UsageError(f"-N {namespace}: {os.strerror(ctypes.get_errno())}")
    os.close(fd)


def _is_ours(namespace: int) -> bool:
    """Whether a mount namespace is of our user namespace: what is imported and started in it are its own files."""
    import errno
    import fcntl
    import os

    elsewhere = os.uname().machine.startswith(_ELSEWHERE)
    try:
        owner = fcntl.ioctl(namespace, _NS_GET_USERNS_ELSEWHERE if elsewhere else _NS_GET_USERNS)
    except OSError as exc:  # EPERM: of one outside of ours; ENOTTY: it is no namespace, as setns(2) will say
        return exc.errno == errno.ENOTTY
    try:
        return os.path.samestat(os.stat("/proc/self/ns/user"), os.fstat(owner))  # noqa: PTH116
    finally:
        os.close(owner)


def _quoted(piece: str) -> str:
    """As `options.split` takes it for one piece."""
    return piece.replace("\\", "\\\\").replace(",", "\\,").replace('"', '\\"')


def _without_unknown(texts: Sequence[str]) -> list[str]:
    from keyvaultfs.settings import options

    pieces = []
    for piece in (piece for text in texts for piece in options.split(text) if piece):
        quoted = _quoted(piece)
        try:
            options.parse([quoted])
        except UsageError as exc:
            if "unknown option" in str(exc):
                continue
        pieces.append(quoted)
    return pieces


def _remount(args: argparse.Namespace, texts: Sequence[str]) -> int:
    """Answer ``-o remount``: the mount is read-only and stays so, and no option of ours can change without an unmount.

    Raises:
        UsageError: an option that nobody knows.
        KeyVaultFSError: read-write was asked for, or it is not mounted there.
    """
    import os

    from keyvaultfs.keeper import mountinfo, mounting
    from keyvaultfs.settings import options

    pieces = [piece for text in texts for piece in options.split(text) if not piece.startswith(_KERNELS)]
    parsed = options.parse([_quoted(piece) for piece in pieces])
    if [piece for piece in pieces if piece in {"ro", "rw"}][-1:] == ["rw"]:
        raise KeyVaultFSError("", "a vault cannot be written through this file system: it stays read-only")
    mountpoint = os.path.realpath(args.mountpoint)
    there = mountinfo.topmost(mountpoint)
    if there is None or there.fstype != mounting.FSTYPE:
        raise KeyVaultFSError("", f"{mountpoint} is not a keyvaultfs mount")
    if parsed.own:
        # Not a refusal: mount(8) adds what fstab says, whatever was asked for.
        say(
            f"a remount leaves {', '.join(parsed.own)} as it is; unmount and mount again to change it",
            PROGRAM,
        )
    return 0


def _source(source: str) -> str:
    """The source as somebody wrote it: mount(8) makes a path of what is also the name of a file where it runs.

    Raises:
        UsageError: it is a path, and what was written cannot be told.
    """
    import os

    if not source.startswith("/"):
        return source
    folder, name = os.path.split(source)
    links = (
        [entry.path for entry in os.scandir() if entry.is_symlink()] if folder == os.getcwd() else [source]  # noqa: PTH109
    )
    if any(os.path.realpath(link) == source for link in links) or not _VAULT_NAME.fullmatch(name):
        raise UsageError(
            f"{source} is no vault; mount(8) makes a path of a vault's name where a file has that name too: "
            f"write the URL, such as https://{name if _VAULT_NAME.fullmatch(name) else 'NAME'}.vault.azure.net"
        )
    return name


def _run(args: argparse.Namespace, begun: Start | None) -> int:
    texts = _without_unknown(args.options) if args.sloppy else args.options
    if args.namespace:
        _enter(args.namespace)
    from keyvaultfs.settings import options

    if any(piece == "remount" for text in texts for piece in options.split(text)):
        return _remount(args, texts)
    ready, notes = launch(_source(args.source), args.mountpoint, texts, foreground=False, debug=False)
    for note in notes:
        say(note, PROGRAM)
    if args.verbose:
        say(f"{ready.source} on {ready.mountpoint}", PROGRAM)
    if args.fake:
        return 0
    from keyvaultfs.keeper import start as keeper

    return EX_FAIL if keeper.run(ready, begun) else 0


def run(argv: Sequence[str] | None, begun: Start | None) -> int:
    """Mount, or what else is asked for.

    Args:
        argv: the words; None for those of this process.
        begun: what has begun ahead.

    Returns:
        An exit status of mount(8).
    """
    try:
        args = _parser().parse_args(argv)
    except SystemExit as exc:
        return EX_USAGE if exc.code else 0
    try:
        return guarded(lambda: _run(args, begun), usage=EX_USAGE, failed=EX_FAIL, program=PROGRAM)
    except OSError as exc:
        say(f"{args.mountpoint}: {exc.strerror or exc}", PROGRAM)
        return EX_SYSERR
