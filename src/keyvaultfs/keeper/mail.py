"""What workers send: messages and log lines. Anybody may have taken a worker over, so all of it has a bound.

Each worker has a bound of its own, so that one that floods does not drown what its successor says. What is above it
stays in the socket or pipe, where it slows its sender and not the keeper; what is malformed is said once for each.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from keyvaultfs import ipc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keyvaultfs.ipc import Message
    from keyvaultfs.keeper.process import WorkerProcess
    from keyvaultfs.keeper.sink import Sink

_ERR, _WARNING = 3, 4
_IN_A_TURN = 64
_REST_SECONDS = 0.2
_TELL_SECONDS = 5.0


class Mail:
    """Reads it, within bounds.

    Args:
        sink: takes log lines.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._untold = 0
        self._tell_next = 0.0

    def wanted(self, process: WorkerProcess, now: float) -> list[int]:
        """The descriptors to wait for."""
        rests = now < process.rests_until
        found = [process.channel.sock.fileno()] if process.channel_open and not rests else []
        return [*found, process.log_fd] if process.log_open else found

    def messages(self, process: WorkerProcess, now: float) -> Iterator[Message]:
        """The messages that have come, up to the number that may be read now."""
        for _ in range(_IN_A_TURN):
            if not process.messages.take(now):
                process.rests_until = now + _REST_SECONDS
                return
            try:
                message = process.channel.receive()
            except ipc.Smuggled:
                self._sink.say(
                    _ERR, f"worker {process.pid} sent descriptors, as none of ours does: it is killed"
                )
                process.channel_open = False
                process.kill()
                return
            except ipc.Noise:
                self._note(process)
                continue
            except EOFError:
                process.channel_open = False  # its death is seen by its state
                return
            if message is None:
                return
            yield message

    def heed(
        self, act: Callable[[WorkerProcess, Message], None], process: WorkerProcess, message: Message
    ) -> None:
        """Do what a message asks for; one with a field of another type is noise."""
        try:
            act(process, message)
        except (ipc.Noise, ValueError):
            self._note(process)

    def pass_log(self, process: WorkerProcess) -> None:
        """Hand its new log lines on, as many as are allowed."""
        now = time.monotonic()
        for line in process.log_lines():
            if not process.lines.take(now):
                self._untold += 1
                continue
            self._sink.line(line)

    def tell_what_is_lost(self, now: float) -> None:
        """Say how many log lines were too many, every few seconds."""
        if self._untold and now >= self._tell_next:
            self._sink.say(_WARNING, f"{self._untold} log lines of the worker were too many and are lost")
            self._untold, self._tell_next = 0, now + _TELL_SECONDS

    def _note(self, process: WorkerProcess) -> None:
        if not process.noisy:
            process.noisy = True
            self._sink.say(_WARNING, f"worker {process.pid} sent what is no message; it is ignored")
