"""The log of requests that tests read: what was asked and when, never a value or a token."""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keyvaultfs_devvault.request import Call

_KEPT = 500_000
_HEADERS = (
    "accept",
    "accept-encoding",
    "connection",
    "content-length",
    "cookie",
    "host",
    "metadata",
    "user-agent",
    "x-forwarded-for",
    "x-ms-client-request-id",
)


class Journal:
    """Every request since the last `reset`, and how many were under way at once."""

    def __init__(self) -> None:
        self._entries: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._in_flight: Counter[str] = Counter()
        self._most: Counter[str] = Counter()
        self.connections: Counter[str] = Counter()

    def begin(self, call: Call) -> dict[str, Any]:
        """Note a request that has arrived whole."""
        entry: dict[str, Any] = {
            "time": time.monotonic(),
            "kind": call.which,
            "op": call.op,
            "name": call.name,
            "version": call.version,
            "method": call.method,
            "page": call.parameter("$skiptoken") is not None,
            "api_version": call.parameter("api-version"),
            "resource": call.parameter("resource"),
            "had_token": call.had_token,
            "headers": {name: call.headers[name] for name in _HEADERS if name in call.headers},
            "status": None,
            "end": None,
            "fault": None,
        }
        self._entries.append(entry)
        self._in_flight[call.which] += 1
        self._most[call.which] = max(self._most[call.which], self._in_flight[call.which])
        return entry

    def end(self, entry: dict[str, Any], status: int | None) -> None:
        """Note that a request is answered, or given up (status None)."""
        entry["status"] = status
        entry["end"] = time.monotonic()
        self._in_flight[entry["kind"]] -= 1

    def connected(self, which: str) -> None:
        """Count a connection."""
        self.connections[which] += 1

    def report(self) -> dict[str, Any]:
        """All of it, for the control interface."""
        kinds = ("vault", "imds")
        return {
            "requests": list(self._entries),
            "in_flight": {kind: self._in_flight[kind] for kind in kinds},
            "max_in_flight": {kind: self._most[kind] for kind in kinds},
            "connections": {kind: self.connections[kind] for kind in kinds},
        }

    def reset(self) -> None:
        """Begin anew; what is under way stays counted as such."""
        self._entries.clear()
        self._most = Counter(self._in_flight)
        self.connections.clear()
