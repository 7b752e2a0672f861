"""What a template may consist of, and which secrets it names: a walk over its syntax tree, before anything is rendered.

It is Jinja2 less what could reach beyond the template (imports, attributes of objects, calls of anything but our own
functions) and less what has no bound that can be seen (macros, recursive loops). Names of secrets are literals, so that
the walk finds each of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from keyvaultfs.content.certificate import PARTS
from keyvaultfs.content.field import parse
from keyvaultfs.model import NAME_PATTERN

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from jinja2 import nodes

FUNCTIONS = {
    "secret": "secret('NAME') or secret('NAME', 'FIELD')",
    "part": "part('NAME', 'PART')",
    "version": "version('NAME')",
}
"""How each function is written."""

_NODES = frozenset(
    "Template Output TemplateData For If Assign AssignBlock FilterBlock With"  # noqa: SIM905 - a list would have 38 lines
    " Const Name Tuple List Dict Pair Keyword CondExpr Filter Test Call Getitem Getattr Slice Concat Compare Operand"
    " Mul Div FloorDiv Add Sub Mod Pow And Or Not Neg Pos".split()
)
_DEPTH, _LOOPS = 40, 10
_LOOP = frozenset(
    {"index", "index0", "revindex", "revindex0", "first", "last", "length", "previtem", "nextitem"}
)


class Mistake(ValueError):
    """A template cannot be used. The text is about the template, which holds no secret.

    Args:
        line: where, from 1 on.
        text: a sentence.
    """

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


class Use(NamedTuple):
    """A call of one of our functions in a template.

    Args:
        function: "secret", "part" or "version".
        secret: the name, as it is written.
        detail: the field, or the part; "" for none.
    """

    function: str
    secret: str
    detail: str = ""


def uses(tree: nodes.Template, filters: Collection[str], tests: Collection[str]) -> tuple[Use, ...]:
    """Check a template.

    Args:
        tree: its syntax tree.
        filters: the names of those that it may use.
        tests: likewise.

    Returns:
        Each call of one of our functions once, in the order of the text.

    Raises:
        Mistake: the first thing that is not allowed.
    """
    check = _Check(filters, tests)
    for node in _walk(tree, 0, 0):
        check.node(node)
    check.end()
    return tuple(check.found)


class _Check:
    """What a walk has seen so far."""

    def __init__(self, filters: Collection[str], tests: Collection[str]) -> None:
        self.found: dict[Use, None] = {}
        self._filters = filters
        self._tests = tests
        self._called: set[int] = set()
        self._read: list[nodes.Name] = []
        self._written: set[str] = set()

    def node(self, node: Any) -> None:
        """One node, before those that are in it."""
        rule = getattr(self, f"_{type(node).__name__.lower()}", None)
        if rule is not None:
            rule(node)

    def end(self) -> None:
        """All were seen: what is read must be written somewhere."""
        for name in self._read:
            if name.name not in self._written:
                raise Mistake(
                    name.lineno, f"{name.name!r} is not defined; a secret is written secret('NAME')"
                )

    def _call(self, node: nodes.Call) -> None:
        self._called.add(id(node.node))
        if (use := _used(node)) is not None:
            self.found[use] = None

    def _name(self, node: nodes.Name) -> None:
        is_called = id(node) in self._called
        if node.name.startswith("_") or node.name == "self":
            raise Mistake(node.lineno, "a name in a template cannot be self, or begin with _")
        if node.name in (*FUNCTIONS, "range") and not is_called:
            form = FUNCTIONS.get(node.name, "range(N)")
            raise Mistake(node.lineno, f"{node.name} is a function of templates: {form}")
        if node.ctx != "load":
            self._written.add(node.name)
        elif not is_called:
            self._read.append(node)

    def _filter(self, node: Any) -> None:
        if node.name not in self._filters:
            raise Mistake(node.lineno, f"a template has no filter {node.name!r}")

    def _test(self, node: Any) -> None:
        if node.name not in self._tests:
            raise Mistake(node.lineno, f"a template has no test {node.name!r}")

    def _getattr(self, node: nodes.Getattr) -> None:
        if getattr(node.node, "name", None) != "loop" or node.attr not in _LOOP:
            raise Mistake(node.lineno, "a template cannot use attributes, but for loop.index and its kin")

    def _for(self, node: nodes.For) -> None:
        self._written.add("loop")
        if node.recursive:
            raise Mistake(node.lineno, "a template cannot use recursive loops")


def _walk(node: Any, depth: int, loops: int) -> Iterator[Any]:
    """All nodes, each before what is in it; Python has its own bounds for the code that is made of them."""
    kind = type(node).__name__
    if kind not in _NODES:
        raise Mistake(node.lineno or 1, f"a template cannot use {_spoken(kind)}")
    loops += kind == "For"
    if depth > _DEPTH or loops > _LOOPS:
        raise Mistake(node.lineno or 1, "the template is nested too deeply")
    yield node
    for child in node.iter_child_nodes():
        yield from _walk(child, depth + 1, loops)


def _spoken(kind: str) -> str:
    named = {"FromImport": "import", "CallBlock": "call", "NSRef": "namespaces", "Scope": "autoescape"}
    return named.get(kind, kind.lower())


def _used(node: nodes.Call) -> Use | None:
    """The use that a call is; None for ``range``."""
    name = getattr(node.node, "name", None)
    if name == "range":
        return None
    if name not in FUNCTIONS:
        raise Mistake(node.lineno, f"a template can call {', '.join(FUNCTIONS)} and range, and nothing else")
    arguments = [getattr(argument, "value", None) for argument in node.args]
    most = 1 if name == "version" else 2
    least = 2 if name == "part" else 1
    wrong = node.kwargs or node.dyn_args is not None or node.dyn_kwargs is not None
    if (
        wrong
        or not least <= len(arguments) <= most
        or not all(isinstance(argument, str) for argument in arguments)
    ):
        raise Mistake(node.lineno, f"{name} is written with its words in quotation marks: {FUNCTIONS[name]}")
    return _use(node.lineno, name, *(str(argument) for argument in arguments))


def _use(line: int, function: str, secret: str, detail: str = "") -> Use:
    if NAME_PATTERN.fullmatch(secret) is None:
        raise Mistake(line, f"{secret!r} is no secret's name: 1 to 127 letters, digits and -")
    if function == "part" and (detail not in PARTS or detail == "pfx"):
        raise Mistake(line, f"a part in a template is one of {', '.join(PARTS[:-1])}")
    if function == "secret" and detail:
        try:
            parse(detail)
        except ValueError as exc:
            raise Mistake(line, f"{detail!r}: {exc}") from None
    return Use(function, secret, detail)
