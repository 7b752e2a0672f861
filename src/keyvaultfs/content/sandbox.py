"""Jinja2 for templates: what `language` allows, with a bound on what it may cost.

The parts of a template that loop, join, collect and write are wrapped in filters that pay (`purse`).
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2 import nodes, runtime, sandbox, visitor
from jinja2.utils import pass_context

from keyvaultfs.content import filters, language
from keyvaultfs.content.language import Mistake, Use
from keyvaultfs.content.purse import STEP, TURNS, Purse
from keyvaultfs.errors import CannotMake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_BITS = 4_096  # of a number
_FILE = "<template>"


class Environment(sandbox.ImmutableSandboxedEnvironment):
    """Jinja2's own sandbox, made narrower: no attribute but those of a loop, and operators that know their cost."""

    intercepted_binops = frozenset(sandbox.SandboxedEnvironment.default_binop_table)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:  # noqa: ARG002 - Jinja2's
        """Whether a template may see it."""
        return isinstance(obj, runtime.LoopContext) and not attr.startswith("_")

    def getitem(self, obj: Any, argument: Any) -> Any:
        """An item, and never an attribute in place of one that is missing."""
        try:
            return obj[argument]
        except (AttributeError, LookupError, TypeError):
            return self.undefined(obj=obj, name=argument)

    def call_binop(self, context: runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """An operator of arithmetic; ``+`` also joins texts and lists.

        Raises:
            CannotMake: the result would be too large, or is none.
        """
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        joined = operator == "+" and type(left) is type(right) and isinstance(left, str | list | tuple)
        if not numbers and not joined:
            raise CannotMake(f"the template uses {operator} on what are no numbers")
        if numbers and operator in ("*", "**") and _bits(operator, left, right) > _BITS:
            raise CannotMake("the template makes a number that is too large")
        result = self.binop_table[operator](left, right)
        context["_purse"].pay_for(result)
        return result


def _bits(operator: str, left: float, right: float) -> float:
    if isinstance(left, float) or isinstance(right, float):
        return 0  # they overflow by themselves
    return left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()


class _Paying(visitor.NodeTransformer):
    """Puts the filters that pay around what loops, joins, collects and writes."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - Jinja2's
        self.generic_visit(node)
        node.iter = _around(node.iter, "_each")
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [
            one if isinstance(one, nodes.TemplateData) else _around(one, "_out") for one in node.nodes
        ]
        return node

    def _made(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") != "load" else _around(node, "_made")

    visit_Concat = visit_List = visit_Dict = visit_Tuple = _made  # noqa: N815


def _around(node: Any, name: str) -> nodes.Expr:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


@pass_context
def _each(context: runtime.Context, value: Any) -> Iterator[Any]:
    for item in value:
        context["_purse"].turn()
        yield item


@pass_context
def _made(context: runtime.Context, value: Any) -> Any:
    context["_purse"].pay_for(value)
    return value


@pass_context
def _out(context: runtime.Context, value: Any) -> str:
    context["_purse"].pay_for(value)
    return str(value)


@pass_context
def _range(context: runtime.Context, *args: int) -> range:
    made = range(*args)
    if len(made) > TURNS:
        raise CannotMake(f"a range in a template has at most {TURNS} numbers")
    context["_purse"].pay(STEP)
    return made


@functools.cache
def _environment(newline: str) -> Environment:
    options: dict[str, Any] = {"undefined": jinja2.StrictUndefined, "autoescape": False}  # files are no HTML
    made = Environment(
        keep_trailing_newline=True, newline_sequence=newline, optimized=False, cache_size=0, **options
    )
    made.globals.clear()
    made.filters = {"_each": _each, "_made": _made, "_out": _out} | filters.table(Environment(**options))
    return made


def parsed(text: str) -> tuple[nodes.Template, tuple[Use, ...]]:
    """A template's syntax tree, and what it uses.

    Raises:
        Mistake: it is no template, or does what it may not.
    """
    environment = _environment(_newline(text))
    names = {name for name in environment.filters if not name.startswith("_")}
    try:
        tree = environment.parse(text)
        return tree, language.uses(tree, names, environment.tests)
    except jinja2.TemplateSyntaxError as exc:
        raise Mistake(exc.lineno, exc.message or "not a template") from None
    except RecursionError:
        raise Mistake(1, "the template is nested too deeply") from None


def compiled(text: str, tree: nodes.Template) -> jinja2.Template:
    """What can be rendered, of a tree from `parsed`, which is used up."""
    return _environment(_newline(text)).from_string(_Paying().visit(tree))


def _newline(text: str) -> str:
    """Jinja2 writes all line ends alike: as most of the text has them."""
    return "\r\n" if "\r\n" in text and re.search(r"(?<!\r)\n", text) is None else "\n"


def rendered(template: jinja2.Template, answers: Mapping[Use, str], toll: int, most: int) -> bytes:
    """The bytes of the file.

    Args:
        template: from `compiled`.
        answers: to all that it uses.
        toll: what a turn of a loop costs besides.
        most: bytes.

    Raises:
        CannotMake: saying why, without a value.
    """
    purse = Purse(toll)

    def asked(function: str) -> Callable[..., str]:
        return lambda name, detail="": answers[Use(function, name, detail)]

    given = {name: asked(name) for name in ("secret", "part", "version")}
    try:
        return _collected(template.generate(**given, range=_range, _purse=purse), most)
    except CannotMake as exc:
        reason = exc.hint
    except Exception as exc:  # noqa: BLE001 - any of Python's or Jinja2's, whose text may quote a value
        reason = f"the template fails{_where(exc)}: {type(exc).__name__}"
    raise CannotMake(reason)  # outside of the handlers: their exceptions' frames hold values


def _collected(pieces: Iterator[str], most: int) -> bytes:
    found: list[bytes] = []
    size = 0
    for piece in pieces:
        found.append(piece.encode())
        size += len(found[-1])
        if size > most:
            raise CannotMake(f"the file would have more than {most >> 10} KiB")
    return b"".join(found)


def _where(exc: BaseException) -> str:
    """The template's line, which Jinja2 puts into the traceback."""
    line, frame = None, exc.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == _FILE:
            line = frame.tb_lineno
        frame = frame.tb_next
    return "" if line is None else f" in line {line}"
