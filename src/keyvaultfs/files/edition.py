"""What an edition of a file is, and its id: the same for the same bytes, another for any others."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from keyvaultfs.content.decode import Decoding
from keyvaultfs.files import makers
from keyvaultfs.model import Version

if TYPE_CHECKING:
    from keyvaultfs.files.recipes import Recipe, Source
    from keyvaultfs.files.sources import Part
    from keyvaultfs.files.tree import File
    from keyvaultfs.model import Properties


class Edition(NamedTuple):
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


def of_parts(file: File, parts: tuple[Part, ...], *, decode: bool) -> Edition:
    """The edition that a file has of these versions of its secrets; arguments as of `Editions`."""
    created = [part.properties.created for part in parts if part.properties.created is not None]
    updated = [part.properties.updated for part in parts if part.properties.updated is not None]
    recipe = file.recipe
    return Edition(
        file=file,
        id=_id(
            recipe,
            [
                (part.source, part.version, makers.decoding(recipe, part.properties, default=decode))
                for part in parts
            ],
        ),
        parts=parts,
        created=max(created, default=None),
        updated=max(updated, default=None),
        checked=min(part.checked for part in parts),
        expires=min(part.expires for part in parts),
        stale=any(part.stale for part in parts),
    )


def id_of_version(file: File, properties: Properties, *, decode: bool) -> str:
    """The id of a file that is one version of a secret, which a list of versions shows with these properties."""
    source = file.recipe.sources[0]
    assert source.version is not None
    how = makers.decoding(file.recipe, properties, default=decode)
    return _id(file.recipe, [(source, source.version, how)])


def decoded_id(file: File, version: str, decoding: int) -> str:
    """The id of an edition that the first layout of the inode table had as a version and a number for its decoding."""
    if not decoding or not file.recipe.sources:
        return version
    return _id(file.recipe, [(file.recipe.sources[0], Version(version), tuple(Decoding)[decoding])])


def way(recipe: Recipe) -> str:
    """A name of a recipe and its secrets: the same for all editions that it makes of them."""
    pieces = [recipe.identity, *(source.identity for source in recipe.sources)]
    return hashlib.blake2b("\0".join(pieces).encode(), digest_size=8).hexdigest()


def _id(recipe: Recipe, parts: list[tuple[Source, Version, Decoding]]) -> str:
    if recipe.plain and parts[0][2] is Decoding.RAW:
        return parts[0][1]
    pieces = [
        recipe.identity,
        *(f"{source.identity} {version} {how.value}" for source, version, how in parts),
    ]
    return hashlib.blake2b("\0".join(pieces).encode(), digest_size=16).hexdigest()
