"""``keyvaultfs dev``: the embedded vault, which is a package of its own and may be missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyvaultfs.errors import UsageError

if TYPE_CHECKING:
    import argparse


def add_arguments(dev: argparse.ArgumentParser) -> None:
    """Add the options of ``dev``.

    Raises:
        UsageError: the embedded vault, or a library of its, is not installed.
    """
    try:
        from keyvaultfs_devvault import arguments
    except ImportError as exc:
        raise UsageError(_missing(exc)) from None
    arguments.add_arguments(dev)


def run(args: argparse.Namespace) -> int:
    """Run the embedded vault until it is ended; returns the exit status, and raises as `add_arguments`."""
    try:
        from keyvaultfs_devvault import main as embedded
    except ImportError as exc:
        raise UsageError(_missing(exc)) from None
    return embedded.run(args)


def _missing(exc: ImportError) -> str:
    """What to install: the .deb and the .rpm have the embedded vault apart, and a wheel has its libraries apart."""
    missing = (exc.name or "its libraries").partition(".")[0]
    return (
        f"the embedded vault needs {missing}: install the package keyvaultfs-dev-vault,"
        " or: pip install 'keyvaultfs[dev-vault]'"
    )
