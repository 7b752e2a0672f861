"""The filters of templates: those of Jinja2 that have a bound and no chance in them, and those of `quoting`.

Two renderings of the same secrets are the same, so there is no ``random``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2.utils import pass_context

from keyvaultfs.content import quoting
from keyvaultfs.content.purse import STEP, Purse
from keyvaultfs.errors import CannotMake

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jinja2 import runtime

_NAMES = (  # noqa: SIM905 - a list would have 46 lines
    "abs capitalize center count d default dictsort e escape filesizeformat first float forceescape format indent int"
    " items join last length list lower map max min reject rejectattr replace reverse round safe select selectattr sort"
    " string sum title tojson trim truncate unique upper urlencode wordcount"
).split()
_WIDE = re.compile(r"[0-9]{4}|\*")


def table(plain: jinja2.Environment) -> dict[str, Callable[..., Any]]:
    """All filters of templates by name: Jinja2's, and those that quote.

    Args:
        plain: runs Jinja2's own filters, of which some look attributes up: so it is a sandbox too.
    """
    own = {name: _quoting(function) for name, function in quoting.FILTERS.items()}
    return {name: _paid(name, plain) for name in _NAMES} | own


def _paid(name: str, plain: jinja2.Environment) -> Callable[..., Any]:
    """One of Jinja2's filters, which pays for what it takes and what it gives."""

    @pass_context
    def run(context: runtime.Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        purse: Purse = context["_purse"]
        purse.pay(STEP)
        if not isinstance(value, str | int | float | range | jinja2.Undefined):
            value = value if isinstance(value, dict | list | tuple) or value is None else list(value)
        for one in (value, *args, *kwargs.values()):
            if not isinstance(one, jinja2.Undefined):
                purse.pay_for(one)
        if name in _COSTS:
            purse.pay(_COSTS[name](value, *args, **kwargs))
        result = plain.call_filter(name, value, args, kwargs, context=context)
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
        context["_purse"].pay(STEP + len(text))
        quoted = function(text)
        context["_purse"].pay(len(quoted))
        return quoted

    return run
