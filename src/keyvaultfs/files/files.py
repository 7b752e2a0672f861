"""Paths and editions: all that the file system knows of a vault."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyvaultfs.files.broken import Breakage
from keyvaultfs.files.changes import Changes
from keyvaultfs.files.editions import Editions
from keyvaultfs.files.listing import Listing
from keyvaultfs.files.made import Made
from keyvaultfs.files.sources import Sources
from keyvaultfs.files.tree import File

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from keyvaultfs.cache.cache import Cache
    from keyvaultfs.files.shown import Shown
    from keyvaultfs.files.tree import Tree
    from keyvaultfs.log import Causes
    from keyvaultfs.model import ListItem, SecretName, VersionItem


class Files:
    """Joins a tree with a cache.

    Args:
        decode: whether the tag ``file-encoding`` is obeyed where a file does not say.
        shown: which secrets are this mount's.
    """

    def __init__(
        self,
        tree: Tree,
        cache: Cache,
        causes: Causes,
        shown: Shown,
        *,
        decode: bool = False,
    ) -> None:
        self.tree = tree
        self.broken = Breakage(causes)
        self._sources = sources = Sources(cache, shown)
        self.editions = Editions(cache, sources, Made(cache.store), self.broken, decode=decode)
        self.listing = Listing(tree, cache, sources)
        self.changes = Changes(tree, self.editions)
        self._cache = cache
        self.outage = cache.outage

    def of(self, name: SecretName) -> Iterator[File]:
        """The files that are made of a secret's current version."""
        return self.changes.files_of(name)

    def listed(self, items: Iterable[ListItem]) -> Iterator[tuple[File, int | None]]:
        """The files that a whole listing of the vault stands for, and when each was last updated, in Unix seconds."""
        listing = [one for one in self.tree.directories.values() if one.lists]
        for item in items:
            if self._sources.shows(item.properties.tags):
                for directory in listing:
                    for file in self.tree.shown(directory, item.name):
                        yield file, item.properties.updated

    def is_listed(self, file: File) -> bool:
        """Whether it is there because the vault's listing has it, and not because the configuration names it."""
        return file.key not in self.tree.named

    def follows(self, file: File) -> bool:
        """Whether a file's changes are told without a listing: its secret's version is known."""
        return any(self._cache.follows(one.name) for one in file.recipe.sources)

    def verify(self, file: File) -> None:
        """Ask for the secrets of a file that a listing lacks."""
        for one in file.recipe.sources:
            self._cache.verify(one.name)

    async def see_whether_shown(self, name: SecretName) -> None:
        """See `Sources.see_whether_shown`."""
        await self._sources.see_whether_shown(name)

    async def versions(self, name: SecretName) -> tuple[VersionItem, ...]:
        """All versions of a secret, asked of the vault each time.

        Raises:
            NotFound, Refused, Unavailable, trio.TooSlowError: as `Cache.get`.
        """
        await self.see_whether_shown(name)
        items = await self._cache.versions(name)
        return tuple(item for item in items if self._sources.shows(item.properties.tags))

    def current(self, path: str) -> tuple[str, int | None] | None:
        """The edition that a path shows now, and since when, in Unix seconds: as far as that is known without asking.

        Returns:
            None if that is not known; ("", None) if it shows nothing, or an edition that nobody has looked at yet.
        """
        file = self.tree.find(path)
        if not isinstance(file, File):
            return None
        if any(self._sources.hides(one.name) for one in file.recipe.sources):
            return "", None
        records = [
            self._cache.records.get(one.name.key) for one in file.recipe.sources if one.version is None
        ]
        if any(record is None or (record.version is None and record.verdict is None) for record in records):
            return None
        if any(record is not None and (record.version is None or record.outdated) for record in records):
            return "", None
        edition = self.editions.peek(file)
        return None if edition is None else (edition.id, edition.created)

    def bytes_known(self) -> int:
        """How many bytes of values are known."""
        return self._cache.store.live

    def names_known(self) -> int:
        """How many names there are, as far as anybody has seen."""
        return len(self.tree.named) + (self._cache.listings.names_known() if self.tree.root.flat else 0)
