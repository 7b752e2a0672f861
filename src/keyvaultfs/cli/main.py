"""The command line: one function a command. Each imports what it needs, so that no command loads another's modules."""

from __future__ import annotations

import os
import sys

from keyvaultfs.cli import ahead

# Not typing's: to import that is a fifth of all that comes before the first worker starts.
TYPE_CHECKING = False

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from keyvaultfs.keeper.start import Start

USAGE, FAILED = 2, 1


def _mount(args: argparse.Namespace) -> int:
    from keyvaultfs.cli.launch import launch
    from keyvaultfs.cli.messages import say
    from keyvaultfs.keeper import start as keeper

    ready, notes = launch(
        args.vault, args.mountpoint, args.options, foreground=args.foreground, debug=args.debug
    )
    for note in notes:
        say(note)
    return keeper.run(ready, args.begun)


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
    from keyvaultfs.cli import reading, words

    sys.stdout.write(words.lines(reading.control(args.mountpoint, "refresh")))
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
    begun = ahead.of_mount(given) if argv is None else None
    try:
        code = _guarded(given, begun)
    finally:
        if begun is not None:
            begun.abandon()
    if begun is not None:
        os._exit(code)  # somebody waits, and nothing is left to be flushed
    return code


def _guarded(given: Sequence[str], begun: Start | None) -> int:
    from keyvaultfs.cli.messages import guarded, say

    if sys.stdout is None:  # somebody closed it
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - until the end
    try:
        code = guarded(lambda: _run(given, begun), usage=USAGE, failed=FAILED, program="keyvaultfs")
    except OSError as exc:  # what the machine does not let us do
        say(f"{exc.filename}: {exc.strerror}" if exc.filename else exc.strerror or type(exc).__name__)
        code = FAILED
    try:
        sys.stdout.flush()
    except OSError as exc:
        if not code and not isinstance(exc, BrokenPipeError):
            say(f"standard output: {exc.strerror}")
        # What stays in the buffer would be a complaint of the interpreter's, and its exit status 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or FAILED
    return code


def _run(given: Sequence[str], begun: Start | None) -> int:
    from keyvaultfs.cli import arguments

    args = arguments.parser(dev="dev" in given[:1]).parse_args(given)
    args.begun = begun
    return COMMANDS[args.command](args)


if __name__ == "__main__":
    sys.exit(main())
