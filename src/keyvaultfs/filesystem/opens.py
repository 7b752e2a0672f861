"""What follows from each OPEN of a secret's file beside its answer: who asked is found out, noted and recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keyvaultfs.filesystem.audit import Subject

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pyfuse3 import FileInfo, InodeT, RequestContext

    from keyvaultfs.files.editions import Editions
    from keyvaultfs.filesystem.askers import Asker, Askers
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
        asker: Asker | None = None,
    ) -> None:
        """Remember who reads; a warm open is only counted, by what was found out a moment ago."""
        if answer is None:
            return
        recent = self._recent.get((inode, ctx.pid))
        if (
            recent is not None
            and recent[1].content_inode == inode
            and (asker is None or recent[0].asker is asker)
        ):
            reader = recent[0]
            reader.opens += 1
            self._by_handle[answer.fh] = reader
            return
        self._note_anew(inode, ctx, answer.fh, asker)

    def _record(
        self, inode: InodeT, ctx: RequestContext, code: int, answer: FileInfo | None
    ) -> Coroutine[Any, Any, None] | None:
        """The same with a record in the audit's file."""
        node = self._nodes.get(inode)
        if node is None:  # a control file
            return None
        asker = self._askers.of(ctx)
        self._note(inode, ctx, code, answer, asker)
        assert self._audit is not None
        content = node if node.content_inode == inode else self._table.content(node)
        return self._audit.record(self._subject(node, content), asker, code)

    def _note_anew(self, inode: InodeT, ctx: RequestContext, fh: int, asker: Asker | None) -> None:
        node = self._nodes.get(inode)
        if node is None or node.pinned:
            return
        edition = self._table.content(node).version
        reader = self._readers.opened(node.name.path, edition, asker or self._askers.of(ctx), fh)
        self._recent[inode, ctx.pid] = reader, node

    def _subject(self, node: Node, content: Node) -> Subject:
        known = self._subjects.get((node.inode, content.inode))
        if known is not None:
            return known
        versions = self._editions.versions(content.name, content.version)
        subject = Subject(self._prefix + node.name.path, versions)
        if all(versions.values()):  # else more may be known the next time
            if len(self._subjects) >= _MOST_SUBJECTS:
                self._subjects.clear()
            self._subjects[node.inode, content.inode] = subject
        return subject
