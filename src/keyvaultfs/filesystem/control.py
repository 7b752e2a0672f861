"""The directory ``.keyvaultfs``: status, metrics, readers, refresh, versions/. For root and the mount's owner alone."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

from keyvaultfs.filesystem import attributes
from keyvaultfs.filesystem.exposition import render

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyfuse3

    from keyvaultfs.filesystem.attributes import Appearance
    from keyvaultfs.filesystem.exposition import Gauges
    from keyvaultfs.metrics import Metrics

NAME = b".keyvaultfs"
DIRECTORY, STATUS, METRICS, REFRESH, VERSIONS, READERS = range(2, 8)
FILES = {b"status": STATUS, b"metrics": METRICS, b"refresh": REFRESH, b"readers": READERS}
ENTRIES = {**FILES, b"versions": VERSIONS}


class Control:
    """Which inode is what, and what its text is.

    Args:
        status: facts for the file ``status``, which never hold a value.
        refresh: forgets what is cached and says how much of what was dropped.
        gauges: what ``metrics`` shows beside the counters.
        readers: facts for the file ``readers``.
    """

    def __init__(
        self,
        appearance: Appearance,
        metrics: Metrics,
        *,
        status: Callable[[], dict[str, Any]],
        refresh: Callable[[], dict[str, int]],
        gauges: Callable[[], Gauges],
        readers: Callable[[], dict[str, Any]],
    ) -> None:
        self._appearance = appearance
        self._metrics = metrics
        self._status = status
        self._refresh = refresh
        self._gauges = gauges
        self._readers = readers

    def attributes(self, inode: int) -> pyfuse3.EntryAttributes | None:
        """Of an inode of ours; None for any other."""
        if inode in {DIRECTORY, VERSIONS}:
            return self.directory(inode)
        if inode not in FILES.values():
            return None
        found = attributes.base(self._appearance, inode, stat.S_IFREG | 0o400)
        found.attr_timeout = found.entry_timeout = attributes.FOREVER
        return found

    def directory(self, inode: int) -> pyfuse3.EntryAttributes:
        """Of a directory below .keyvaultfs."""
        found = attributes.directory(self._appearance, inode, 0o500)
        found.entry_timeout = attributes.FOREVER
        return found

    def text(self, inode: int) -> bytes:
        """What a file of ours reads as, made at the moment of its OPEN; opening ``refresh`` forgets what is cached."""
        if inode in {STATUS, READERS}:
            facts = self._status() if inode == STATUS else self._readers()
            return json.dumps(facts, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        if inode == METRICS:
            return render(self._metrics, self._gauges()).encode()
        assert inode == REFRESH, f"a file without a text: {inode}"  # not taken for one that empties the cache
        dropped = self._refresh()
        return ("forgot " + ", ".join(f"{count} {what}" for what, count in dropped.items()) + "\n").encode()
