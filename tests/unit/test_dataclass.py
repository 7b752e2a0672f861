"""`keyvaultfs.dataclass` makes what the standard library's decorator makes, without what that costs at each start."""

from __future__ import annotations

import ast
import copy
import dataclasses
import pickle
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast

import pytest

from keyvaultfs.dataclass import asdict, dataclass, field, fields, replace
from keyvaultfs.ipc import Charge, Launch

SOURCE = Path(__file__).parents[2] / "src/keyvaultfs"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Point(Generic[T]):
    """Frozen, with every kind of field."""

    kind: ClassVar[str] = "point"
    x: int
    tags: dict[str, T] = field(default_factory=dict, compare=False)
    hidden: str = field(default="h", repr=False)
    total: int = field(init=False)
    _private: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", self.x + self._private)


@dataclass(slots=True, kw_only=True)
class Box:
    """Not frozen, by keyword."""

    inner: Point[int]
    many: list[int] = field(default_factory=list)


@dataclass(slots=True, eq=False, repr=False)
class Bare:
    """Compared by identity."""

    a: int = 1


def test_instances_are_made_with_defaults_and_by_position_or_keyword() -> None:
    point = Point[int](1, {"a": 2}, _private=5)
    assert (point.x, point.tags, point.hidden, point.total, point._private) == (1, {"a": 2}, "h", 6, 5)
    assert Point[int](2).tags == {}
    assert Point[int](2).tags is not Point[int](2).tags, "each has its own"
    assert Point.kind == "point"
    for wrong in ({}, {"x": 1, "y": 2}, {"x": 1, "total": 3}):
        with pytest.raises(TypeError):
            Point[int](**wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Box(Point[int](1))  # type: ignore[call-arg]
    assert Box(inner=Point[int](1)).many == []


def test_it_is_shown_and_compared_by_its_fields() -> None:
    assert repr(Point[int](1)) == "Point(x=1, tags={}, total=4, _private=3)"
    assert Point(1, {"a": 1}) == Point(1, {"b": 2})
    assert hash(Point(1, {"a": 1})) == hash(Point(1, {"b": 2}))
    assert Point[int](1) != Point[int](2)
    assert Point[int](1) != cast("Any", "a point")
    assert Box(inner=Point(1)) == Box(inner=Point(1))
    with pytest.raises(TypeError):
        hash(Box(inner=Point(1)))
    assert Bare() != Bare()
    assert hash(Bare())
    assert repr(Bare()).startswith("<")


def test_a_frozen_one_stays_as_it_is_and_none_has_other_attributes() -> None:
    point = Point[int](1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del point.x
    box = Box(inner=point)
    box.many = [1]
    with pytest.raises(AttributeError):
        box.other = 1  # type: ignore[attr-defined]
    assert weakref.ref(point)() is point


def test_it_is_copied_pickled_and_replaced() -> None:
    point, box = Point(1, {"a": 1}), Box(inner=Point(1), many=[1])
    for one in (point, box):
        assert copy.copy(one) == copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one
    assert replace(point, x=5) == dataclasses.replace(point, x=5) == Point(5, {"a": 1})
    assert replace(point, x=5).total == 8


def test_the_standard_library_takes_it_for_one_of_its_own() -> None:
    point = Point(1, {"a": 1})
    assert dataclasses.is_dataclass(point)
    assert dataclasses.asdict(Box(inner=point)) == asdict(Box(inner=point))
    assert [one.name for one in dataclasses.fields(point)] == [one.name for one in fields(point)]
    assert dataclasses.fields(Point)[2].default == "h"


def test_a_default_that_instances_would_share_is_refused() -> None:
    kind: Any = type("Shared", (), {"__annotations__": {"a": "list"}, "a": []})
    with pytest.raises(ValueError, match="share"):
        dataclass(slots=True)(kind)


def test_one_that_is_handed_on_is_read_again() -> None:
    charge = Charge(Launch("v", "/mnt", options={"a": "b"}, generic=("x",)), init="00", descriptors=(7, 8))
    read = Charge.unpack(charge.pack())
    assert replace(read, descriptors=tuple(read.descriptors)) == charge


def test_no_module_of_ours_makes_classes_by_the_standard_library() -> None:
    for path in SOURCE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom):
                assert node.module != "dataclasses", path


@pytest.mark.parametrize(("module", "without"), [("keeper.__main__", {"dataclasses", "inspect"})])
def test_what_starts_often_imports_little(module: str, without: set[str]) -> None:
    code = f"import sys; sys.path.insert(0, {str(SOURCE.parent)!r}); import keyvaultfs.{module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], check=True, capture_output=True, text=True
    )
    assert not without & set(done.stdout.split())
