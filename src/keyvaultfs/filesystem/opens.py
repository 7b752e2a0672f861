"""What follows from each OPEN of a secret's file beside its answer: who asked is found out, noted and recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keyvaultfs.filesystem.audit import Subject
from keyvaultfs.filesystem.readers import Recent

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pyfuse3 import FileInfo, InodeT, RequestContext

    from keyvaultfs.files.editions import Editions
    from keyvaultfs.filesystem.askers import Askers, Seen
    from keyvaultfs.filesystem.audit import Audit
    from keyvaultfs.filesystem.inodes.nodes import Node
    from keyvaultfs.filesystem.inodes.table import InodeTable
    from keyvaultfs.filesystem.readers import Readers

    Opened = Callable[[InodeT, RequestContext, int, FileInfo | None], Coroutine[Any, Any, None] | None]

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
        self._nodes = table.nodes
        self._editions = editions
        self._askers = askers
        self._readers = readers
        self._recent, self._by_handle = readers.recent, readers.by_handle
        self._prefix = mountpoint.rstrip("/") + "/"
        self._audit = audit
        self._subjects: dict[tuple[int, int], Subject] = {}
        self.opened: Opened = self._note if audit is None else self._record
        """see `requests.Served`"""
        self.closed: Callable[[int], None] = readers.closed
        """a RELEASE; of a secret's file or any other"""

    def _note(
        self,
        inode: InodeT,
        ctx: RequestContext,
        code: int,  # noqa: ARG002
        answer: FileInfo | None,
    ) -> None:
        """Remember who reads; a warm open is only counted, by what was found out a moment ago."""
        if answer is None:
            return
        recent = self._recent.get((inode, ctx.pid))
        if recent is not None and recent.node.content_inode == inode:
            self._opened_again(recent, answer)
            return
        node = self._nodes.get(inode)
        if node is not None and not node.pinned:  # no control file, and no version that does not change
            self._recent[inode, ctx.pid] = self._opened(node, answer, self._askers.of(ctx))

    def _record(
        self, inode: InodeT, ctx: RequestContext, code: int, answer: FileInfo | None
    ) -> Coroutine[Any, Any, None] | None:
        """The same with a record in the audit's file, for which it must be the same program still."""
        assert self._audit is not None
        recent = self._recent.get((inode, ctx.pid))
        if (
            recent is not None
            and answer is not None
            and recent.node.content_inode == inode
            and recent.seen.asks(ctx)
        ):
            self._opened_again(recent, answer)
            return self._audit.record(recent.record)
        node = self._nodes.get(inode)
        if node is None:  # a control file
            return None
        seen = self._askers.of(ctx)
        subject = self._subject(node, self._table.content(node))
        record = self._audit.body(subject, seen.asker, code)
        if answer is not None and not node.pinned:
            recent = self._opened(node, answer, seen)
            if subject.whole:
                recent.record = record
                self._recent[inode, ctx.pid] = recent
        return self._audit.record(record)

    def _opened_again(self, recent: Recent, answer: FileInfo) -> None:
        reader = recent.reader
        reader.opens += 1
        self._by_handle[answer.fh] = reader

    def _opened(self, node: Node, answer: FileInfo, seen: Seen) -> Recent:
        edition = self._table.content(node).version
        reader = self._readers.opened(node.name.path, edition, seen.asker, answer.fh)
        return Recent(reader, node, seen)

    def _subject(self, node: Node, content: Node) -> Subject:
        known = self._subjects.get((node.inode, content.inode))
        if known is not None:
            return known
        versions = self._editions.versions(content.name, content.version)
        subject = Subject(self._prefix + node.name.path, versions)
        if subject.whole:
            if len(self._subjects) >= _MOST_SUBJECTS:
                self._subjects.clear()
            self._subjects[node.inode, content.inode] = subject
        return subject
