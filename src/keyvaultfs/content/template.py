"""A file written as a Jinja2 template: checked when the configuration is read, rendered when a secret has changed.

A template reaches the secrets that it names, as literals, and nothing else: `language` says what it may consist of, and
`sandbox` bounds what it may cost. Needs Jinja2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from keyvaultfs.content import certificate, field, libraries
from keyvaultfs.content.formats import text_of
from keyvaultfs.content.language import Mistake, Use
from keyvaultfs.model import SecretValue

if TYPE_CHECKING:
    from collections.abc import Mapping

    import jinja2
    from jinja2 import nodes


MAX_TEXT = 256 << 10  # characters of a template
MAX_FILE = 1 << 20  # bytes of what it makes


class Source(NamedTuple):
    """One version of a secret, as a template sees it; its value is decoded already."""

    value: SecretValue
    version: str


class Template:
    """A template that can be rendered any number of times, in one thread.

    `uses` has each call of ``secret``, ``part`` and ``version`` once, in the order of the text.

    Args:
        text: of it.

    Raises:
        Mistake: it is no template, or does what it may not.
        libraries.MissingLibrary: Jinja2 is not installed.
    """

    _tree: nodes.Template | None
    _compiled: jinja2.Template | None

    def __init__(self, text: str) -> None:
        libraries.need("a template", "jinja2")
        from keyvaultfs.content import sandbox

        if len(text) > MAX_TEXT:
            raise Mistake(1, f"a template has at most {MAX_TEXT >> 10} KiB")
        tree, self.uses = sandbox.parsed(text)
        self._text, self._tree, self._compiled = text, tree, None

    @property
    def secrets(self) -> tuple[str, ...]:
        """The names of the secrets that it is made of, as they are written, each once."""
        return tuple(dict.fromkeys(use.secret for use in self.uses))

    def render(self, sources: Mapping[str, Source]) -> SecretValue:
        """The file.

        Args:
            sources: for each of `secrets`.

        Raises:
            CannotMake: a value is not what the template takes it for, or the file would be too large or take too long.
        """
        from keyvaultfs.content import sandbox

        answers = {use: answer(use, sources[use.secret]) for use in self.uses}
        if self._tree is not None:  # not before: a worker that takes over has no time for what nobody reads
            self._compiled, self._tree = sandbox.compiled(self._text, self._tree), None
        assert self._compiled is not None
        return SecretValue(sandbox.rendered(self._compiled, answers, len(self._text), MAX_FILE))


def answer(use: Use, source: Source) -> str:
    """What a call in a template gives.

    Raises:
        CannotMake: the secret has no such text.
    """
    if use.function == "version":
        return source.version
    if use.function == "part":
        return text_of(certificate.part(source.value, use.detail))
    value = field.field(source.value, field.parse(use.detail)) if use.detail else source.value
    return text_of(value)


__all__ = ["MAX_FILE", "MAX_TEXT", "Mistake", "Source", "Template", "Use", "answer"]
