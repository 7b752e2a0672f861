"""The command line's grammar: its commands and their arguments. ``--help`` and completion are made from it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from keyvaultfs.settings import options
from keyvaultfs.version import package_version

if TYPE_CHECKING:
    from collections.abc import Sequence

_WRAP = 34


def option_table() -> str:
    """The options of ``-o`` for ``--help``."""
    lines = []
    for option in options.OPTIONS:
        if option.hidden:
            continue
        left = option.name + (f"={option.unit}" if option.unit else "")
        lines.append(f"  {left:<{_WRAP}}{options.described(option)}")
    return "\n".join(lines)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        sys.stdout.write(f"keyvaultfs {package_version()}\n")
        parser.exit()


class _Command(argparse.ArgumentParser):
    """Takes options anywhere, also between two words such as VAULT and NAME: argparse alone then has no NAME."""

    _within = False

    def parse_known_args(  # type: ignore[override]  # overloads, for which there is no need here
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's own; `parse_known_intermixed_args` calls this method again, and that call goes to argparse."""
        if self._within:
            return super().parse_known_args(args, namespace)
        self._within = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._within = False


def parser(*, dev: bool = True) -> argparse.ArgumentParser:
    """The whole command line; completion is made from it.

    Args:
        dev: whether the options of ``dev`` are there; the process that holds a mount does without, to stay small.
    """
    whole = argparse.ArgumentParser(prog="keyvaultfs", description="Mount an Azure Key Vault as a directory.")
    whole.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Command)

    mount = commands.add_parser(
        "mount",
        help="mount a vault",
        description="Mount a vault. Returns when the file system answers; the vault may be out of reach meanwhile.",
        epilog="options for -o ('-' and '_' are the same, times in seconds or with m, h, d):\n"
        + option_table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    mount.add_argument("vault", metavar="VAULT", nargs="?", help="a vault's name or its https:// URL")
    mount.add_argument("mountpoint", metavar="MOUNTPOINT", nargs="?", help="an empty directory")
    mount.add_argument("-f", "--foreground", action="store_true", help="stay, and log to standard error")
    mount.add_argument("-d", "--debug", action="store_true", help="log more")
    mount.add_argument(
        "-o", dest="options", metavar="OPTION[,OPTION…]", action="append", default=[], help="see below"
    )

    checks = commands.add_parser(
        "check",
        help="say why a vault cannot be read, and how to mend it",
        description="Walk from this machine to the vault as a mount would, step by step; under each step that fails"
        " stands the cure. Exit status 0 when none failed, 1 when one did.",
    )
    checks.add_argument("vault", metavar="VAULT", nargs="?", help="a vault's name or its https:// URL")
    checks.add_argument(
        "name", metavar="NAME", nargs="?", help="a secret to try; else the first of the listing"
    )
    checks.add_argument(
        "-o", dest="options", metavar="OPTION[,OPTION…]", action="append", default=[], help="as of mount"
    )
    checks.add_argument("--json", action="store_true", help="for programs")

    status = commands.add_parser("status", help="show how a mount is")
    status.add_argument("mountpoint", metavar="MOUNTPOINT")
    status.add_argument("--json", action="store_true", help="as the file .keyvaultfs/status has it")

    readers = commands.add_parser("readers", help="show who still uses an earlier version of a file")
    readers.add_argument("mountpoint", metavar="MOUNTPOINT")
    readers.add_argument("file", metavar="FILE", nargs="?", help="of this file only")
    readers.add_argument("--json", action="store_true", help="as the file .keyvaultfs/readers has it")

    wait = commands.add_parser("wait", help="wait until files can be read")
    wait.add_argument(
        "--timeout", metavar="SECONDS", type=_seconds, default=60.0, help="how long (default 60)"
    )
    wait.add_argument("files", metavar="FILE", nargs="+")

    metrics = commands.add_parser("metrics", help="print metrics, for node_exporter's textfile collector")
    metrics.add_argument(
        "mountpoints", metavar="MOUNTPOINT", nargs="*", help="none: all that this user has mounted"
    )
    metrics.add_argument("--output", metavar="FILE", help="replace this file, at one go")

    refresh = commands.add_parser("refresh", help="forget what is cached; the next read asks the vault")
    refresh.add_argument("mountpoint", metavar="MOUNTPOINT")

    embedded = commands.add_parser("dev", help="run a vault on loopback, to try things without Azure")
    if dev:
        from keyvaultfs.cli import dev as vault

        vault.add_arguments(embedded)
    return whole


def _seconds(text: str) -> float:
    from keyvaultfs.settings import kinds

    try:
        return float(kinds.seconds().parse(text))
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"it should be {exc}") from None
