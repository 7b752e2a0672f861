"""``mount.keyvaultfs``: what mount(8) calls for the types keyvaultfs and fuse.keyvaultfs."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from keyvaultfs.cli.main import guarded, launch, say
from keyvaultfs.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "mount.keyvaultfs"
EX_USAGE, EX_FAIL = 1, 32
"""mount(8), "EXIT STATUS"."""


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
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, 0x00020000) != 0:
        raise UsageError(f"-N {namespace}: {os.strerror(ctypes.get_errno())}")
    os.close(fd)


def _known_only(texts: Sequence[str]) -> list[str]:
    from keyvaultfs import options

    kept = []
    for piece in (piece for text in texts for piece in options.split(text) if piece):
        quoted = piece.replace("\\", "\\\\").replace(",", "\\,")
        try:
            options.parse([quoted])
        except UsageError as exc:
            if "unknown option" in str(exc):
                continue
        kept.append(quoted)
    return kept


def _run(args: argparse.Namespace) -> int:
    texts = _known_only(args.options) if args.sloppy else args.options
    if args.namespace:
        _enter(args.namespace)
    ready, notes = launch(args.source, args.mountpoint, texts, foreground=False, debug=False)
    for note in notes:
        say(note, PROGRAM)
    if args.verbose:
        say(f"{ready.source} on {ready.mountpoint}", PROGRAM)
    if args.fake:
        return 0
    from keyvaultfs.keeper import start as keeper

    return EX_FAIL if keeper.run(ready) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``mount.keyvaultfs``."""
    try:
        args = _parser().parse_args(argv)
    except SystemExit as exc:
        return EX_USAGE if exc.code else 0
    return guarded(lambda: _run(args), usage=EX_USAGE, failed=EX_FAIL, program=PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
