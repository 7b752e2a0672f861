"""What was last found of each file, and whether that still holds: each warm look-up and open asks this and no more."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from keyvaultfs.cache.freshness import ends

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyvaultfs.cache.cache import Cache
    from keyvaultfs.cache.records import Record
    from keyvaultfs.files.edition import Edition
    from keyvaultfs.files.sources import Part
    from keyvaultfs.files.tree import File
    from keyvaultfs.model import Properties


@dataclass(slots=True, eq=False)
class State:
    """What was last found of a file.

    Attributes:
        edition: that it shows.
        watched: what the cache knew of the secrets: each answer makes its own object, so the same one is of the same
            version.
        until: until when the other parts hold.
        last_made: the last edition that could be made.
    """

    edition: Edition
    watched: tuple[tuple[Record, Properties], ...]
    until: float
    last_made: Edition | None


class Found:
    """The states of files, by key.

    Args:
        peek: finds the edition of a file anew, with some work, without asking anybody.
    """

    def __init__(self, cache: Cache, peek: Callable[[File], Edition | None]) -> None:
        self._cache = cache
        self._peek = peek
        self._states: dict[str, State] = {}

    def fresh(self, file: File, now: float) -> Edition | None:
        """The edition, if it may be served without asking anybody and without work. Never waits; makes nothing hot."""
        state = self._states.get(file.key)
        if state is None or now >= state.until:
            return None
        limits = self._cache.limits
        for record, properties in state.watched:
            if record.properties is not properties or not record.fresh(now, limits):
                return None
        return state.edition

    def ready(self, file: File, now: float) -> Edition | None:
        """As `fresh`, with the work, as long as nobody has to be asked."""
        found = self.fresh(file, now)
        if found is not None:
            return found
        known = self._peek(file)
        return known if known is not None and now < known.expires and not known.stale else None

    def opened(self, file: File, now: float) -> Edition | None:
        """As `ready`. Somebody opens the file, so its secrets are hot."""
        state = self._states.get(file.key)
        if state is not None and now < state.until:
            limits = self._cache.limits
            for record, properties in state.watched:
                if record.properties is not properties or not record.opened(now, limits):
                    break
            else:
                return state.edition
        found = self.ready(file, now)
        if found is not None:
            self.touch(file)
        return found

    def touch(self, file: File) -> None:
        """Somebody opens it: its secrets are hot."""
        for source in file.recipe.sources:
            self._cache.touch(source.name)

    def hit(self, file: File, now: float) -> None:
        """Somebody looked it up and was content with what `fresh` said."""
        state = self._states.get(file.key)
        if state is None:
            return
        for record, _ in state.watched:
            self._cache.hit(record, now)

    def left(self, edition: Edition, now: float) -> float:
        """Seconds for which a fresh one stays so."""
        state = self._states.get(edition.file.key)
        if state is None:
            return edition.expires - now
        limits = self._cache.limits
        return min([state.until, *(ends(record.checked, limits) for record, _ in state.watched)]) - now

    def state(self, key: str) -> State | None:
        """What was last found of a file, by its key, however old that is."""
        return self._states.get(key)

    def edition(self, file: File) -> Edition | None:
        """The same: what it showed."""
        state = self._states.get(file.key)
        return None if state is None else state.edition

    def last_made(self, file: File) -> Edition | None:
        """The last edition of a file that could be made."""
        state = self._states.get(file.key)
        return None if state is None else state.last_made

    def parts(self, file: File, edition: str) -> tuple[Part, ...] | None:
        """What an edition was made of, by its id; None where that is not known any more."""
        state = self._states.get(file.key)
        if state is None:
            return None
        for known in (state.edition, state.last_made):
            if known is not None and known.id == edition:
                return known.parts or None
        return None

    def keep(self, wanted: Edition, shown: Edition, last_made: Edition | None) -> None:
        """A file shows an edition.

        Args:
            wanted: of the newest versions of its secrets.
            shown: what it shows: the same, if that could be made.
            last_made: the last that could be made.
        """
        watched, until = [], math.inf
        for part in wanted.parts:
            record = self._cache.records.get(part.name.key)
            if part.source.version is not None or part.source.previous:
                until = min(until, part.expires)
            if part.source.version is None and record is not None and record.version is not None:
                assert record.properties is not None
                watched.append((record, record.properties))
        self._states[wanted.file.key] = State(shown, tuple(watched), until, last_made)

    def distrust(self) -> None:
        """Nothing of it holds any more."""
        self._states = {key: replace(state, until=-math.inf) for key, state in self._states.items()}
