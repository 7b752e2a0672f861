"""What follows from each OPEN of a secret's file beside its answer: who asked is found out, and it is recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from pyfuse3 import RequestContext

    from keyvaultfs.files.editions import Editions
    from keyvaultfs.filesystem.askers import Askers
    from keyvaultfs.filesystem.audit import Audit
    from keyvaultfs.filesystem.inodes.nodes import Node
    from keyvaultfs.filesystem.inodes.table import InodeTable


class Opens:
    """Told of each OPEN before it is answered.

    Args:
        mountpoint: an absolute path.
        audit: None without the option.
    """

    def __init__(
        self, table: InodeTable, editions: Editions, askers: Askers, mountpoint: str, audit: Audit | None
    ) -> None:
        self._table = table
        self._editions = editions
        self._askers = askers
        self._prefix = mountpoint.rstrip("/") + "/"
        self._audit = audit

    def opened(self, node: Node, ctx: RequestContext, code: int) -> Coroutine[Any, Any, None] | None:
        """An OPEN of `node` ended with an errno, or 0; what is returned is to be awaited before the answer."""
        if self._audit is None:
            return None
        asker = self._askers.of(ctx)
        shown = self._table.content(node)
        versions = self._editions.versions(shown.name, shown.version)
        return self._audit.record(self._prefix + node.name.path, versions, asker, code)
