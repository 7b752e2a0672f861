"""How a keeper comes to run: in the foreground, or in the background with an answer to who started it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from keyvaultfs.errors import KeyVaultFSError
from keyvaultfs.keeper.main import Keeper
from keyvaultfs.keeper.process import high
from keyvaultfs.settings import file

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyvaultfs.ipc import Launch


def run(launch: Launch) -> int:
    """Mount and serve; in the background unless `launch` says otherwise.

    Returns:
        0 when the file system answers (background) or was unmounted (foreground), 1 when it could not be mounted.
    """
    for number in range(3):  # a service manager may start us without standard streams
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if launch.foreground:
        return _serve(launch, lambda _, words: _say(words) if words else None)
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        os._exit(_detached(launch, high(writing)))
    os.close(writing)
    with open(reading, encoding="utf-8") as answer:  # noqa: PTH123 - a descriptor
        text = answer.read()
    code, _, words = text.partition(" ")
    if words:
        _say(words)
    return int(code) if code.isdigit() else 1


def _detached(launch: Launch, answer: int) -> int:
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)

    def mounted(code: int, words: str) -> None:
        # Not earlier: while autofs waits for this mount, it lets nobody through to the mount point but systemd's own
        # process group, in which systemd starts mount(8) for that reason.
        os.setsid()
        os.write(answer, f"{code} {words}".encode())
        os.close(answer)
        for number in range(3):
            os.dup2(null, number)

    return _serve(launch, mounted)


def _serve(launch: Launch, mounted: Callable[[int, str], None]) -> int:
    try:
        return Keeper(launch, file.settings(launch), mounted).run()
    except (KeyVaultFSError, OSError) as exc:
        words = (
            str(exc) if isinstance(exc, KeyVaultFSError) else f"{launch.mountpoint}: {exc.strerror or exc}"
        )
        mounted(1, words)
        return 1


def _say(words: str) -> None:
    try:
        os.write(2, f"keyvaultfs: {words}\n".encode())
    except OSError:
        return
