"""What follows from each OPEN of a secret's file beside its answer: who asked is found out, noted and recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keyvaultfs.filesystem.audit import Subject

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from pyfuse3 import RequestContext

    from keyvaultfs.files.editions import Editions
    from keyvaultfs.filesystem.askers import Askers
    from keyvaultfs.filesystem.audit import Audit
    from keyvaultfs.filesystem.inodes.nodes import Node
    from keyvaultfs.filesystem.inodes.table import InodeTable
    from keyvaultfs.filesystem.readers import Readers

_MOST_SUBJECTS = 4096


class Opens:
    """Told of each OPEN before it is answered, and of each RELEASE.

    Args:
        mountpoint: an absolute path.
        audit: None without the option.
    """

    def __init__(
        self,
        table: InodeTable,
        editions: Editions,
        askers: Askers,
        readers: Readers,
        *,
        mountpoint: str,
        audit: Audit | None,
    ) -> None:
        self._table = table
        self._editions = editions
        self._askers = askers
        self._readers = readers
        self._prefix = mountpoint.rstrip("/") + "/"
        self._audit = audit
        self._subjects: dict[tuple[int, int], Subject] = {}

    def opened(self, node: Node, ctx: RequestContext, code: int, fh: int) -> Coroutine[Any, Any, None] | None:
        """An OPEN of `node` ended with an errno, or with 0 and a handle.

        Returns:
            What is to be awaited before the answer, if anything.
        """
        audit = self._audit
        if audit is None:
            if not code and not node.pinned:
                shown = self._table.content(node)
                self._readers.opened(node.name.path, shown.version, self._askers.recent(ctx), fh)
            return None
        asker = self._askers.of(ctx)
        shown = self._table.content(node)
        if not code and not node.pinned:
            self._readers.opened(node.name.path, shown.version, asker, fh)
        subject = self._subjects.get((node.inode, shown.inode))
        if subject is None:
            subject = self._subject(node, shown)
        return audit.record(subject, asker, code)

    def closed(self, fh: int) -> None:
        """A RELEASE; of a secret's file or any other."""
        self._readers.closed(fh)

    def _subject(self, node: Node, shown: Node) -> Subject:
        versions = self._editions.versions(shown.name, shown.version)
        subject = Subject(self._prefix + node.name.path, versions)
        if all(versions.values()):  # else more may be known the next time
            if len(self._subjects) >= _MOST_SUBJECTS:
                self._subjects.clear()
            self._subjects[node.inode, shown.inode] = subject
        return subject
