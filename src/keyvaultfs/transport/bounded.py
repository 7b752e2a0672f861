"""An HTTP answer of which no more than so many bytes are read, however it is framed. Any number of interim ones."""

from __future__ import annotations

import http.client
import io
from typing import TYPE_CHECKING, Any

from keyvaultfs.errors import BadAnswer

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

LARGEST = 1 << 20
"""Bytes of an answer on the wire, heads and framing included. A value has 25,600 characters, which JSON may write in
6 bytes each (PROTOCOL §10)."""


class _Metered(io.RawIOBase):
    """What a socket says, up to `LARGEST` bytes; each wait for more is bounded by `wait`, in seconds.

    `heard` was received before.
    """

    def __init__(
        self, raw: io.RawIOBase, sock: socket.socket, wait: Callable[[], float], heard: bytes
    ) -> None:
        self._raw = raw
        self._sock = sock
        self._wait = wait
        self._heard = heard
        self._left = LARGEST
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        """As of any raw stream.

        Raises:
            BadAnswer: there is more than `LARGEST`.
        """
        if self.ended:
            return 0
        if self._left <= 0:
            raise BadAnswer("TooLarge")
        if self._heard:
            first = self._heard[: min(len(buffer), self._left)]
            buffer[: len(first)] = first
            self._heard = self._heard[len(first) :]
            self._left -= len(first)
            return len(first)
        self._sock.settimeout(self._wait())
        count: int | None = self._raw.readinto(memoryview(buffer)[: self._left])
        self._left -= count or 0
        return count

    def unheard(self) -> bool:
        """Whether some of what was received before has not been read."""
        return bool(self._heard)

    def close(self) -> None:
        self._raw.close()
        super().close()


class BoundedResponse(http.client.HTTPResponse):
    """For `http.client.HTTPConnection.response_class`.

    The library's own limits do not add up: it takes a chunk of size -1 for "all there is", and reads trailers and
    interim answers without end.
    """

    def __init__(
        self, sock: Any, *args: Any, wait: Callable[[], float], heard: bytes = b"", **kwargs: Any
    ) -> None:
        super().__init__(sock, *args, **kwargs)
        self._metered = _Metered(self.fp.detach(), sock, wait, heard)
        self.fp = io.BufferedReader(self._metered)
        self.overlong = False
        """Whether more was sent than the answer: what comes next on this connection is anybody's guess."""

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
            if not 100 < found[1] < 200 or found[1] == 101:  # the library itself skips 100 only
                return found
            http.client.parse_headers(self.fp)

    def _close_conn(self) -> None:
        if not self._metered.closed:
            self._metered.ended = True  # what is buffered, and no more
            self.overlong = bool(self.fp.peek(1)) or self._metered.unheard()
        super()._close_conn()  # type: ignore[misc]
