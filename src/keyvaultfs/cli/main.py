"""The command line: one function a command."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from typing import TYPE_CHECKING

from keyvaultfs.errors import KeyVaultFSError, UsageError
from keyvaultfs.ipc import Launch
from keyvaultfs.settings import file, options
from keyvaultfs.version import package_version

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

USAGE, FAILED = 2, 1
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
        """As argparse has it, which is called back by what it is that does it."""
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
        dev: with the options of ``dev``: not for the process that holds a mount, which is kept small.
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
    mount.set_defaults(run=_mount)

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
    checks.set_defaults(run=_check)

    status = commands.add_parser("status", help="show how a mount is")
    status.add_argument("mountpoint", metavar="MOUNTPOINT")
    status.add_argument("--json", action="store_true", help="as the file .keyvaultfs/status has it")
    status.set_defaults(run=_status)

    readers = commands.add_parser("readers", help="show who still uses an earlier version of a file")
    readers.add_argument("mountpoint", metavar="MOUNTPOINT")
    readers.add_argument("file", metavar="FILE", nargs="?", help="of this file only")
    readers.add_argument("--json", action="store_true", help="as the file .keyvaultfs/readers has it")
    readers.set_defaults(run=_readers)

    wait = commands.add_parser("wait", help="wait until files can be read")
    wait.add_argument(
        "--timeout", metavar="SECONDS", type=_seconds, default=60.0, help="how long (default 60)"
    )
    wait.add_argument("files", metavar="FILE", nargs="+")
    wait.set_defaults(run=_wait)

    metrics = commands.add_parser("metrics", help="print metrics, for node_exporter's textfile collector")
    metrics.add_argument(
        "mountpoints", metavar="MOUNTPOINT", nargs="*", help="none: all that this user has mounted"
    )
    metrics.add_argument("--output", metavar="FILE", help="replace this file, at one go")
    metrics.set_defaults(run=_metrics)

    refresh = commands.add_parser("refresh", help="forget what is cached; the next read asks the vault")
    refresh.add_argument("mountpoint", metavar="MOUNTPOINT")
    refresh.set_defaults(run=_refresh)

    embedded = commands.add_parser("dev", help="run a vault on loopback, to try things without Azure")
    if dev:
        _add_dev(embedded)
    return whole


def _add_dev(dev: argparse.ArgumentParser) -> None:
    try:
        from keyvaultfs_devvault.arguments import add_arguments
    except ImportError as exc:
        raise UsageError(_without_dev_vault(exc)) from None
    add_arguments(dev)
    dev.set_defaults(run=_dev)


def _dev(args: argparse.Namespace) -> int:
    try:
        from keyvaultfs_devvault import main as embedded
    except ImportError as exc:
        raise UsageError(_without_dev_vault(exc)) from None
    return embedded.run(args)


def _without_dev_vault(exc: ImportError) -> str:
    """What to install: the .deb and the .rpm have the embedded vault apart, and a wheel has its libraries apart."""
    missing = (exc.name or "its libraries").partition(".")[0]
    return (
        f"the embedded vault needs {missing}: install the package keyvaultfs-dev-vault,"
        " or: pip install 'keyvaultfs[dev-vault]'"
    )


def launch(
    vault: str | None, mountpoint: str | None, texts: Sequence[str], *, foreground: bool, debug: bool
) -> tuple[Launch, tuple[str, ...]]:
    """What a mount is asked to be, checked in full; and notes for the user.

    Raises:
        UsageError: something is wrong with it.
    """
    parsed = options.parse(texts)
    if "remount" in parsed.words:
        raise UsageError(
            "a remount changes nothing here: unmount and mount again (systemctl reload keeps a mount up)"
        )
    own = dict(parsed.own)
    path = own.pop("config", None)
    written = None if path is None else _written(path)
    vault = vault or (written.vault if written else None)
    mountpoint = mountpoint or (written.mountpoint if written else None)
    if vault is None or mountpoint is None:
        raise UsageError(
            "name the vault and the mount point: keyvaultfs mount VAULT MOUNTPOINT (or both in the file config=)"
        )
    ready = Launch(
        vault=vault,
        mountpoint=os.path.realpath(mountpoint),
        source=vault,
        options=own,
        config=path,
        generic=parsed.generic,
        foreground=foreground,
        debug=debug,
    )
    found = file.settings(ready)
    _check_vault(vault, found)
    return ready, parsed.notes + file.exposed(ready, found)


def _written(path: str) -> file.Configuration:
    if file.Document(path).laid_out:
        from keyvaultfs.settings import layout

        layout.check(path)
    return file.load(path)


def _check_vault(vault: str, settings: options.Settings) -> None:
    from keyvaultfs.keyvault.origin import Origin

    Origin.parse(vault, allow_http_loopback=settings.allow_http_loopback, resource=settings.resource)


def _mount(args: argparse.Namespace) -> int:
    ready, notes = launch(
        args.vault, args.mountpoint, args.options, foreground=args.foreground, debug=args.debug
    )
    for note in notes:
        say(note)
    from keyvaultfs.keeper import start as keeper

    return keeper.run(ready)


def _check(args: argparse.Namespace) -> int:
    from keyvaultfs.cli.check import command

    return command.run(args)


def _status(args: argparse.Namespace) -> int:
    from keyvaultfs.cli import status

    return status.run(args)


def _readers(args: argparse.Namespace) -> int:
    from keyvaultfs.cli import readers

    return readers.run(args)


def _wait(args: argparse.Namespace) -> int:
    from keyvaultfs.cli import wait

    return wait.run(args)


def _metrics(args: argparse.Namespace) -> int:
    from keyvaultfs.cli import metrics

    return metrics.run(args)


def _refresh(args: argparse.Namespace) -> int:
    from keyvaultfs.cli import reading

    sys.stdout.write(reading.control(args.mountpoint, "refresh"))
    return 0


def _seconds(text: str) -> float:
    from keyvaultfs.settings import kinds

    try:
        return float(kinds.seconds().parse(text))
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"it should be {exc}") from None


def say(words: str, program: str = "keyvaultfs") -> None:
    """A line on standard error for each line of `words`; lost if that is closed or full, which fails no mount."""
    text = "".join(f"{program}: {line}\n" for line in words.splitlines())
    with contextlib.suppress(OSError, AttributeError):
        # Not by way of sys.stderr's buffer: what stays in it turns the exit status into 120.
        os.write(sys.stderr.fileno(), text.encode(errors="backslashreplace"))


def guarded(run: Callable[[], int], *, usage: int, failed: int, program: str) -> int:
    """Run a command; a mistake of the user's is a line on standard error and never a traceback.

    Args:
        usage: the exit code for what the user wrote wrong.
        failed: for everything else that is foreseen.
    """
    try:
        return run()
    except UsageError as exc:
        say(str(exc), program)
        return usage
    except KeyVaultFSError as exc:
        say(str(exc), program)
        return failed
    except BrokenPipeError:
        return failed
    except KeyboardInterrupt:
        return 130


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``keyvaultfs``."""
    words = sys.argv[1:] if argv is None else argv
    return guarded(lambda: _run(words), usage=USAGE, failed=FAILED, program="keyvaultfs")


def _run(words: Sequence[str]) -> int:
    args = parser(dev="dev" in words[:1]).parse_args(words)
    run: Callable[[argparse.Namespace], int] = args.run
    return run(args)


if __name__ == "__main__":
    sys.exit(main())
