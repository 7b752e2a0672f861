"""What each file shows now: its recipe, and one version of each of its secrets."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import trio

from keyvaultfs.content.decode import Decoding
from keyvaultfs.errors import CannotMake, NotFound, Refused, Unavailable
from keyvaultfs.files import makers
from keyvaultfs.model import UNREADABLE, Properties, Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from keyvaultfs.cache.cache import Cache
    from keyvaultfs.cache.records import Record
    from keyvaultfs.files.broken import Breakage
    from keyvaultfs.files.made import Made
    from keyvaultfs.files.recipes import Recipe, Source
    from keyvaultfs.files.sources import Part, Sources
    from keyvaultfs.files.tree import File
    from keyvaultfs.model import SecretName, SecretValue

_WORST = (NotFound, Refused, Exception)
"""What a file of several secrets fails with: missing before refused before nobody answered."""


@dataclass(frozen=True, slots=True)
class Edition:
    """What a file shows. Times as of `Part`, and in whole Unix seconds.

    Attributes:
        id: 32 hex digits; of a plain secret its version. The bytes of an id never change.
        stale: one of its secrets is, or the newest versions could not be made into a file.
    """

    file: File
    id: str
    parts: tuple[Part, ...]
    created: int | None
    updated: int | None
    checked: float
    expires: float
    stale: bool


@dataclass(slots=True)
class _State:
    """What was last found of a file, and whether that still holds.

    Attributes:
        watched: what the cache knew of the secrets: each answer makes its own object, so the same one is of the same
            version.
        until: until when the other parts hold.
        good: the last edition that could be made.
    """

    edition: Edition
    watched: tuple[tuple[Record, Properties], ...]
    until: float
    good: Edition | None = field(default=None)


class Editions:
    """Answers which edition a file has now, and gives out its bytes.

    Args:
        decode: whether the tag ``file-encoding`` is obeyed where a file does not say.
    """

    def __init__(self, cache: Cache, sources: Sources, made: Made, broken: Breakage, *, decode: bool) -> None:
        self._cache = cache
        self._store = cache.store
        self._sources = sources
        self._made = made
        self.broken = broken
        self._decode = decode
        self._states: dict[str, _State] = {}
        self._salted: dict[str, tuple[str, SecretValue]] = {}
        """by file: the edition that cannot be made again to the letter, so that no want of room takes it"""

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
        known = self.peek(file)
        return known if known is not None and now < known.expires and not known.stale else None

    def left(self, edition: Edition, now: float) -> float:
        """Seconds for which a fresh one stays so."""
        state = self._states.get(edition.file.key)
        if state is None:
            return edition.expires - now
        end, ttl = state.until, self._cache.limits.ttl
        for record, _ in state.watched:
            end = min(end, record.checked + ttl)
        return end - now

    def hit(self, file: File, now: float) -> None:
        """Somebody looked it up and was content with what `fresh` said."""
        state = self._states.get(file.key)
        if state is None:
            return
        for record, _ in state.watched:
            self._cache.hit(record, now)

    def touch(self, file: File) -> None:
        """Somebody opens it: its secrets are hot."""
        for source in file.recipe.sources:
            self._cache.touch(source.name)

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
        parts = (
            (await self._sources.get(sources[0], uid),) if len(sources) == 1 else await self._all_parts(file)
        )
        edition = self._edition(file, parts)
        if not self._needs_making(edition):
            return self._found(edition)
        values = {}
        for part in parts:
            values[part.source] = await self._cache.value(part.name, part.version)
        return self._make(edition, values)

    def peek(self, file: File) -> Edition | None:
        """What is known and may be served while nobody answers. Never waits, and makes nothing hot."""
        return self._without_asking(file, self._sources.known)

    def last(self, file: File) -> Edition | None:
        """As `peek`, of what was last heard of, whether it may be served or not."""
        return self._without_asking(file, self._sources.last)

    def _without_asking(self, file: File, find: Callable[[Source], Part | None]) -> Edition | None:
        parts = tuple(part for source in file.recipe.sources if (part := find(source)) is not None)
        if not parts or len(parts) != len(file.recipe.sources):
            return None
        edition = self._edition(file, parts)
        if not self._needs_making(edition):
            return self._found(edition)
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
        """What stands for a file after `get` raised Refused, for as long as that is remembered: it has no bytes."""
        now = trio.current_time()
        expires = max(self._cache.refused(source.name).expires for source in file.recipe.sources)
        return Edition(file, UNREADABLE, (), None, None, now, max(now, expires), stale=False)

    def listed(self, file: File, properties: Properties) -> str:
        """The edition that a listing of a secret's versions shows, of a file that is one version."""
        source = file.recipe.sources[0]
        assert source.version is not None
        return _id(
            file.recipe,
            [(source, source.version, makers.decoding(file.recipe, properties, default=self._decode))],
        )

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
        parts = self._parts_of(file, edition)
        if parts is None:
            await self.get(file)
            parts = self._parts_of(file, edition)
        if file.recipe.plain and (parts is None or parts[0].version == edition):
            return await self._cache.value(file.recipe.sources[0].name, Version(edition))
        if parts is None:
            raise CannotMake("its secrets have other versions now")
        values = {part.source: await self._cache.value(part.name, part.version) for part in parts}
        made = makers.make(file.recipe, parts, values, default=self._decode)
        self._keep_made(self._edition(file, parts), made)
        return made

    def peek_value(self, file: File, edition: str) -> SecretValue | None:
        """As `value`, and None where that would wait."""
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

    def kept(self, held: Mapping[int, tuple[File, str]]) -> dict[int, SecretValue | None]:
        """Bytes that a predecessor had open, by handle; None where they are in memory no more.

        The configuration may have been read anew: where a file is no more, or is made of another secret, its name
        does not lead to the bytes, but the edition does, which is no other's.
        """
        found = {handle: self.peek_value(file, edition) for handle, (file, edition) in held.items()}
        lost = [handle for handle, value in found.items() if value is None]
        names = {stored.version: stored.name for stored in self._cache.store} if lost else {}
        for handle in lost:
            edition = Version(held[handle][1])
            if edition in names:
                found[handle] = self._cache.store.get(names[edition], edition)
        return found

    def secrets(self, held: Iterable[tuple[File, str]]) -> set[tuple[SecretName, Version]]:
        """The versions of secrets that held editions are made of."""
        found: set[tuple[SecretName, Version]] = set()
        for file, edition in held:
            parts = None if file.recipe.plain and not self._decode else self._parts_of(file, edition)
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
        parts = self._parts_of(file, edition)
        if parts is not None:
            return {str(part.name): part.version for part in parts}
        known = edition if file.recipe.plain and edition != UNREADABLE else ""
        return {str(source.name): source.version or known for source in file.recipe.sources}

    def sweep(self, held: Iterable[tuple[File, str]]) -> None:
        """Let go of bytes that no file shows, and that nobody holds."""
        kept = {(file.key, edition) for file, edition in held}

        def needed(key: str, edition: str) -> bool:
            state = self._states.get(key)
            if (key, edition) in kept or state is None:
                return True
            return edition == state.edition.id or (state.good is not None and edition == state.good.id)

        self._made.sweep(needed)

    def state(self, file: File) -> Edition | None:
        """What was last found of a file, however old that is."""
        state = self._states.get(file.key)
        return None if state is None else state.edition

    def forget(self) -> None:
        """Drop what is known of versions; bytes that were made stay true of their edition."""
        self._states = {key: replace_until(state) for key, state in self._states.items()}
        self._sources.forget()

    async def _all_parts(self, file: File) -> tuple[Part, ...]:
        found: dict[int, Part] = {}
        failures: list[Exception] = []

        async def one(place: int) -> None:
            try:
                found[place] = await self._sources.get(file.recipe.sources[place])
            except (NotFound, Refused, Unavailable, trio.TooSlowError) as exc:
                failures.append(exc)

        async with trio.open_nursery() as nursery:
            for place in range(len(file.recipe.sources)):
                nursery.start_soon(one, place)
        for kind in _WORST:
            for failure in failures:
                if isinstance(failure, kind):
                    raise failure from None
        return tuple(found[place] for place in range(len(file.recipe.sources)))

    def _edition(self, file: File, parts: tuple[Part, ...]) -> Edition:
        created = [part.properties.created for part in parts if part.properties.created is not None]
        updated = [part.properties.updated for part in parts if part.properties.updated is not None]
        return Edition(
            file=file,
            id=self._id(file, parts),
            parts=parts,
            created=max(created, default=None),
            updated=max(updated, default=None),
            checked=min(part.checked for part in parts),
            expires=min(part.expires for part in parts),
            stale=any(part.stale for part in parts),
        )

    def _id(self, file: File, parts: tuple[Part, ...]) -> str:
        recipe = file.recipe
        return _id(
            recipe,
            [
                (part.source, part.version, makers.decoding(recipe, part.properties, default=self._decode))
                for part in parts
            ],
        )

    def _needs_making(self, edition: Edition) -> bool:
        if edition.file.recipe.plain and edition.id == edition.parts[0].version:
            return False
        return self.peek_value(edition.file, edition.id) is None

    def _make(self, edition: Edition, values: dict[Source, SecretValue]) -> Edition:
        file = edition.file
        try:
            made = makers.make(file.recipe, edition.parts, values, default=self._decode)
        except CannotMake as exc:
            return self._last_good(edition, exc)
        self._keep_made(edition, made)
        return self._found(edition)

    def _keep_made(self, edition: Edition, made: SecretValue) -> None:
        file = edition.file
        facts = Properties(created=edition.created, updated=edition.updated)
        self._made.put(file.key, edition.id, made, _way(file.recipe), facts)
        if file.recipe.salted:
            self._salted[file.key] = (edition.id, made)

    def _last_good(self, wanted: Edition, exc: CannotMake) -> Edition:
        file, now = wanted.file, trio.current_time()
        since = self.broken.begin(file.path, wanted.id, exc.hint, now)
        state = self._states.get(file.key)
        good = self._left_good(wanted) if state is None or state.good is None else state.good
        if (
            good is None
            or now - since >= self._cache.limits.max_stale
            or self.peek_value(file, good.id) is None
        ):
            raise exc
        shown = replace(good, stale=True, checked=wanted.checked, expires=wanted.expires)
        self._keep(wanted, shown, good)
        return shown

    def _left_good(self, wanted: Edition) -> Edition | None:
        """The last edition that a predecessor made by the same recipe; of which versions is not known any more."""
        found = self._made.newest(wanted.file.key, _way(wanted.file.recipe))
        if found is None:
            return None
        known, facts = found
        return replace(wanted, id=known, parts=(), created=facts.created, updated=facts.updated, stale=True)

    def _found(self, edition: Edition) -> Edition:
        self.broken.end(edition.file.path)
        self._keep(edition, edition, edition)
        return edition

    def _keep(self, wanted: Edition, shown: Edition, good: Edition | None) -> None:
        watched, until = [], float("inf")
        for part in wanted.parts:
            record = self._cache.records.get(part.name.key)
            if part.source.version is not None or part.source.previous:
                until = min(until, part.expires)
            if part.source.version is None and record is not None and record.version is not None:
                assert record.properties is not None
                watched.append((record, record.properties))
        self._states[wanted.file.key] = _State(shown, tuple(watched), until, good)

    def _parts_of(self, file: File, edition: str) -> tuple[Part, ...] | None:
        state = self._states.get(file.key)
        if state is None:
            return None
        for known in (state.edition, state.good):
            if known is not None and known.id == edition:
                return known.parts or None
        return None


def _id(recipe: Recipe, parts: list[tuple[Source, Version, Decoding]]) -> str:
    if recipe.plain and parts[0][2] is Decoding.RAW:
        return parts[0][1]
    pieces = [
        recipe.identity,
        *(f"{source.identity} {version} {how.value}" for source, version, how in parts),
    ]
    return hashlib.blake2b("\0".join(pieces).encode(), digest_size=16).hexdigest()


def _way(recipe: Recipe) -> str:
    """The same for all editions that a recipe makes of its secrets."""
    pieces = [recipe.identity, *(source.identity for source in recipe.sources)]
    return hashlib.blake2b("\0".join(pieces).encode(), digest_size=8).hexdigest()


def decoded_id(file: File, version: str, decoding: int) -> str:
    """The edition of what the first layout of the inode table knew as a version and a number for its decoding."""
    if not decoding or not file.recipe.sources:
        return version
    return _id(file.recipe, [(file.recipe.sources[0], Version(version), tuple(Decoding)[decoding])])


def replace_until(state: _State) -> _State:
    """The same, no longer trusted."""
    return _State(state.edition, state.watched, float("-inf"), state.good)
