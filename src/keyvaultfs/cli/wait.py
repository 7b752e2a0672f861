"""``keyvaultfs wait``: until files can be read, for ``ExecStartPre=`` of a unit that must not start without them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import select
import sys
import time
from typing import TYPE_CHECKING

from keyvaultfs.cli import reading
from keyvaultfs.cli.words import line
from keyvaultfs.errors import KeyVaultFSError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_PAUSE_SECONDS = 0.5
_STATUS_SECONDS = 2.0
_ONE_LOOK_SECONDS = 1.0
"""A time-out of 0 asks whether the files can be read now."""

_WORDS = {
    errno.ENOENT: "there is no such file",
    errno.EACCES: "it is refused, by the vault or by the file's mode",
    errno.ETIMEDOUT: "the vault did not answer in time",
    errno.EIO: "nobody answers, or not in Key Vault's words",
    errno.EAGAIN: "too many names that the mount does not know are asked for at once",
    errno.ENOTCONN: "the mount is dead: unmount it, and mount again",
    errno.EISDIR: "it is a directory",
}

_OF_ONE = re.compile(r"file |(?:vault refuses|no good answer for) (?!the listing)")


def run(args: argparse.Namespace) -> int:
    """Wait; 0 when each file can be read, 1 at the timeout, with a line for each that cannot."""
    failed = until_readable(args.files, args.timeout)
    for path, why in failed.items():
        sys.stderr.write(f"keyvaultfs: {line(path)}: {why}{_cause(path)}\n")
    return 1 if failed else 0


def until_readable(paths: Sequence[str], seconds: float) -> dict[str, str]:
    """Try again and again to read each file, all at once.

    Returns:
        Why not, by file, for those that could not be read within `seconds`, and one look at least.
    """
    seconds = max(seconds, _ONE_LOOK_SECONDS)
    end = time.monotonic() + seconds
    why = dict.fromkeys(paths, f"no answer within {seconds:g} s")
    due = dict.fromkeys(paths, 0.0)
    running: dict[int, reading.Attempt] = {}
    while why and (now := time.monotonic()) <= end:
        for path in [path for path, when in due.items() if when <= now]:
            del due[path]
            attempt = reading.Attempt(path, keep=False)
            running[attempt.fd] = attempt
        wake = min([end, *due.values()])
        ready, _, _ = select.select(list(running), [], [], max(0.01, wake - time.monotonic()))
        for fd in ready:
            attempt = running[fd]
            if attempt.more():
                continue
            del running[fd]
            try:
                attempt.result()
                del why[attempt.path]
            except OSError as exc:
                why[attempt.path] = _WORDS.get(exc.errno or 0) or exc.strerror or "it cannot be read"
                due[attempt.path] = time.monotonic() + _PAUSE_SECONDS
            attempt.close()
    for attempt in running.values():
        attempt.close()
    return why


def _cause(path: str) -> str:
    """What the mount says of it, where that may be asked: why it cannot be made, else a problem of this file or of all.

    That another file cannot be made, or another secret is refused, is no answer.
    """
    whole = os.path.abspath(path)  # noqa: PTH100
    folder, name = os.path.split(whole)
    while True:
        with contextlib.suppress(KeyVaultFSError, ValueError, LookupError, TypeError):
            status = json.loads(reading.control(folder, "status", _STATUS_SECONDS))
            broken = {row["path"]: str(row["reason"]) for row in status.get("broken", ())}
            reason = broken.get(os.path.relpath(whole, folder))
            if reason is not None:
                return f" (it cannot be made: {line(reason)})"
            sentences = [str(problem["sentence"]) for problem in status["problems"]]
            named = re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", re.IGNORECASE)
            about = [one for one in sentences if named.search(one) and not one.startswith("file ")]
            about = about or [one for one in sentences if not _OF_ONE.match(one)]
            return f" ({line(about[0])})" if about else ""
        if folder == os.path.dirname(folder):  # noqa: PTH120
            return ""
        folder = os.path.dirname(folder)  # noqa: PTH120
