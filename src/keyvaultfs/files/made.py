"""The bytes of files that are made of secrets, kept beside the values in memory that a successor takes over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyvaultfs.cache.stored import FileKey
from keyvaultfs.model import Properties, Version

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyvaultfs.cache.values import ValueStore
    from keyvaultfs.model import SecretValue

_RECIPE = "recipe"
"""The tag of a record that says how its bytes were made."""

_MOST_KEYS = 4096


class Made:
    """Bytes by file and edition.

    Some cannot be made again to the letter, since a PFX has random salts. So the bytes of an edition stay while
    anybody may still read it, unless there is no room for them.
    """

    def __init__(self, store: ValueStore) -> None:
        self._store = store
        self._keys: dict[str, FileKey] = {}
        """by the file's key: each warm open asks for one"""

    def get(self, key: str, edition: str) -> SecretValue | None:
        """The bytes that were made for an edition of a file."""
        known = self._keys.get(key)
        if known is None:
            if len(self._keys) >= _MOST_KEYS:
                self._keys.clear()
            known = self._keys[key] = FileKey(key)
        return self._store.get(known, edition)  # type: ignore[arg-type]  # Version() is a call

    def put(self, key: str, edition: str, value: SecretValue, recipe: str, facts: Properties) -> None:
        """Keep the bytes of an edition of a file.

        Args:
            recipe: names the recipe: editions have the same one exactly if they are made in this way of these secrets.
            facts: `created` and `updated` of the edition.
        """
        properties = Properties(created=facts.created, updated=facts.updated, tags={_RECIPE: recipe})
        self._store.put(FileKey(key), Version(edition), value, properties, racy=False, checked=0.0)

    def newest(self, key: str, recipe: str) -> tuple[str, Properties] | None:
        """The latest edition of a file that was made by a recipe, by this worker or an earlier one."""
        found = [
            (stored.version, stored.properties)
            for name, stored in self._store.made()
            if name.path == key and stored.properties.tags.get(_RECIPE) == recipe
        ]
        return max(found, key=lambda one: one[1].updated or 0, default=None)

    def sweep(self, needed: Callable[[str, str], bool]) -> None:
        """Drop the editions that nobody needs.

        Args:
            needed: called with a file's key and an edition.
        """
        for name, stored in self._store.made():
            if not needed(name.path, stored.version):
                self._store.drop(name, stored.version)
