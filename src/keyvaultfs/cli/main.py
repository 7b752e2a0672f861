"""The command line: one function a command. Each imports what it needs, so that no command loads another's modules."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from keyvaultfs.cli import arguments
from keyvaultfs.cli.launch import launch
from keyvaultfs.cli.messages import guarded, say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

USAGE, FAILED = 2, 1


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


def _dev(args: argparse.Namespace) -> int:
    from keyvaultfs.cli import dev

    return dev.run(args)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "mount": _mount,
    "check": _check,
    "status": _status,
    "readers": _readers,
    "wait": _wait,
    "metrics": _metrics,
    "refresh": _refresh,
    "dev": _dev,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``keyvaultfs``."""
    given = sys.argv[1:] if argv is None else argv
    try:
        return guarded(lambda: _run(given), usage=USAGE, failed=FAILED, program="keyvaultfs")
    except OSError as exc:  # what the machine does not let us do
        say(f"{exc.filename}: {exc.strerror}" if exc.filename else exc.strerror or type(exc).__name__)
        return FAILED


def _run(given: Sequence[str]) -> int:
    args = arguments.parser(dev="dev" in given[:1]).parse_args(given)
    return COMMANDS[args.command](args)


if __name__ == "__main__":
    sys.exit(main())
