"""Jinja2 for templates: what `language` allows, with a bound on what it may cost.

Nothing that runs in Python can be interrupted from outside, so a template pays as it goes: for each turn of a loop, for
each filter, and for what it makes. Two renderings of the same secrets are the same, so there is no ``random``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2 import meta, nodes, runtime, sandbox, visitor
from jinja2.utils import pass_context

from keyvaultfs.content import language, quoting
from keyvaultfs.content.language import Mistake, Use
from keyvaultfs.errors import CannotMake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_TURNS = 10_000  # of all loops together, and the longest range
_PURSE = 32 << 20  # characters that a rendering may make and look at, all steps together
_STEP = 256  # what a filter or a turn costs besides
_ITEM = 16  # what a list, a number and the like cost
_BITS = 4_096  # of a number
_FILE = "<template>"
_FILTERS = (  # noqa: SIM905 - a list would have 46 lines
    "abs capitalize center count d default dictsort e escape filesizeformat first float forceescape format indent int"
    " items join last length list lower map max min reject rejectattr replace reverse round safe select selectattr sort"
    " string sum title tojson trim truncate unique upper urlencode wordcount"
).split()
_WIDE = re.compile(r"[0-9]{4}|\*")


class Purse:
    """What a rendering has left to spend.

    Args:
        toll: what a turn of a loop costs besides, since it may write the whole template.
    """

    def __init__(self, toll: int) -> None:
        self._left = _PURSE
        self._turns = _TURNS
        self._toll = toll + _STEP

    def pay(self, cost: int) -> None:
        """Spend.

        Raises:
            CannotMake: there is not so much left.
        """
        self._left -= cost
        if self._left < 0:
            raise CannotMake("the template makes too much")

    def turn(self) -> None:
        """Pay for a turn of a loop; raises as `pay` does."""
        self._turns -= 1
        if self._turns < 0:
            raise CannotMake(f"the loops of the template have more than {_TURNS} turns")
        self.pay(self._toll)

    def pay_for(self, value: object) -> None:
        """Pay for a value and all that is in it, however often; raises as `pay` does."""
        if isinstance(value, str):
            self.pay(len(value))
        elif isinstance(value, dict):
            for pair in value.items():
                self.pay_for(pair)
        elif isinstance(value, jinja2.Undefined):
            str(value)  # which is an error, also in the midst of a list
        elif isinstance(value, list | tuple):
            self.pay(_ITEM)
            for item in value:
                self.pay_for(item)
        else:
            self.pay(_ITEM * len(value) if isinstance(value, range) else _ITEM)


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
    if len(made) > _TURNS:
        raise CannotMake(f"a range in a template has at most {_TURNS} numbers")
    context["_purse"].pay(_STEP)
    return made


# With Jinja2's own filters, of which some look attributes up: so it is a sandbox too.
_PLAIN = Environment(autoescape=False, undefined=jinja2.StrictUndefined)


def _paid(name: str) -> Callable[..., Any]:
    """One of Jinja2's filters, which pays for what it takes and what it gives."""

    @pass_context
    def run(context: runtime.Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        purse: Purse = context["_purse"]
        purse.pay(_STEP)
        if not isinstance(value, str | int | float | range | jinja2.Undefined):
            value = value if isinstance(value, dict | list | tuple) or value is None else list(value)
        for one in (value, *args, *kwargs.values()):
            if not isinstance(one, jinja2.Undefined):
                purse.pay_for(one)
        if name in _COSTS:
            purse.pay(_COSTS[name](value, *args, **kwargs))
        result = _PLAIN.call_filter(name, value, args, kwargs, context=context)
        result = _plain(result)
        if not isinstance(result, jinja2.Undefined):
            purse.pay_for(result)
        return result

    return run


def _plain(result: Any) -> Any:
    """Markup is text to a file; what is made lazily is made now, while it is paid for."""
    if isinstance(result, str):
        return str.__str__(result)
    if isinstance(result, int | float | dict | list | tuple | range | jinja2.Undefined) or result is None:
        return result
    return list(result)


def _cost_of_center(text: Any, width: int = 80) -> int:
    return len(str(text)) + int(width)


def _cost_of_format(text: Any, *args: Any, **kwargs: Any) -> int:
    if _WIDE.search(str(text)):
        raise CannotMake("the template formats with a width that is too large")
    return 1_000 * (len(args) + len(kwargs))


def _cost_of_indent(text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> int:
    del first, blank
    return (str(text).count("\n") + 1) * (len(width) if isinstance(width, str) else int(width))


def _cost_of_join(values: Any, between: Any = "", attribute: Any = None) -> int:
    del attribute
    return len(values) * len(str(between))


def _cost_of_replace(text: Any, old: Any, new: Any, count: int | None = None) -> int:
    del count
    return len(str(text)) + (str(text).count(str(old)) + 1) * len(str(new))


def _cost_of_tojson(value: Any, indent: int | None = None) -> int:
    if indent is not None and not 0 <= int(indent) <= 16:
        raise CannotMake("the template indents JSON too far")
    del value
    return 0


_COSTS: Mapping[str, Callable[..., int]] = {
    "center": _cost_of_center,
    "format": _cost_of_format,
    "indent": _cost_of_indent,
    "join": _cost_of_join,
    "replace": _cost_of_replace,
    "tojson": _cost_of_tojson,
}
"""What those filters make that can make much of little, before they make it."""


def _quoting(function: Callable[[str], str]) -> Callable[..., Any]:
    @pass_context
    def run(context: runtime.Context, value: Any) -> str:
        text = str(value)
        context["_purse"].pay(_STEP + len(text))
        quoted = function(text)
        context["_purse"].pay(len(quoted))
        return quoted

    return run


def _environment(text: str) -> Environment:
    made = Environment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # files are no HTML
        keep_trailing_newline=True,
        newline_sequence="\r\n" if "\r\n" in text and not re.search(r"(?<!\r)\n", text) else "\n",
        optimized=False,
        cache_size=0,
    )
    made.globals.clear()
    made.filters = {"_each": _each, "_made": _made, "_out": _out}
    made.filters |= {name: _paid(name) for name in _FILTERS}
    made.filters |= {name: _quoting(function) for name, function in quoting.FILTERS.items()}
    return made


def compiled(text: str) -> tuple[jinja2.Template, tuple[Use, ...]]:
    """A template that can be rendered, and what it uses.

    Raises:
        Mistake: it is no template, or does what it may not.
    """
    environment = _environment(text)
    names = {*_FILTERS, *quoting.FILTERS}
    try:
        tree = environment.parse(text)
        found = language.uses(tree, names, environment.tests)
        _declared(tree)
        tree = _Paying().visit(tree)
        return environment.from_string(tree), found
    except jinja2.TemplateSyntaxError as exc:
        raise Mistake(exc.lineno, exc.message or "not a template") from None
    except RecursionError:
        raise Mistake(1, "the template is nested too deeply") from None


def _declared(tree: nodes.Template) -> None:
    known = {"secret", "part", "version", "range"}
    missing = meta.find_undeclared_variables(tree) - known
    for node in tree.find_all(nodes.Name):
        if node.name in missing:
            raise Mistake(node.lineno, f"{node.name!r} is not defined; a secret is written secret('NAME')")


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
