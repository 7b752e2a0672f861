"""What keeper and worker say to each other: JSON datagrams on a socket pair, and descriptors at fixed numbers."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

from keyvaultfs import descriptors

if TYPE_CHECKING:
    from collections.abc import Mapping

LOG_FD = descriptors.LOG_FD
DEVICE_FD = descriptors.DEVICE_FD
CHANNEL_FD = descriptors.CHANNEL_FD
TABLE_FD = descriptors.TABLE_FD
VALUES_FD = descriptors.VALUES_FD
AUDIT_FD = descriptors.AUDIT_FD
READERS_FD = descriptors.READERS_FD
TALLIES_FD = descriptors.TALLIES_FD
FIRST_FREE_FD = descriptors.FIRST_FREE_FD

HEARTBEAT_SECONDS = 1.0

MAX_DATAGRAM = 1 << 17
"""Bytes of a message, at most; a socket takes a datagram of about 200 kB."""

INIT_ANSWER = "told"
"""The name in messages of what the kernel was given for its INIT: keepers and workers of 0.1 and 0.2 call it so."""

SHORTEST_INIT_ANSWER = 28
"""Bytes: the header and what takes part in a take-over (linux/fuse.h, fuse_out_header and fuse_init_out)."""

_LONGEST_KIND = 64


class Launch(NamedTuple):
    """What a mount was asked to be, as text: a worker of a later version reads it with its own rules.

    Attributes:
        vault: a vault's name or its URL.
        mountpoint: an absolute path.
        source: the source as it was written; shown letter for letter in mountinfo.
        options: own options as written, under their canonical names.
        config: a TOML file whose keys the options override, or None.
        generic: mount options for the kernel, such as ``context=…``.
        foreground: stay, and log to standard error.
        debug: log more.
    """

    vault: str
    mountpoint: str
    source: str = ""
    options: Mapping[str, str] = {}
    config: str | None = None
    generic: tuple[str, ...] = ()
    foreground: bool = False
    debug: bool = False

    def pack(self) -> str:
        """As JSON."""
        return json.dumps(self._asdict())

    @classmethod
    def unpack(cls, text: str) -> Launch:
        """From JSON."""
        return cls.of(json.loads(text))

    @classmethod
    def of(cls, data: dict[str, Any]) -> Launch:
        """From what JSON had; what it lacks has its default, what is unknown is ignored."""
        found = _declared(cls._fields, data)
        found["generic"] = tuple(found.get("generic", ()))
        return cls(**found)


class Charge(NamedTuple):
    """What a keeper hands a worker when it starts it.

    Attributes:
        launch: the mount.
        init: hex of the kernel's INIT request.
        init_answer: hex of the answer that the kernel was given, or "" when it has had none.
        successor: True when an earlier worker has served this mount.
        keeper: the keeper's process id.
        renames: whether the keeper can announce by rename(2); a keeper of an earlier version cannot.
        workers: how many the keeper has started, this one included.
        lean: how many workers the kernel has killed for lack of memory: the more, the fewer values are kept.
        descriptors: numbers of those descriptors that not each keeper hands on.
    """

    launch: Launch
    init: str = ""
    init_answer: str = ""
    successor: bool = False
    keeper: int = 0
    renames: bool = False
    workers: int = 0
    lean: int = 0
    descriptors: tuple[int, ...] = ()

    def pack(self) -> str:
        """As JSON."""
        data = self._asdict() | {"launch": self.launch._asdict()}
        data[INIT_ANSWER] = data.pop("init_answer")
        return json.dumps(data)

    @classmethod
    def unpack(cls, text: str) -> Charge:
        """From JSON, of a keeper of any version: what it does not say has its default, what is unknown is ignored."""
        data: dict[str, Any] = json.loads(text)
        data["init_answer"] = data.get(INIT_ANSWER, "")
        return cls(**(_declared(cls._fields, data) | {"launch": Launch.of(data["launch"])}))


def _declared(names: tuple[str, ...], data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key in names}


class Noise(Exception):
    """What the other side sent is no message; nothing of it is used, and nothing ends by it."""


class Smuggled(Noise):
    """Descriptors came with what the other side sent; the kernel has dropped them."""


class Message(NamedTuple):
    """What one side says to the other.

    Attributes:
        kind: one of the few words that the two know; an unknown one is of a later version, and ignored.
        facts: what else was sent; not checked before one of the methods is asked for it.
    """

    kind: str
    facts: dict[str, Any]

    def text(self, name: str, most: int = 500) -> str:
        """A text as one printable line of at most `most` characters; "" if it was not sent.

        Raises:
            Noise: it is no text.
        """
        found = self.facts.get(name)
        if found is None:
            return ""
        if not isinstance(found, str):
            raise Noise
        return one_line(found, most)

    def texts(self, name: str, most: int = 20) -> list[str]:
        """The first few of a list of texts, each as one printable line; [] if it was not sent.

        Raises:
            Noise: it is no list of texts.
        """
        found = self.facts.get(name)
        if found is None:
            return []
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise Noise
        return [one_line(one, 500) for one in found[:most]]


def one_line(text: str, most: int) -> str:
    """A text that stays on its line whoever shows it: what is not printable is escaped, what is too long is cut."""
    cut = text[:most]
    if not cut.isprintable():
        cut = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)[: 2 * most]
    return cut if len(text) <= most else cut + "…"


def _message(data: bytes) -> Message:
    try:
        facts = json.loads(data)
        kind = facts.pop("kind")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        raise Noise from None
    if not isinstance(kind, str) or len(kind) > _LONGEST_KIND:
        raise Noise
    return Message(kind, facts)


class Channel:
    """One end of the socket pair. Never blocks: a full peer loses heartbeats, not our time."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)

    def send(self, kind: str, **facts: object) -> bool:
        """Send a message; False if the peer is gone, its queue is full, or the message is too long."""
        data = json.dumps({"kind": kind, **facts}).encode()
        if len(data) > MAX_DATAGRAM:
            return False
        try:
            self.sock.send(data)
        except OSError:
            return False
        return True

    def hand(self, kind: str, descriptors: Mapping[int, int], **facts: object) -> bool:
        """Send a message with descriptors, given by the numbers that the peer is to find them at; see `send`."""
        if not descriptors:
            return self.send(kind, **facts)
        data = json.dumps({"kind": kind, "numbers": list(descriptors), **facts}).encode()
        if len(data) > MAX_DATAGRAM:
            return False
        try:
            socket.send_fds(self.sock, [data], list(descriptors.values()))
        except OSError:
            return False
        return True

    def accept(self, most: int) -> Message:
        """Wait for a message of `hand`, and put its descriptors, at most so many, at their numbers.

        Raises:
            EOFError: the peer is gone.
            Noise: what came is no message.
        """
        self.sock.setblocking(True)
        try:
            data, fds, flags, _ = socket.recv_fds(self.sock, MAX_DATAGRAM, most)
        except OSError as exc:
            raise EOFError from exc
        finally:
            self.sock.setblocking(False)
        if not data:
            raise EOFError
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise Noise
        message = _message(data)
        for fd, number in zip(fds, message.facts.pop("numbers", ()), strict=True):
            os.dup2(fd, number, inheritable=False)
            os.close(fd)
        return message

    def receive(self) -> Message | None:
        """The next message; None when there is none yet.

        Raises:
            EOFError: the peer is gone.
            Smuggled: descriptors came with it.
            Noise: what came is no message.
        """
        try:
            data, _, flags, _ = self.sock.recvmsg(MAX_DATAGRAM)
        except BlockingIOError:
            return None
        except OSError as exc:
            raise EOFError from exc
        if flags & socket.MSG_CTRUNC:
            raise Smuggled
        if not data:
            raise EOFError
        if flags & socket.MSG_TRUNC:
            raise Noise
        return _message(data)
