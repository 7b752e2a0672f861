"""What a directory shows: what the configuration names, and what the vault's listing stands for there."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from keyvaultfs.cache.cache import Cache
    from keyvaultfs.files.sources import Sources
    from keyvaultfs.files.tree import Directory, File, Tree
    from keyvaultfs.model import ListItem

    Rows = tuple[File | Directory, ...]


class Listing:
    """The names of directories. No value is fetched for them."""

    def __init__(self, tree: Tree, cache: Cache, sources: Sources) -> None:
        self._tree = tree
        self._cache = cache
        self._sources = sources
        self._last: dict[str, tuple[tuple[ListItem, ...], bool, Rows]] = {}

    async def rows(self, directory: Directory) -> AsyncGenerator[Rows, None]:
        """What is in a directory, page by page while it comes. The same page is the same object each time.

        Raises:
            Refused, Unavailable, trio.TooSlowError: as `Cache.listing`, where the vault's listing is needed.
        """
        if not directory.lists:
            yield tuple(directory.children.values())
            return
        first = True
        async with aclosing(self._cache.listing()) as pages:
            async for page in pages:
                yield self._page(directory, page, first=first)
                first = False
        if first and directory.children:
            yield tuple(directory.children.values())

    def _page(self, directory: Directory, page: tuple[ListItem, ...], *, first: bool) -> Rows:
        last = self._last.get(directory.path)
        if last is not None and last[0] is page and last[1] is first:
            return last[2]
        rows: list[File | Directory] = list(directory.children.values()) if first else []
        for item in page:
            if self._sources.shows(item.properties.tags):
                rows += self._tree.shown(directory, item.name)
        found = tuple(rows)
        self._last[directory.path] = (page, first, found)
        return found
