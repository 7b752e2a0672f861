"""The bytes of editions: of plain secrets in the cache, of others as they were made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyvaultfs.files.edition import way
from keyvaultfs.model import Properties, Version

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from keyvaultfs.cache.values import ValueStore
    from keyvaultfs.files.edition import Edition
    from keyvaultfs.files.found import Found
    from keyvaultfs.files.made import Made
    from keyvaultfs.files.tree import File
    from keyvaultfs.model import SecretValue


class Contents:
    """What of them is in memory.

    Args:
        store: of the secrets' values.
        made: of bytes that were made of these.
        found: what files show now.
        decode: as of `Editions`.
    """

    def __init__(self, store: ValueStore, made: Made, found: Found, *, decode: bool) -> None:
        self._store = store
        self._made = made
        self._found = found
        self._decode = decode
        self._salted: dict[str, tuple[str, SecretValue]] = {}
        """by file: the edition that cannot be made again to the letter, so that no want of room takes it"""

    def peek(self, file: File, edition: str) -> SecretValue | None:
        """The bytes of an edition, by its id, if they are in memory."""
        recipe = file.recipe
        if recipe.plain:
            # Without a call of Version(), since each warm open comes by here.
            kept = self._store.get(recipe.sources[0].name, edition)  # type: ignore[arg-type]
            if kept is not None or not self._decode:
                return kept
        salted = self._salted.get(file.key)
        if salted is not None and salted[0] == edition:
            return salted[1]
        return self._made.get(file.key, edition)

    def keep(self, edition: Edition, made: SecretValue) -> None:
        """The bytes of an edition were made."""
        file = edition.file
        facts = Properties(created=edition.created, updated=edition.updated)
        self._made.put(file.key, edition.id, made, way(file.recipe), facts)
        if file.recipe.salted:
            self._salted[file.key] = (edition.id, made)

    def newest(self, file: File) -> tuple[str, Properties] | None:
        """The last edition of a file that this worker or a predecessor made by the same recipe: its id and times."""
        return self._made.newest(file.key, way(file.recipe))

    def of_handles(self, held: Mapping[int, tuple[File, str]]) -> dict[int, SecretValue | None]:
        """Bytes that a predecessor had open, by handle; None where they are in memory no more.

        The configuration may have been read anew: where a file is no more, or is made of another secret, its name
        does not lead to the bytes, but the edition does, which is no other's.
        """
        found = {handle: self.peek(file, edition) for handle, (file, edition) in held.items()}
        lost = [handle for handle, value in found.items() if value is None]
        names = {stored.version: stored.name for stored in self._store} if lost else {}
        for handle in lost:
            edition = Version(held[handle][1])
            if edition in names:
                found[handle] = self._store.get(names[edition], edition)
        return found

    def sweep(self, held: Iterable[tuple[File, str]]) -> None:
        """Let go of bytes that no file shows, and that nobody holds."""
        kept = {(file.key, edition) for file, edition in held}

        def needed(key: str, edition: str) -> bool:
            state = self._found.state(key)
            if (key, edition) in kept or state is None:
                return True
            return edition == state.edition.id or (
                state.last_made is not None and edition == state.last_made.id
            )

        self._made.sweep(needed)
