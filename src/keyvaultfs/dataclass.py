"""`dataclasses.dataclass` for what is imported at each start: with slots, and made on first use.

The standard library writes and compiles half a dozen methods for each class when it is defined, and imports `inspect`
for it: for the worker's eighty classes a third of the time that pyfuse3 and trio take, while readers wait for it. Here
only ``__init__`` is compiled, when the first instance is made. To type checkers, and to `dataclasses.fields`, `replace`
and `asdict`, it is a dataclass like any other. Standard library only, and as little of it as can be.
"""

from __future__ import annotations

import operator

TYPE_CHECKING = False  # as in `typing`, which a keeper does without
if TYPE_CHECKING:
    from collections.abc import Mapping
    from dataclasses import asdict, dataclass, field, fields, replace
    from typing import Any

    __all__ = ["asdict", "dataclass", "field", "fields", "replace"]
else:
    _MISSING = object()
    _NO_METADATA: Mapping[str, Any] = {}

    class Field:
        """One field of a class, as `field` describes it."""

        __slots__ = (
            "compare",
            "default",
            "default_factory",
            "init",
            "kw_only",
            "metadata",
            "name",
            "repr",
            "type",
        )

    def field(
        *,
        default=_MISSING,
        default_factory=_MISSING,
        init=True,
        repr=True,  # noqa: A002 - as in `dataclasses`
        compare=True,
        metadata=_NO_METADATA,
    ):
        """As `dataclasses.field`."""
        one = Field()
        one.default, one.default_factory, one.metadata = default, default_factory, metadata
        one.init, one.repr, one.compare = init, repr, compare
        return one

    def dataclass(*, slots, frozen=False, eq=True, repr=True, kw_only=False, weakref_slot=False):  # noqa: A002
        """As `dataclasses.dataclass`; always with slots, so that each class says what it may have."""
        assert slots

        def make(cls):
            own = _own_fields(cls, kw_only)
            return _slotted(cls, own, frozen=frozen, eq=eq, shown=repr, weakref=weakref_slot)

        return make

    def _own_fields(cls, kw_only: bool):
        found = {}
        for name, kind in cls.__annotations__.items():  # of this class alone, whatever its bases have
            if kind.startswith(("ClassVar", "typing.ClassVar")):
                continue
            given = cls.__dict__.get(name, _MISSING)
            one = given if isinstance(given, Field) else field(default=given)
            if one.default is not _MISSING and one.default.__class__.__hash__ is None:
                raise ValueError(f"{cls.__name__}.{name}: instances would share this default")
            one.name, one.type, one.kw_only = name, kind, kw_only
            found[name] = one
        return found

    def _slotted(cls, own, *, frozen: bool, eq: bool, shown: bool, weakref: bool):
        inherited = {}
        for base in cls.__mro__[:0:-1]:
            inherited |= base.__dict__.get("__light_fields__", {})
        whole = inherited | own
        space = {name: value for name, value in cls.__dict__.items() if name not in own}
        space.pop("__dict__", None)
        space.pop("__weakref__", None)
        space["__slots__"] = tuple(name for name in own if name not in inherited)
        space["__slots__"] += ("__weakref__",) if weakref else ()
        space["__light_fields__"] = whole
        space["__dataclass_fields__"] = _ForDataclasses()
        space["__match_args__"] = tuple(one.name for one in whole.values() if one.init and not one.kw_only)
        made = type(cls)(cls.__name__, cls.__bases__, space)
        made.__qualname__ = cls.__qualname__
        made.__init__ = _first_init(made, whole, frozen)
        if shown and "__repr__" not in space:
            made.__repr__ = _repr(tuple(one.name for one in whole.values() if one.repr))
        if eq:
            _compare(made, [one.name for one in whole.values() if one.compare], frozen)
        if frozen:
            made.__setattr__, made.__delattr__ = _refuse_to_set, _refuse_to_delete
            made.__getstate__, made.__setstate__ = _state(tuple(whole))
        return made

    def _first_init(cls, whole, frozen: bool):
        def __init__(self, *args, **kwargs):  # noqa: N807
            init = cls.__init__ = _init(cls, whole.values(), frozen)
            init(self, *args, **kwargs)

        return __init__

    def _init(cls, whole, frozen: bool):
        """Write and compile ``__init__``."""
        known = {"_set": object.__setattr__, "_made": object()}
        plain, keywords, body = ["self"], [], []
        for one in whole:
            name, value = one.name, one.name
            if one.default is not _MISSING:
                known[f"_default_{name}"] = one.default
                given = f"{name}=_default_{name}"
            elif one.default_factory is not _MISSING:
                known[f"_make_{name}"] = one.default_factory
                given = f"{name}=_made"
                value = f"_make_{name}() if {name} is _made else {name}" if one.init else f"_make_{name}()"
            else:
                given = name
            if one.init:
                (keywords if one.kw_only else plain).append(given)
            elif given == name:
                continue  # what __post_init__ sets
            elif value == name:
                value = f"_default_{name}"
            body.append(f"_set(self, {name!r}, {value})" if frozen else f"self.{name} = {value}")
        if hasattr(cls, "__post_init__"):
            body.append("self.__post_init__()")
        arguments = ", ".join([*plain, "*", *keywords] if keywords else plain)
        lines = "\n    ".join(body or ["pass"])
        exec(f"def __init__({arguments}):\n    {lines}", known)  # noqa: S102 - of names in our source
        init = known["__init__"]
        init.__qualname__ = f"{cls.__qualname__}.__init__"
        return init

    def _repr(names):
        def __repr__(self):  # noqa: N807
            return f"{self.__class__.__qualname__}({', '.join(f'{n}={getattr(self, n)!r}' for n in names)})"

        return __repr__

    def _compare(cls, names, frozen: bool):
        what = operator.attrgetter(*names) if names else lambda _: ()

        def __eq__(self, other):  # noqa: N807
            if other.__class__ is self.__class__:
                return what(self) == what(other)
            return NotImplemented

        def __hash__(self):  # noqa: N807
            return hash(what(self))

        if "__eq__" not in cls.__dict__:
            cls.__eq__ = __eq__
        if frozen and cls.__dict__.get("__hash__") is None:
            cls.__hash__ = __hash__
        elif not frozen and "__hash__" not in cls.__dict__:
            cls.__hash__ = None

    def _state(names):
        def __getstate__(self):  # noqa: N807
            return [getattr(self, name) for name in names]

        def __setstate__(self, state):  # noqa: N807
            for name, value in zip(names, state, strict=True):
                object.__setattr__(self, name, value)

        return __getstate__, __setstate__

    def _refuse_to_set(one, name, _):
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot assign to field {name!r} of {one.__class__.__name__}")

    def _refuse_to_delete(one, name):
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot delete field {name!r} of {one.__class__.__name__}")

    class _ForDataclasses:
        """What `dataclasses.fields` and the like look at, made when they do."""

        def __get__(self, _, cls):
            import dataclasses

            rows = []
            for one in cls.__light_fields__.values():
                facts = {"init": one.init, "repr": one.repr, "compare": one.compare, "kw_only": one.kw_only}
                for name in ("default", "default_factory"):
                    if getattr(one, name) is not _MISSING:
                        facts[name] = getattr(one, name)
                rows.append((one.name, one.type, dataclasses.field(metadata=one.metadata, **facts)))
            twin = dataclasses.make_dataclass(cls.__name__, rows)
            cls.__dataclass_fields__ = twin.__dataclass_fields__
            return cls.__dataclass_fields__

    def fields(of):
        """As `dataclasses.fields`."""
        return tuple(of.__light_fields__.values())

    def replace(one, **changes):
        """As `dataclasses.replace`."""
        for known in one.__light_fields__.values():
            if known.init and known.name not in changes:
                changes[known.name] = getattr(one, known.name)
        return one.__class__(**changes)

    def asdict(one):
        """As `dataclasses.asdict`, but that lists and the like are not copied."""
        return {
            name: asdict(value) if hasattr(value := getattr(one, name), "__light_fields__") else value
            for name in one.__light_fields__
        }
