"""What keeper and worker say to each other: JSON datagrams on a socket pair, and descriptors at fixed numbers."""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass, field
from typing import Any

DEVICE_FD = 3
CHANNEL_FD = 4
TABLE_FD = 5
VALUES_FD = 6
LOG_FD = 2

HEARTBEAT_SECONDS = 1.0

_MAX_DATAGRAM = 1 << 17


@dataclass(frozen=True, slots=True)
class Launch:
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
    source: str
    options: dict[str, str] = field(default_factory=dict)
    config: str | None = None
    generic: tuple[str, ...] = ()
    foreground: bool = False
    debug: bool = False


@dataclass(frozen=True, slots=True)
class Charge:
    """What a keeper hands a worker when it starts it.

    Attributes:
        launch: the mount.
        init: hex of the kernel's INIT request.
        told: hex of the answer that the kernel was given, or "" when it has had none.
        successor: True when an earlier worker has served this mount.
        keeper: the keeper's process id.
    """

    launch: Launch
    init: str
    told: str
    successor: bool
    keeper: int

    def pack(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def unpack(cls, text: str) -> Charge:
        """From JSON; unknown keys of a newer keeper are ignored."""
        data: dict[str, Any] = json.loads(text)
        known = {key: value for key, value in data["launch"].items() if key in Launch.__dataclass_fields__}
        known["generic"] = tuple(known.get("generic", ()))
        rest = {key: data[key] for key in cls.__dataclass_fields__ if key != "launch"}
        return cls(launch=Launch(**known), **rest)


class Channel:
    """One end of the socket pair. Never blocks: a full peer loses heartbeats, not our time."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)

    def send(self, kind: str, **facts: object) -> bool:
        """Send a message; False if the peer is gone or its queue is full."""
        try:
            self.sock.send(json.dumps({"kind": kind, **facts}).encode())
        except OSError:
            return False
        return True

    def receive(self) -> dict[str, Any] | None:
        """The next message; None when there is none yet.

        Raises:
            EOFError: the peer is gone.
        """
        try:
            data = self.sock.recv(_MAX_DATAGRAM)
        except BlockingIOError:
            return None
        except OSError as exc:
            raise EOFError from exc
        if not data:
            raise EOFError
        message: dict[str, Any] = json.loads(data)
        return message
