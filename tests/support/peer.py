"""A peer on loopback that speaks as badly as it is told to."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Peer:
    """Accepts, and has `behave` speak with each connection, in a thread of its own.

    Args:
        behave: is given the connection and `closing`, an event to wait on instead of sleeping.
        host: an address to listen on.
        port: 0 for a free one.

    Attributes:
        connections: how many there were.
        heard: what was sent to it, by connection.
    """

    def __init__(
        self, behave: Callable[[Peer, socket.socket], None], host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._behave = behave
        self._listener = socket.create_server((host, port), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.closing = threading.Event()
        self.connections = 0
        self.heard: list[bytes] = []
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def url(self, scheme: str = "http") -> str:
        """Its root."""
        return f"{scheme}://127.0.0.1:{self.port}/"

    def request(self, connection: socket.socket) -> bytes:
        """Read until the end of a request's head; empty when there is none."""
        head = b""
        while b"\r\n\r\n" not in head and (more := connection.recv(65536)):
            head += more
        if head:
            self.heard.append(head)
        return head

    def drip(self, connection: socket.socket, data: bytes, seconds: float = 0.02) -> None:
        """Send a byte at a time for as long as anybody listens."""
        for byte in data:
            connection.sendall(bytes([byte]))
            if self.closing.wait(seconds):
                return

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._end(self._listener)
        self._join(self._threads[0])  # before what it accepted: a connection may be on its way into the list
        for connection in self._open:
            self._end(connection)
        for thread in self._threads[1:]:
            self._join(thread)

    def _end(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()

    def _join(self, thread: threading.Thread) -> None:
        thread.join(10)
        assert not thread.is_alive()

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._speak, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _speak(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._behave(self, connection)


def silent(peer: Peer, connection: socket.socket) -> None:
    """Never a byte; with https a TLS handshake that nobody answers."""
    del connection
    peer.closing.wait()


def half_a_handshake(peer: Peer, connection: socket.socket) -> None:
    """The first bytes of a TLS record, one at a time, and never its end."""
    connection.recv(65536)
    peer.drip(connection, b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03" + bytes(4096))


def dripping_head(peer: Peer, connection: socket.socket) -> None:
    """Headers a byte at a time, without end."""
    peer.request(connection)
    peer.drip(connection, b"HTTP/1.1 200 OK\r\n" + b"X-Filler: aaaaaaaaaaaaaaaaaaaa\r\n" * 100)


def dripping_body(peer: Peer, connection: socket.socket) -> None:
    """A body a byte at a time."""
    peer.request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
    peer.drip(connection, b"x" * 5000)


def dripping_last_words(peer: Peer, connection: socket.socket) -> None:
    """A body that ends with the connection, a byte at a time."""
    peer.request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    peer.drip(connection, b"x" * 5000)


def dripping_chunks(peer: Peer, connection: socket.socket) -> None:
    """A body in chunks of a byte."""
    peer.request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    peer.drip(connection, b"1\r\nx\r\n" * 2000)


def for_ever_100(peer: Peer, connection: socket.socket) -> None:
    """Interim answers without end."""
    peer.request(connection)
    while not peer.closing.wait(0.02):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def plain(peer: Peer, connection: socket.socket) -> None:
    """An answer, whatever was asked."""
    connection.recv(65536)
    connection.sendall(OK)
    peer.closing.wait()


def says(*answers: bytes) -> Callable[[Peer, socket.socket], None]:
    """One answer for each request on a connection; then it is closed."""

    def behave(peer: Peer, connection: socket.socket) -> None:
        for answer in answers:
            if not peer.request(connection):
                break
            connection.sendall(answer)
        connection.shutdown(socket.SHUT_RDWR)

    return behave


def endless(head: bytes, piece: bytes) -> Callable[[Peer, socket.socket], None]:
    """A head, and then the same again and again for as long as anybody reads."""

    def behave(peer: Peer, connection: socket.socket) -> None:
        peer.request(connection)
        connection.sendall(head)
        while not peer.closing.is_set():
            connection.sendall(piece)

    return behave


def descriptors() -> Iterator[str]:
    """What this process has open, sockets above all."""
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            yield os.readlink(f"/proc/self/fd/{number}")
