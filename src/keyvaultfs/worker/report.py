"""What the files in ``.keyvaultfs`` say of a worker: never a value of a secret."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from keyvaultfs import ipc
from keyvaultfs.fence import fence
from keyvaultfs.filesystem.reader import Current
from keyvaultfs.version import package_version
from keyvaultfs.worker.gauges import gauges

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyvaultfs.cache.cache import Cache
    from keyvaultfs.files.files import Files
    from keyvaultfs.files.tree import Tree
    from keyvaultfs.filesystem.exposition import Gauges
    from keyvaultfs.filesystem.inodes.table import InodeTable
    from keyvaultfs.filesystem.readers import Readers
    from keyvaultfs.ipc import Charge
    from keyvaultfs.log import Causes
    from keyvaultfs.metrics import Metrics
    from keyvaultfs.worker.chain import Chain
    from keyvaultfs.worker.privileges import InForce


_VERSION = package_version()  # now: what is installed may be replaced meanwhile


class Report:
    """Facts for ``status``, ``metrics`` and ``readers``: of the keeper's charge, and of each part of this worker.

    Args:
        settle: counts what was done and is not counted yet; called before anything is shown.
    """

    def __init__(
        self,
        charge: Charge,
        in_force: InForce,
        *,
        chain: Chain,
        cache: Cache,
        files: Files,
        tree: Tree,
        table: InodeTable,
        readers: Readers,
        metrics: Metrics,
        causes: Causes,
        settle: Callable[[], None],
    ) -> None:
        self._charge = charge
        self._in_force = in_force
        self._chain = chain
        self._cache = cache
        self._files = files
        self._tree = tree
        self._table = table
        self._behind = readers
        self._metrics = metrics
        self._causes = causes
        self._settle = settle
        self._started = time.time()

    def status(self) -> dict[str, Any]:
        """What the file ``status`` shows."""
        chain = self._chain
        self._settle()
        return {
            "version": _VERSION,
            "vault": chain.origin.base_url,
            "mountpoint": self._charge.launch.mountpoint,
            "keeper": self._charge.keeper,
            "worker": os.getpid(),
            "since": int(self._started),
            "cache": self._cache.overview.snapshot(),
            "files": len(self._tree.named),
            "broken": self._files.broken.snapshot(),
            "token": chain.token_status(),
            "causes": self._causes.open(),
            "problems": self._causes.problems(**chain.facts()),
            "fence": fence().fence.value,
            "audit": asdict(self._metrics.audit) if ipc.AUDIT_FD in self._charge.descriptors else None,
            "readers_behind": self._behind.behind(self._current),
            "workers": max(1, self._charge.workers),
            "privileges": self._in_force._asdict(),
            "inodes": len(self._table.nodes),
            "open_files": len(self._table.handles.by_number),
            "threads": len(os.listdir("/proc/self/task")),  # noqa: PTH208 - names only, and cheap
            "python": platform.python_version(),
        }

    def gauges(self) -> Gauges:
        """What the file ``metrics`` shows beside the counters."""
        self._settle()
        workers, broken = max(1, self._charge.workers), len(self._files.broken)
        found = gauges(self._chain, self._cache, version=_VERSION, workers=workers, broken=broken)
        return {**found, "readers_behind": self._behind.behind(self._current)}

    def readers(self) -> dict[str, Any]:
        """What the file ``readers`` shows."""

        def edition_of(handle: int) -> str | None:
            found = self._table.handles.by_number.get(handle)
            return None if found is None else found.content.version

        return self._behind.snapshot(self._current, edition_of)

    def _current(self, path: str) -> Current | None:
        known = self._files.current(path)
        return None if known is None else Current(*known)
