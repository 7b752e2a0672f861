"""The directory ``.keyvaultfs``: status, metrics, refresh and versions/. For root and the mount's owner alone."""

from __future__ import annotations

import json
import stat
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from keyvaultfs.filesystem import attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pyfuse3

    from keyvaultfs.filesystem.attributes import Appearance
    from keyvaultfs.metrics import Metrics

NAME = b".keyvaultfs"
DIRECTORY, STATUS, METRICS, REFRESH, VERSIONS = range(2, 7)
_FILES = {b"status": STATUS, b"metrics": METRICS, b"refresh": REFRESH}
ENTRIES = {**_FILES, b"versions": VERSIONS}

_PREFIX = "keyvaultfs"


class Control:
    """Which inode is what, and what its text is.

    Args:
        status: facts for the file ``status``, which never hold a value.
        refresh: forgets what is cached and says how much of what was dropped.
    """

    def __init__(
        self,
        look: Appearance,
        metrics: Metrics,
        status: Callable[[], dict[str, Any]],
        refresh: Callable[[], dict[str, int]],
    ) -> None:
        self._look = look
        self._metrics = metrics
        self._status = status
        self._refresh = refresh

    def attributes(self, inode: int) -> pyfuse3.EntryAttributes | None:
        """Of an inode of ours; None for any other."""
        if inode in {DIRECTORY, VERSIONS}:
            return self.directory(inode)
        if inode not in _FILES.values():
            return None
        found = attributes.base(self._look, inode, stat.S_IFREG | 0o400)
        found.attr_timeout = found.entry_timeout = attributes.FOREVER
        return found

    def directory(self, inode: int) -> pyfuse3.EntryAttributes:
        """Of a directory below .keyvaultfs."""
        found = attributes.directory(self._look, inode, 0o500)
        found.entry_timeout = attributes.FOREVER
        return found

    def text(self, inode: int) -> bytes:
        """What a file of ours reads as, made at the moment of its OPEN; opening ``refresh`` forgets what is cached."""
        if inode == STATUS:
            return json.dumps(self._status(), indent=2, ensure_ascii=False).encode() + b"\n"
        if inode == METRICS:
            return render(self._metrics).encode()
        dropped = self._refresh()
        return ("forgot " + ", ".join(f"{count} {what}" for what, count in dropped.items()) + "\n").encode()


def render(metrics: Metrics) -> str:
    """OpenMetrics text (the Prometheus exposition format 1.0.0 of OpenMetrics)."""
    lines: list[str] = []
    for part in fields(metrics):
        counters = getattr(metrics, part.name)
        for counter in fields(counters):
            value = getattr(counters, counter.name)
            name = f"{_PREFIX}_{part.name}_{counter.name}"
            if isinstance(value, dict):
                lines += _family(name, {f'{{kind="{key}"}}': number for key, number in sorted(value.items())})
            elif counter.metadata.get("gauge") or counter.name in {
                "in_flight",
                "in_flight_max",
                "stuck_threads",
            }:
                lines += [f"# TYPE {name} gauge", f"{name} {value}"]
            else:
                lines += _family(name, {"": value})
    return "\n".join([*lines, "# EOF", ""])


def _family(name: str, samples: Mapping[str, int]) -> list[str]:
    return [f"# TYPE {name} counter", *(f"{name}_total{label} {number}" for label, number in samples.items())]
