"""Which secrets of the vault a mount shows at all: options ``include``, ``exclude`` and ``tags``."""

from __future__ import annotations

import fnmatch
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keyvaultfs.model import SecretName


class Shown(NamedTuple):
    """A secret that is left out does not exist for this mount, by whatever path somebody asks for it.

    Attributes:
        include: patterns of names; none for all.
        exclude: patterns of names; they win over `include`.
        tags: keys and values that a secret's current version must have, all of them.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()

    def by_name(self, name: SecretName) -> bool:
        """Whether the options let a secret of this name be shown."""
        return matches(self.include, self.exclude, name)

    def by_tags(self, tags: Mapping[str, str]) -> bool:
        """Whether the options let a secret with these tags be shown."""
        return all(tags.get(key) == value for key, value in self.tags)


def matches(include: tuple[str, ...], exclude: tuple[str, ...], name: SecretName) -> bool:
    """Whether an include glob matches a name (none given: any), and no exclude glob; without regard to case."""

    def any_of(patterns: tuple[str, ...]) -> bool:
        return any(fnmatch.fnmatchcase(name.key, pattern.lower()) for pattern in patterns)

    return (not include or any_of(include)) and not any_of(exclude)


def globs(include: tuple[str, ...], exclude: tuple[str, ...] = ()) -> Callable[[SecretName], bool]:
    """The same as a function of the name."""
    return partial(matches, include, exclude)
