"""What each file shows now: its recipe, and one version of each of its secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from keyvaultfs.errors import CannotMake, NotFound, Refused, Unavailable
from keyvaultfs.files import makers
from keyvaultfs.files.contents import Contents
from keyvaultfs.files.edition import Edition, id_of_version, of_parts
from keyvaultfs.files.found import Found
from keyvaultfs.model import UNREADABLE, Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from keyvaultfs.cache.cache import Cache
    from keyvaultfs.files.broken import Breakage
    from keyvaultfs.files.made import Made
    from keyvaultfs.files.recipes import Source
    from keyvaultfs.files.sources import Part, Sources
    from keyvaultfs.files.tree import File
    from keyvaultfs.model import Properties, SecretName, SecretValue

_WORST = (NotFound, Refused, Exception)
"""What a file of several secrets fails with: missing before refused before nobody answered."""


_MISSING = {
    "NotShown": "include=, exclude= or tags= leave out",
    "NoPreviousVersion": "there is no such earlier version of",
}


class Editions:
    """Answers which edition a file has now, and gives out its bytes.

    Args:
        decode: whether the tag ``file-encoding`` is obeyed where a file does not say.
    """

    def __init__(self, cache: Cache, sources: Sources, made: Made, broken: Breakage, *, decode: bool) -> None:
        self._cache = cache
        self._sources = sources
        self.broken = broken
        self._decode = decode
        self._found = found = Found(cache, self.peek)
        self._contents = contents = Contents(cache.store, made, found, decode=decode)
        # What each warm look-up and open asks has no call in between.
        self.fresh, self.ready, self.opened = found.fresh, found.ready, found.opened
        self.touch, self.hit, self.left, self.state = found.touch, found.hit, found.left, found.edition
        self.peek_value, self.kept, self.sweep = contents.peek, contents.of_handles, contents.sweep

    async def get(self, file: File, uid: int | None = None) -> Edition:
        """The edition of now: fresh, or stale while nobody answers or while the newest cannot be made.

        Args:
            file: that is wanted.
            uid: who wants it, as of `Cache.get`.

        Raises:
            NotFound, Refused, Unavailable, trio.TooSlowError: the worst that befell one of its secrets.
            CannotMake: its secrets' values cannot be made into it, and there is no earlier edition.
        """
        sources = file.recipe.sources
        if not sources:
            raise NotFound("NoSuchFile")
        try:
            parts = (
                (await self._sources.get(sources[0], uid),)
                if len(sources) == 1
                else await self._all_parts(file)
            )
        except NotFound as exc:
            self._is_missing(file, exc)
            raise
        edition = of_parts(file, parts, decode=self._decode)
        if not self._needs_making(edition):
            return self._shown(edition)
        values = {}
        for part in parts:
            values[part.source] = await self._cache.value(part.name, part.version)
        return self._make(edition, values)

    def _is_missing(self, file: File, exc: NotFound) -> None:
        """A file that the configuration names is not there: whoever wrote it wants to know for want of what."""
        if file.named:
            names = [source.name for source in file.recipe.sources]
            lacking = [str(name) for name in names if self._cache.lacks(name)] or [
                str(name) for name in names
            ]
            why = f"{_MISSING.get(exc.cause, 'the vault has no secret')} {', '.join(dict.fromkeys(lacking))}"
            self.broken.begin(file.path, "", why, trio.current_time())

    def peek(self, file: File) -> Edition | None:
        """What is known and may be served while nobody answers. Never waits, and makes nothing hot."""
        return self._without_asking(file, self._sources.peek)

    def last(self, file: File) -> Edition | None:
        """The edition that was last found, even if it is too old to be served. Never waits, and makes nothing hot."""
        return self._without_asking(file, self._sources.last)

    def _without_asking(self, file: File, find: Callable[[Source], Part | None]) -> Edition | None:
        parts = tuple(part for source in file.recipe.sources if (part := find(source)) is not None)
        if not parts or len(parts) != len(file.recipe.sources):
            return None
        edition = of_parts(file, parts, decode=self._decode)
        if not self._needs_making(edition):
            return self._shown(edition)
        values = {}
        for part in parts:
            value = self._cache.peek_value(part.name, part.version)
            if value is None:
                return None
            values[part.source] = value
        try:
            return self._make(edition, values)
        except CannotMake:
            return None

    def refused(self, file: File) -> Edition:
        """The edition without bytes that stands for a file after `get` raised Refused, while that is remembered."""
        now = trio.current_time()
        expires = max(self._cache.refused(source.name).expires for source in file.recipe.sources)
        return Edition(file, UNREADABLE, (), None, None, now, max(now, expires), stale=False)

    def is_disabled(self, file: File) -> bool:
        """Whether one of its secrets is disabled in the vault, and so in no listing."""
        return any(self._cache.is_disabled(source.name) for source in file.recipe.sources)

    def listed(self, file: File, properties: Properties) -> str:
        """The edition that a listing of a secret's versions shows, of a file that is one version."""
        return id_of_version(file, properties, decode=self._decode)

    async def value(self, file: File, edition: str) -> SecretValue:
        """The bytes of an edition, made again when they have left memory.

        Raises:
            NotFound, Refused, Unavailable, trio.TooSlowError: as `Cache.value`.
            CannotMake: it is no longer known what it was made of.
        """
        kept = self.peek_value(file, edition)
        if kept is not None:
            return kept
        if file.recipe.plain and not self._decode:
            return await self._cache.value(file.recipe.sources[0].name, Version(edition))
        parts = self._found.parts(file, edition)
        if parts is None:
            await self.get(file)
            parts = self._found.parts(file, edition)
        if file.recipe.plain and (parts is None or parts[0].version == edition):
            return await self._cache.value(file.recipe.sources[0].name, Version(edition))
        if parts is None:
            raise CannotMake("its secrets have other versions now")
        values = {part.source: await self._cache.value(part.name, part.version) for part in parts}
        made = makers.make(file.recipe, parts, values, default=self._decode)
        self._contents.keep(of_parts(file, parts, decode=self._decode), made)
        return made

    def secrets(self, held: Iterable[tuple[File, str]]) -> set[tuple[SecretName, Version]]:
        """The versions of secrets that held editions are made of."""
        found: set[tuple[SecretName, Version]] = set()
        for file, edition in held:
            parts = None if file.recipe.plain and not self._decode else self._found.parts(file, edition)
            if parts is not None:
                found.update((part.name, part.version) for part in parts if part.source.version is None)
            elif file.recipe.plain and file.recipe.sources[0].version is None:
                found.add((file.recipe.sources[0].name, Version(edition)))
            else:  # of a predecessor: of which versions it is made shows only when it is looked up
                found.update(
                    (source.name, Version("")) for source in file.recipe.sources if source.version is None
                )
        return found

    def versions(self, file: File, edition: str) -> dict[str, str]:
        """The version of each secret that an edition is made of; "" where that is not known, or nothing was shown."""
        parts = self._found.parts(file, edition)
        if parts is not None:
            return {str(part.name): part.version for part in parts}
        known = edition if file.recipe.plain and edition != UNREADABLE else ""
        return {str(source.name): source.version or known for source in file.recipe.sources}

    def forget(self) -> None:
        """Drop what is known of versions; bytes that were made stay true of their edition."""
        self._found.distrust()
        self._sources.forget()

    async def _all_parts(self, file: File) -> tuple[Part, ...]:
        found: dict[int, Part] = {}
        failures: list[Exception] = []

        async def one(index: int) -> None:
            try:
                found[index] = await self._sources.get(file.recipe.sources[index])
            except (NotFound, Refused, Unavailable, trio.TooSlowError) as exc:
                failures.append(exc)

        async with trio.open_nursery() as nursery:
            for index in range(len(file.recipe.sources)):
                nursery.start_soon(one, index)
        for kind in _WORST:
            for failure in failures:
                if isinstance(failure, kind):
                    raise failure from None
        return tuple(found[index] for index in range(len(file.recipe.sources)))

    def _needs_making(self, edition: Edition) -> bool:
        if edition.file.recipe.plain and edition.id == edition.parts[0].version:
            return False
        return self.peek_value(edition.file, edition.id) is None

    def _make(self, edition: Edition, values: dict[Source, SecretValue]) -> Edition:
        file = edition.file
        try:
            made = makers.make(file.recipe, edition.parts, values, default=self._decode)
        except CannotMake as exc:
            return self._serve_last_made(edition, exc)
        self._contents.keep(edition, made)
        return self._shown(edition)

    def _serve_last_made(self, wanted: Edition, exc: CannotMake) -> Edition:
        file, now = wanted.file, trio.current_time()
        since = self.broken.begin(file.path, wanted.id, exc.hint, now)
        last_made = self._found.last_made(file) or self._inherited(wanted)
        if (
            last_made is None
            or now - since >= self._cache.limits.max_stale
            or self.peek_value(file, last_made.id) is None
        ):
            raise exc
        shown = last_made._replace(stale=True, checked=wanted.checked, expires=wanted.expires)
        self._found.keep(wanted, shown, last_made)
        return shown

    def _inherited(self, wanted: Edition) -> Edition | None:
        """The last edition that a predecessor made by the same recipe. Of which versions it was made is not known."""
        found = self._contents.newest(wanted.file)
        if found is None:
            return None
        known, facts = found
        return wanted._replace(id=known, parts=(), created=facts.created, updated=facts.updated, stale=True)

    def _shown(self, edition: Edition) -> Edition:
        self.broken.end(edition.file.path)
        self._found.keep(edition, edition, edition)
        return edition
