"""Files whose newest versions, if any, cannot be made into them: logged once each, and shown in ``status``."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import trio

if TYPE_CHECKING:
    from keyvaultfs.log import Causes

_KIND = "file {} cannot be made"


class _Broken(NamedTuple):
    edition: str
    reason: str
    since: float


class Breakage:
    """The files that are broken now, by path. The reason of each never quotes a value."""

    def __init__(self, causes: Causes) -> None:
        self._causes = causes
        self._open: dict[str, _Broken] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, path: str) -> bool:
        return path in self._open

    def begin(self, path: str, edition: str, reason: str, now: float) -> float:
        """An edition cannot be made; returns since when the file is broken, in trio's time."""
        known = self._open.get(path)
        if known is not None and known.edition == edition:
            return known.since
        if known is not None:
            self._causes.end(_KIND, path)
        self._open[path] = _Broken(edition, reason, now if known is None else known.since)
        self._causes.begin(_KIND, path, reason=repr(reason))
        return self._open[path].since

    def end(self, path: str) -> None:
        """The newest edition of a file can be made: it is not, or no longer, broken."""
        if self._open and self._open.pop(path, None) is not None:
            self._causes.end(_KIND, path)

    def snapshot(self) -> list[dict[str, object]]:
        """For ``status``."""
        now = trio.current_time()
        return [
            {"path": path, "reason": one.reason, "seconds": round(now - one.since)}
            for path, one in sorted(self._open.items())
        ]
