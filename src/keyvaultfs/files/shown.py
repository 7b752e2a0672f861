"""Which secrets of the vault a mount shows at all: options ``include``, ``exclude`` and ``tags``."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keyvaultfs.model import SecretName


@dataclass(frozen=True, slots=True)
class Shown:
    """What is left out is not there, whatever its name is reached by.

    Attributes:
        include: patterns of names; none for all.
        exclude: patterns of names, which weigh more.
        tags: keys and values that a secret's current version must have, all of them.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()

    def by_name(self, name: SecretName) -> bool:
        """Whether nothing speaks against a name."""
        return matches(self.include, self.exclude, name)

    def by_tags(self, tags: Mapping[str, str]) -> bool:
        """Whether nothing speaks against a version with these tags."""
        return all(tags.get(key) == value for key, value in self.tags)


def matches(include: tuple[str, ...], exclude: tuple[str, ...], name: SecretName) -> bool:
    """Whether an include glob matches a name (none given: any), and no exclude glob; without regard to case."""

    def any_of(patterns: tuple[str, ...]) -> bool:
        return any(fnmatch.fnmatchcase(name.key, pattern.lower()) for pattern in patterns)

    return (not include or any_of(include)) and not any_of(exclude)


def globs(include: tuple[str, ...], exclude: tuple[str, ...] = ()) -> Callable[[SecretName], bool]:
    """The same as a function of the name."""
    return partial(matches, include, exclude)
