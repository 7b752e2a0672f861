"""Paths -> files and directories. A named file is there without a question to the vault: its secret may be missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from keyvaultfs.files import names
from keyvaultfs.files.recipes import Formatted, OneSecret, Source
from keyvaultfs.files.rules import AS_MOUNTED, Access, Rule, access
from keyvaultfs.model import SecretName, version

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from keyvaultfs.files.names import Starred
    from keyvaultfs.files.recipes import Recipe

_REMEMBERED, _TRIED = 1 << 14, 1 << 10
_VERSIONS = f"{names.RESERVED}/versions/"
_LONGEST_NAME = 127
"""Of a secret."""
NOTHING = Formatted("", ())
"""The recipe of a file that is no more."""


@dataclass(frozen=True, slots=True)
class File:
    """A path: what its bytes are made of, and who has access.

    There is one for each name of a listing, and most are never opened: what can be told of a path is not kept, and a
    recipe that does nothing is made when it is first asked for.

    Attributes:
        path: relative to the mount point, as a listing spells it.
        key: the same for each spelling that opens it; no other file's.
        recipe: what its bytes are made of; if there is none yet, its secret's current version as it is.
        secret: that secret, of a file that the configuration does not name.
        named: whether the configuration names it. If not, somebody asked for its secret by name, which may be made up.
    """

    path: str
    key: str
    recipe: Recipe = field(compare=False, init=False, repr=False)
    access: Access = field(compare=False, default=AS_MOUNTED)
    secret: SecretName | None = field(compare=False, default=None)
    named: bool = field(compare=False, default=False)

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            """Called for an attribute that has no value: a property would cost each warm open some time."""
            if name != "recipe" or self.secret is None:
                raise AttributeError(name)
            recipe = OneSecret(Source(self.secret))
            object.__setattr__(self, "recipe", recipe)
            return recipe

    @classmethod
    def of(cls, path: str, recipe: Recipe, access: Access = AS_MOUNTED, *, named: bool = False) -> File:
        """A file with this recipe, which is spelled in one way alone."""
        made = cls(path, path, access, named=named)
        object.__setattr__(made, "recipe", recipe)
        return made

    @property
    def raw(self) -> bytes:
        """Its name in its directory, as the kernel has it."""
        return self.path.rpartition("/")[2].encode()

    @property
    def stored(self) -> str:
        """The path by which a successor finds it: of one version ``NAME/VERSION``."""
        sources = self.recipe.sources if self.path.startswith(_VERSIONS) else ()
        return f"{sources[0].name}/{sources[0].version}" if sources else self.path


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory; the root's path is "".

    Attributes:
        children: names in it that the file names, and what they are.
        maps: the maps whose files are in it.
        flat: whether the vault's own names are in it.
    """

    path: str
    access: Access = field(compare=False, default=AS_MOUNTED)
    children: dict[str, File | Directory] = field(compare=False, default_factory=dict)
    maps: list[Map] = field(compare=False, default_factory=list)
    flat: bool = False

    @property
    def key(self) -> str:
        """A key that no file and no secret has."""
        return self.path + "/"

    @property
    def raw(self) -> bytes:
        """Its name in the directory that it is in, as the kernel has it."""
        return self.path.rpartition("/")[2].encode()

    @property
    def spelling(self) -> str:
        """The path by which a successor finds it."""
        return self.path + "/"

    @property
    def lists(self) -> bool:
        """Whether its listing needs the vault's."""
        return self.flat or bool(self.maps)


class Map(NamedTuple):
    """A file for each secret with a matching name; the star stands for the same text in both names."""

    secrets: Starred
    files: Starred

    @property
    def folder(self) -> str:
        """The directory that its files are in."""
        return self.files.text.rpartition("/")[0]


class Tree:
    """All files and directories of a mount.

    Args:
        named: files by path, each with its own keys of access.
        flat: whether the root shows the vault's own names.
        written: whether a configuration file describes it: after a reload the file may describe another one.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, Recipe, Access]] = (),
        maps: Iterable[Map] = (),
        rules: Iterable[Rule] = (),
        *,
        flat: bool = True,
        written: bool = False,
    ) -> None:
        self._rules = tuple(rules)
        self.root = Directory("", flat=flat)
        self.directories: dict[str, Directory] = {"": self.root}
        self.named: dict[str, File] = {}
        self._made: dict[str, File] = {}
        self._tried: dict[str, File] = {}
        self._hidden: dict[str, set[str]] = {}
        for path, recipe, own in named:
            file = File.of(path, recipe, access(self._rules, path, own), named=True)
            self.named[path] = file
            self._directory(path.rpartition("/")[0]).children[path.rpartition("/")[2]] = file
        for one in maps:
            self._directory(one.folder).maps.append(one)
        for directory in self.directories.values():
            self._hidden[directory.path] = {name.lower() for name in directory.children}
        self.written = written
        parts = [part for path in (*self.named, *self.directories) for part in path.split("/")]
        self.longest_name = max([_LONGEST_NAME, *(len(part.encode()) for part in parts)])
        """Bytes."""

    def recipes(self) -> Iterator[Recipe]:
        """Those of the named files."""
        return (file.recipe for file in self.named.values())

    def child(
        self, directory: Directory, name: str, listed: SecretName | None = None
    ) -> File | Directory | None:
        """What a name in a directory is; whether its secret exists is another matter.

        Args:
            listed: the secret, as a listing has just named it: a file that is made of it shares its texts.
        """
        found = directory.children.get(name)
        if found is not None or not directory.lists:
            return found
        key = f"{directory.path}/{name.lower()}" if directory.path else name.lower()
        made = self._made.get(key)
        if made is not None:
            return made
        made = self._tried.pop(key, None)
        if made is not None:
            return self._try(made)
        if name.lower() in self._hidden[directory.path]:
            return None
        secret = self._secret(directory, name)
        if secret is None:
            return None
        return self._try(
            self._make(directory, name, key, listed if listed is not None and listed == secret else secret)
        )

    def shown(self, directory: Directory, secret: SecretName) -> Iterator[File]:
        """The files in a directory that a line of the vault's listing stands for."""
        candidates = [secret.spelling] if directory.flat else []
        for one in directory.maps:
            star = one.secrets.star(secret.spelling)
            if star is not None:
                candidates.append(one.files.filled(star).rpartition("/")[2])
        for name in dict.fromkeys(candidates):
            found = self.child(directory, name, secret)
            if isinstance(found, File) and self._tried.pop(found.key, None) is not None:
                self._keep(found)
            if isinstance(found, File) and found.secret == secret:
                if found.raw != name.encode():  # it was looked up in another spelling than the vault's
                    found = self._keep(self._make(directory, name, found.key, secret))
                yield found

    def file(self, path: str) -> File:
        """The file of a path that was there once; made of nothing where there is none any more."""
        found = self.find(path)
        return found if isinstance(found, File) else File.of(path, NOTHING)

    def directory(self, path: str) -> Directory:
        """The directory of a path that was there once; an empty one where there is none any more."""
        return self.directories.get(path) or Directory(path)

    def find(self, path: str) -> File | Directory | None:
        """What a path is; "" is the root."""
        found: File | Directory | None = self.root
        for part in path.split("/") if path else ():
            if not isinstance(found, Directory):
                return None
            found = self.child(found, part)
        return found

    def _secret(self, directory: Directory, name: str) -> SecretName | None:
        try:
            for one in directory.maps:
                star = names.Starred(one.files.text.rpartition("/")[2]).star(name)
                if star is not None:
                    return SecretName(one.secrets.filled(star))
            return SecretName(name) if directory.flat else None
        except ValueError:
            return None

    def _make(self, directory: Directory, name: str, key: str, secret: SecretName) -> File:
        path = f"{directory.path}/{name}" if directory.path else name
        key = secret.key if key == secret.key else key  # one text for both
        return File(path, key, access(self._rules, path, folded=True), secret)

    def _try(self, file: File) -> File:
        """One that somebody asked for by name, which may be made up: kept until so many others were asked for."""
        if len(self._tried) >= _TRIED:
            del self._tried[next(iter(self._tried))]
        self._tried[file.key] = file
        return file

    def _keep(self, file: File) -> File:
        """One that a listing shows."""
        if len(self._made) >= _REMEMBERED:
            self._made.clear()
        self._made[file.key] = file
        return file

    def _directory(self, path: str) -> Directory:
        if path in self.directories:
            return self.directories[path]
        outer, _, name = path.rpartition("/")
        made = Directory(path, access(self._rules, path))
        self.directories[path] = made
        self._directory(outer).children[name] = made
        return made


def of_version(text: str) -> File:
    """The file of one version of a secret, of ``NAME/VERSION``.

    Raises:
        ValueError: it is not that.
    """
    name, _, which = text.partition("/")
    secret = SecretName(name)
    path = f"{_VERSIONS}{secret.key}/{which}"
    return File.of(path, OneSecret(Source(secret, version(which))))
