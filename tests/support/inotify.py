"""``inotifywait``, the program with which scripts watch files and folders."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

from tests.support.mount import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Watch:
    """The running program: it watches from the moment that this returns.

    Args:
        path: a file or a folder.
        events: names of inotifywait(1), with commas between them.
        uid: the user who watches; None for the one who runs the tests.
        once: it ends with its first event.
        beside: more files that it watches; then each line says which one it is about, as ``PATH EVENTS``. One program
            for many: a user may have a hundred or so, and other tests run at the same time.
    """

    def __init__(
        self,
        path: Path,
        events: str,
        *,
        uid: int | None = None,
        once: bool = False,
        beside: Sequence[Path] = (),
    ) -> None:
        as_user = [] if uid is None else ["setpriv", f"--reuid={uid}", "--clear-groups"]
        forever = [] if once else ["-m"]
        self._child = subprocess.Popen(
            [*as_user, "inotifywait", *forever, "--format", "%w %e" if beside else "%e %f", "-e", events,
             path, *beside],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self._child.stdout is not None
        assert self._child.stderr is not None
        said = b""
        while b"Watches established" not in said:
            line = self._child.stderr.readline()
            assert line, said
            said += line
        os.set_blocking(self._child.stdout.fileno(), False)
        self._text = ""

    def lines(self) -> list[str]:
        """All events so far, each as ``EVENTS NAME``."""
        assert self._child.stdout is not None
        with contextlib.suppress(BlockingIOError):
            while more := os.read(self._child.stdout.fileno(), 65536):
                self._text += more.decode()
        return [line.strip() for line in self._text.splitlines()]

    def count(self, line: str) -> int:
        """How often an event has come."""
        return self.lines().count(line)

    def wait(self, line: str, times: int = 1) -> None:
        """Until it has come so often."""
        wait_until(lambda: self.count(line) >= times, f"{line!r} {times} times; there is {self.lines()}")

    def fired(self) -> bool:
        """Whether a watch that ends with its first event has ended so."""
        return self._child.poll() == 0

    def silent(self) -> bool:
        """Whether it still watches, and has said nothing."""
        return self._child.poll() is None and not self.lines()

    def close(self) -> None:
        """End the program."""
        self._child.kill()
        self._child.wait()
        for stream in (self._child.stdout, self._child.stderr):
            assert stream is not None
            stream.close()
