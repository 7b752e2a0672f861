"""What follows from each OPEN of a secret's file beside its answer: who asked is found out, noted and recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keyvaultfs.filesystem.audit import Subject

if TYPE_CHECKING:
    from collections.abc import Coroutine

    import pyfuse3
    from pyfuse3 import RequestContext

    from keyvaultfs.files.editions import Editions
    from keyvaultfs.filesystem.askers import Asker, Askers
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

    def opened(
        self, arguments: tuple[Any, ...], code: int, answer: pyfuse3.FileInfo | None
    ) -> Coroutine[Any, Any, None] | None:
        """See `requests.Served`."""
        inode, _, ctx = arguments
        audit = self._audit
        if audit is None:
            if answer is not None:
                self._note(inode, ctx, answer.fh, None)
            return None
        node = self._table.nodes.get(inode)
        if node is None:  # a control file
            return None
        asker = self._askers.of(ctx)
        if answer is not None:
            self._note(inode, ctx, answer.fh, asker)
        shown = node if node.shown == inode else self._table.content(node)
        return audit.record(self._subject(node, shown), asker, code)

    def _note(self, inode: int, ctx: RequestContext, fh: int, asker: Asker | None) -> None:
        """Remember who reads; a warm open is only counted, by what was found out a moment ago."""
        readers = self._readers
        recent = readers.recent.get((inode, ctx.pid))
        if recent is not None and recent[1].shown == inode and (asker is None or recent[0].asker is asker):
            reader = recent[0]
            reader.opens += 1
            reader.touched = True
            readers.by_handle[fh] = reader
            return
        node = self._table.nodes.get(inode)
        if node is None or node.pinned:
            return
        edition = self._table.content(node).version
        reader = readers.opened(node.name.path, edition, asker or self._askers.of(ctx), fh)
        readers.recent[inode, ctx.pid] = reader, node

    def closed(self, fh: int) -> None:
        """A RELEASE; of a secret's file or any other."""
        self._readers.closed(fh)

    def _subject(self, node: Node, shown: Node) -> Subject:
        known = self._subjects.get((node.inode, shown.inode))
        if known is not None:
            return known
        versions = self._editions.versions(shown.name, shown.version)
        subject = Subject(self._prefix + node.name.path, versions)
        if all(versions.values()):  # else more may be known the next time
            if len(self._subjects) >= _MOST_SUBJECTS:
                self._subjects.clear()
            self._subjects[node.inode, shown.inode] = subject
        return subject
