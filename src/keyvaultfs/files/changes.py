"""A rotation of a secret -> the files that show something else now, all of them at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import trio

from keyvaultfs.files.tree import File
from keyvaultfs.model import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyvaultfs.cache.cache import Rotated
    from keyvaultfs.files.edition import Edition
    from keyvaultfs.files.editions import Editions
    from keyvaultfs.files.tree import Tree
    from keyvaultfs.model import SecretName


class Changed(NamedTuple):
    """A file no longer shows the edition `old`.

    `new` is None when it shows nothing, and also when nobody has asked yet what it shows.

    Attributes:
        gone: it shows nothing.
        appeared: it showed nothing a moment ago.
        updated: of what it shows now, in Unix seconds.
    """

    file: File
    old: str | None
    new: str | None
    gone: bool = False
    appeared: bool = False
    updated: int | None = None


class Changes:
    """Joins what the cache says of secrets with the files that are made of them."""

    def __init__(self, tree: Tree, editions: Editions) -> None:
        self._tree = tree
        self._editions = editions
        self._named: dict[str, list[File]] = {}
        for file in tree.named.values():
            for source in dict.fromkeys(file.recipe.sources):
                if source.version is None:
                    self._named.setdefault(source.name.key, []).append(file)

    def files_of(self, name: SecretName) -> Iterator[File]:
        """The files that change with a secret: named, mapped and the flat one."""
        yield from self._named.get(name.key, ())
        for directory in self._tree.directories.values():
            if directory.lists:
                yield from self._tree.shown(directory, name)

    def of(self, event: Rotated) -> tuple[Changed, ...]:
        """What changes with a rotation. A file that cannot be made of the new version still shows its last edition."""
        found = []
        for file in self.files_of(event.name):
            if file.recipe.plain and file.recipe.sources[0].current:
                found.append(self._plain(file, event))
                continue
            known = self._editions.peek(file) or self._last(file, event)
            unasked = event.new is None and not event.gone and file.path not in self._editions.broken
            if known is not None and unasked:
                # Nobody has asked for the new version yet, and what can be made is still the last edition.
                updated = max(known.updated or 0, event.updated or 0) or None
                found.append(Changed(file, known.id, None, updated=updated))
                continue
            if known is None and self._is_first_news(file, event):
                continue  # one of its secrets was asked for the first time: what it is made of is still not known
            if file.path not in self._editions.broken:
                new = None if known is None else known.id
                updated = event.updated if known is None else known.updated
                found.append(Changed(file, None, new, event.gone and new is None, event.appeared, updated))
        return tuple(found)

    def _is_first_news(self, file: File, event: Rotated) -> bool:
        """Whether the event is the first that was ever heard of a file: nobody can hold an earlier edition of it."""
        began = event.old is None and not (event.appeared or event.gone)
        return began and self._editions.state(file) is None

    def _last(self, file: File, event: Rotated) -> Edition | None:
        """The last edition, where a refresh followed the event at once: the cache must ask again first."""
        return None if event.new in {None, UNREADABLE} else self._editions.last(file)

    def _plain(self, file: File, event: Rotated) -> Changed:
        new: str | None = event.new
        if new not in {None, UNREADABLE}:
            known = self._editions.peek(file)  # a decoded one has another id than its version
            new = new if known is None else known.id
        return Changed(file, event.old, new, event.gone, event.appeared, event.updated)

    async def follow(
        self, rotated: trio.MemoryReceiveChannel[Rotated], into: trio.MemorySendChannel[tuple[Changed, ...]]
    ) -> None:
        """Send the files that each rotation changes, as one set. Runs until cancelled."""
        async for event in rotated:
            changed = self.of(event)
            if changed:
                into.send_nowait(changed)
