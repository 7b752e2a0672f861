"""``python -m keyvaultfs.worker``: started by the keeper, with descriptors at the numbers of `keyvaultfs.ipc`."""

from __future__ import annotations

import gc
import linecache
import logging
import os
import socket
import sys
import traceback
from typing import TYPE_CHECKING

from keyvaultfs import ipc, isolation, log
from keyvaultfs.worker import allocator

if TYPE_CHECKING:
    from keyvaultfs.files.tree import Tree

_MEASURED = ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")


def _charge(channel: ipc.Channel) -> ipc.Charge:
    while True:
        try:
            message = channel.accept(ipc.FIRST_FREE_FD)
        except ipc.Noise:
            continue
        if message.kind == "charge":
            return ipc.Charge.unpack(message.facts["charge"])


def _tree(config: str | None) -> Tree:
    if config is None:
        from keyvaultfs.files.tree import Tree

        return Tree()
    from keyvaultfs.settings import layout

    return layout.load(config)


def _import_libraries() -> None:
    """A class with slots is made twice, and what these libraries leave of the first ones is a megabyte.

    It is found while there is little else to look at, and taken by what is imported next.
    """
    import pyfuse3  # noqa: F401
    import trio  # noqa: F401

    linecache.clearcache()  # the sources of the methods that attrs has written
    gc.collect()
    gc.freeze()


def _start_isolated() -> None:
    """Begin again in an environment of ours: a keeper of version 0.1.0 hands on that of who started it."""
    command = isolation.command("keyvaultfs.worker", *sys.argv[1:])
    os.execve(command[0], command, isolation.environment(azure=True))  # noqa: S606


def main() -> int:
    """Run a worker until the mount ends, or the keeper does.

    Returns:
        0 when the mount ended or another worker takes over, 1 when this one failed.
    """
    if not sys.flags.isolated:
        _start_isolated()
    isolation.close_descriptors(ipc.FIRST_FREE_FD)
    isolation.settle()
    allocator.settle()
    # Readers wait for this start after a kill. What modules make stays for good: to look for garbage among it is in
    # vain, now and in each full collection later.
    gc.disable()
    os.set_blocking(ipc.LOG_FD, False)
    handler = log.DescriptorHandler(ipc.LOG_FD)
    handler.setFormatter(log.PriorityFormatter())
    logging.getLogger().addHandler(handler)
    channel = ipc.Channel(socket.socket(fileno=ipc.CHANNEL_FD))
    try:
        _import_libraries()
        from keyvaultfs.files import makers
        from keyvaultfs.settings import file
        from keyvaultfs.worker import network, privileges
        from keyvaultfs.worker.main import serve

        gc.freeze()
        gc.enable()
        try:
            charge = _charge(channel)
        except EOFError:
            return 1  # nothing is to be served
        log.LOG.setLevel(logging.DEBUG if charge.launch.debug else logging.INFO)
        # The configuration may be readable by root alone, and so may the folder in which this code is installed.
        settings = file.settings(charge.launch)
        tree = _tree(charge.launch.config)
        makers.preload(tree.recipes())
        if privileges.becomes_another(settings.run_as):
            network.load_what_only_we_can_read()
        # Tools that measure the tests write files.
        programs = privileges.runs_programs(settings) or any(map(os.environ.get, _MEASURED))
        in_force = privileges.drop(settings.run_as, programs=programs)
        return serve(charge, settings, tree, in_force, channel)
    except Exception as group:  # noqa: BLE001 - the last words of this process; a text may quote a value
        from keyvaultfs.errors import KeyVaultFSError
        from keyvaultfs.log import LOG

        exc = _first(group)
        if isinstance(exc, KeyVaultFSError):
            words = str(exc)
        else:
            frames = "".join(traceback.format_tb(exc.__traceback__)[-6:])
            words = type(exc).__name__
            if isinstance(exc, OSError) and exc.errno is not None:
                words += f" ({os.strerror(exc.errno)})"
            if isinstance(exc, ImportError):
                words += f": {exc.msg}"
            LOG.error("the worker failed: %s\n%s", words, frames)
        channel.send("failed", words=words)
        return 1


def _first(exc: BaseException) -> BaseException:
    """What happened first, where tasks failed together."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc


if __name__ == "__main__":
    sys.exit(main())
