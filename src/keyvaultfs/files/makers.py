"""Recipe and values -> the bytes of a file."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from keyvaultfs.content.decode import Decoding, decode
from keyvaultfs.content.decode import decoding as by_tag
from keyvaultfs.content.ending import newline
from keyvaultfs.content.field import field, parse
from keyvaultfs.errors import CannotMake
from keyvaultfs.files.recipes import Formatted, OneSecret, Rendered
from keyvaultfs.log import LOG
from keyvaultfs.model import SecretValue

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from keyvaultfs.files.recipes import Recipe, Source
    from keyvaultfs.files.sources import Part
    from keyvaultfs.model import Properties

Values = dict["Source", "SecretValue"]


def decoding(recipe: Recipe, properties: Properties, *, default: bool) -> Decoding:
    """How a value of a recipe is decoded: the file says, else the mount does; a certificate is not decoded unasked."""
    if not isinstance(recipe, OneSecret):
        return by_tag(properties.tags, wanted=default)
    if recipe.decode not in {None, "auto"}:
        return Decoding(recipe.decode)
    wanted = recipe.decode == "auto" or (default and recipe.part is None)
    return by_tag(properties.tags, wanted=wanted)


def make(
    recipe: Recipe, parts: tuple[Part, ...], values: Mapping[Source, SecretValue], *, default: bool
) -> SecretValue:
    """The bytes.

    Args:
        parts: of the recipe's sources, in their order.
        default: whether the tag ``file-encoding`` is obeyed where the file does not say.

    Raises:
        CannotMake: the values are not what the recipe is for; the reason quotes none of them.
    """
    decoded = {part.source: _decoded(recipe, part, values[part.source], default=default) for part in parts}
    if isinstance(recipe, OneSecret):
        return _one(recipe, parts[0], decoded)
    if isinstance(recipe, Formatted):
        return _formatted(recipe, decoded)
    return _rendered(recipe, parts, decoded)


def preload(recipes: Iterable[Recipe]) -> None:
    """Import what these recipes need: later the worker may not read the folder in which the libraries are."""
    for recipe in recipes:
        if isinstance(recipe, OneSecret) and recipe.part is None:
            continue
        import keyvaultfs.content.formats
        import keyvaultfs.content.template  # noqa: F401

        if isinstance(recipe, OneSecret) or "part(" in recipe.identity:
            from keyvaultfs.content import certificate

            with suppress(CannotMake):  # cryptography imports parts of itself when it is first used
                certificate.load(SecretValue(b"AA=="))


def _decoded(recipe: Recipe, part: Part, value: SecretValue, *, default: bool) -> SecretValue:
    how = decoding(recipe, part.properties, default=default)
    try:
        return decode(value, how)
    except CannotMake:
        if isinstance(recipe, OneSecret) and recipe.decode not in {None, "auto"}:
            raise
        # `az keyvault secret set --encoding base64 --value` tags values that nobody encoded (PROTOCOL §4).
        LOG.warning("served raw: the tag file-encoding of %s says %s, and it is not", part.name, how.value)
        return value


def _one(recipe: OneSecret, part: Part, values: Values) -> SecretValue:
    made = values[recipe.source]
    if recipe.field is not None:
        made = field(made, parse(recipe.field))
    if recipe.part is not None:
        from keyvaultfs.content import certificate

        password = None if recipe.password is None else values[recipe.password]
        made = certificate.part(made, recipe.part, password=password, alias=part.name.spelling)
    return newline(made) if recipe.newline else made


def _formatted(recipe: Formatted, values: Values) -> SecretValue:
    from keyvaultfs.content import formats

    rows = {
        key: values[one.source] if one.field is None else field(values[one.source], parse(one.field))
        for key, one in recipe.values
    }
    return formats.make(recipe.format, rows)


def _rendered(recipe: Rendered, parts: tuple[Part, ...], values: Values) -> SecretValue:
    from keyvaultfs.content import template

    by_name = {part.name.key: template.Source(values[part.source], part.version) for part in parts}
    return recipe.template.render({name: by_name[name.lower()] for name in recipe.template.secrets})
