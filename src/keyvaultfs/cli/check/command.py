"""The command: what the user wrote, a child that becomes the worker's user, and its findings."""

from __future__ import annotations

import os
import pickle
import sys
from typing import TYPE_CHECKING

from keyvaultfs.cli.check import machine
from keyvaultfs.cli.check.report import Finding, Report
from keyvaultfs.errors import UsageError
from keyvaultfs.ipc import Launch
from keyvaultfs.settings import file, options

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from keyvaultfs.cli.check.walk import Walk
    from keyvaultfs.model import SecretName, Version
    from keyvaultfs.settings.options import Settings

    Wanted = tuple[SecretName, Version | None]


_THE_WALK = "check"


def run(args: argparse.Namespace) -> int:
    """Check, print, and say by the exit code whether a step failed.

    Raises:
        UsageError: the vault, the name or an option is wrong.
    """
    vault, settings, names = _wanted(args)
    report = Report()
    machine.check(report, settings.run_as, settings.auth)
    report.findings += _in_child(vault, settings, names, report)
    sys.stdout.write(report.json() if args.json else report.text())
    return 0 if report.well else 1


def _wanted(args: argparse.Namespace) -> tuple[str, Settings, Sequence[Wanted]]:
    from keyvaultfs.model import SecretName

    parsed = options.parse(args.options)
    own = dict(parsed.own)
    path = own.pop("config", None)
    written = None if path is None else file.load(path)
    vault = args.vault or (written.vault if written else None)
    if vault is None:
        raise UsageError("name the vault: keyvaultfs check VAULT, or -o config=FILE")
    settings = file.settings(Launch(vault=vault, mountpoint="/", source=vault, options=own, config=path))
    if args.name is not None:
        try:
            return vault, settings, [(SecretName(args.name), None)]
        except ValueError:
            raise UsageError(f"{args.name!r} is no secret's name: 1 to 127 letters, digits and '-'") from None
    return vault, settings, [] if path is None else _of_files(path)


def _of_files(path: str) -> list[Wanted]:
    """The secrets that the files of a configuration are made of, each once."""
    if not file.Document(path).laid_out:
        return []
    from keyvaultfs.settings import layout

    files = layout.load(path).named.values()
    sources = [source for one in files for source in one.recipe.sources]
    return list(dict.fromkeys((source.name, source.version) for source in sources))


def _in_child(vault: str, settings: Settings, names: Sequence[Wanted], report: Report) -> list[Finding]:
    """Walk as the user that the worker becomes: a lock of the token endpoint, or a rule of a firewall, is by user."""
    # All is imported while files can still be read, and built so that a mistake is told here.

    import trio

    from keyvaultfs.cli.check.walk import Walk
    from keyvaultfs.log import Causes
    from keyvaultfs.metrics import Metrics
    from keyvaultfs.transport.tls import tls_context
    from keyvaultfs.worker.chain import Chain

    sys.stdout.flush()
    chain = Chain.build(vault, settings, Metrics(), Causes(trio.current_time))
    report.facts |= chain.facts()
    inner = Report(dict(report.facts))
    walk = Walk(chain, settings, inner, names, tls_context(settings.ca_file))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            _become(settings)
            _walk(walk, inner)
            with open(writing, "wb") as pipe:  # noqa: PTH123 - a descriptor
                pickle.dump(inner.findings, pipe)
        finally:
            os._exit(0)  # threads may still wait for a name server
    os.close(writing)
    with open(reading, "rb") as pipe:  # noqa: PTH123 - a descriptor
        answer = pipe.read()
    os.waitpid(child, 0)
    if not answer:
        report.bad(_THE_WALK, "as a whole", "CheckFailed")
        return []
    found: list[Finding] = pickle.loads(answer)  # noqa: S301 - our own child's
    return found


def _walk(walk: Walk, report: Report) -> None:
    import trio

    try:
        trio.run(walk.run)
    except Exception as exc:  # noqa: BLE001 - what was found before is worth more than a traceback
        inner = exc
        while isinstance(inner, ExceptionGroup):
            inner = inner.exceptions[0]
        report.bad(_THE_WALK, "as a whole", "CheckFailed", type(inner).__name__)


def _become(settings: Settings) -> None:
    from keyvaultfs.worker import privileges

    try:
        privileges.drop(settings.run_as, programs=privileges.runs_programs(settings))
    except KeyError:
        return  # told among the machine's steps
