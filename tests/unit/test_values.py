"""Values in a memfd: whole or not there whenever the process is killed, and zeros when they are let go."""

from __future__ import annotations

import os
from collections import OrderedDict
from types import MappingProxyType
from typing import Any
from weakref import ref

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from keyvaultfs.cache import values
from keyvaultfs.cache.values import ValueStore
from keyvaultfs.model import Properties, SecretName, SecretValue, Version

Model = dict[tuple[str, str], tuple[bytes, Properties, bool, float]]

PROPERTIES = st.builds(
    Properties,
    enabled=st.booleans(),
    created=st.none() | st.integers(0, 1 << 40),
    updated=st.none() | st.integers(0, 1 << 40),
    content_type=st.none() | st.text(max_size=20),
    tags=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3).map(MappingProxyType),
    managed=st.booleans(),
)
NAMES = st.sampled_from(["a", "B", "c-c"]).map(SecretName)
VERSIONS = st.sampled_from("12").map(lambda digit: Version(digit * 32))


def content(store: ValueStore) -> Model:
    """All that is in it; the order of use stays what it is."""
    found: Model = {}
    for one in store:
        raw = store._map[one.value_start : one.value_start + one.value_length]
        found[one.name.key, one.version] = (bytes(raw), one.properties, one.racy, one.checked)
    return found


def memory(store: ValueStore) -> bytes:
    return os.pread(store.fileno(), os.fstat(store.fileno()).st_size, 0)


def reopened(image: bytes) -> ValueStore:
    """What a successor makes of a memfd with these bytes; close its descriptor."""
    fd = os.memfd_create("test")
    os.truncate(fd, len(image))
    first = image.rstrip(b"\0")
    os.pwrite(fd, first, 0)
    return ValueStore(fd)


class Watched:
    """The store's map; after each write, and in the middle of it, a picture of the memory is taken."""

    def __init__(self, store: ValueStore) -> None:
        self._inner = store._map
        self._store = store
        self.pictures: list[bytes] = []
        free = store._free

        def freeing(start: int, length: int) -> None:
            self.take()
            free(start, length)
            self.take()

        store._map = self  # type: ignore[assignment]
        store._free = freeing  # type: ignore[method-assign]

    def take(self) -> None:
        self.pictures.append(memory(self._store))

    def __len__(self) -> int:
        return len(self._inner)

    def __getitem__(self, place: Any) -> Any:
        return self._inner[place]

    def __setitem__(self, place: slice, data: bytes) -> None:
        if len(data) > 8:  # shorter ones are one store of the machine's
            half = place.start + len(data) // 2
            self._inner[place.start : half] = data[: half - place.start]
            self.take()
        self._inner[place] = data
        self.take()

    def resize(self, size: int) -> None:
        self._inner.resize(size)
        self.take()


class Life(RuleBasedStateMachine):
    """A store through random operations; at every moment of each, a kill would leave what was or what will be."""

    def __init__(self) -> None:
        super().__init__()
        self._worth = values._WORTH_COMPACTING
        values._WORTH_COMPACTING = 1500
        self.store = ValueStore()
        self.watched = Watched(self.store)
        self.model: Model = {}
        self.number = 0
        self.canaries: dict[bytes, tuple[str, str]] = {}

    def teardown(self) -> None:
        values._WORTH_COMPACTING = self._worth
        os.close(self.store.fileno())

    @rule(
        name=NAMES,
        version=VERSIONS,
        properties=PROPERTIES,
        size=st.integers(0, 900),
        racy=st.booleans(),
        checked=st.floats(allow_nan=False),
    )
    def put(
        self,
        *,
        name: SecretName,
        version: Version,
        properties: Properties,
        size: int,
        racy: bool,
        checked: float,
    ) -> None:
        self.number += 1
        canary = b"<canary %d>" % self.number
        key = (name.key, str(version))
        before = dict(self.model)
        value = canary + b"x" * size
        self.canaries[canary] = key
        self.model[key] = (value, properties, racy, checked)
        self.store.put(name, version, SecretValue(value), properties, racy=racy, checked=checked)
        without = {other: row for other, row in before.items() if other != key}
        self.killed(before, without, self.model)

    @rule(name=NAMES, version=VERSIONS)
    def get(self, name: SecretName, version: Version) -> None:
        found = self.store.get(name, version)
        row = self.model.get((name.key, version))
        assert (None if found is None else found.reveal()) == (None if row is None else row[0])
        assert self.store.has(name, version) is (row is not None)

    @rule(name=NAMES, version=VERSIONS, checked=st.floats(allow_nan=False))
    def check(self, name: SecretName, version: Version, checked: float) -> None:
        before = dict(self.model)
        row = self.model.get((name.key, version))
        if row is not None:
            self.model[name.key, version] = (*row[:3], checked)
        self.store.check(name, version, checked)
        self.killed(before, self.model)

    @rule(name=NAMES, version=VERSIONS)
    def drop(self, name: SecretName, version: Version) -> None:
        before = dict(self.model)
        self.model.pop((name.key, version), None)
        self.store.drop(name, version)
        self.killed(before, self.model)

    @rule()
    def clear(self) -> None:
        assert self.store.clear() == len(self.model)
        self.model = {}

    @rule()
    def compact(self) -> None:
        self.store._compact(0)
        self.killed(self.model)

    @rule()
    def take_over(self) -> None:
        fd = os.dup(self.store.fileno())
        os.close(self.store.fileno())
        self.store = ValueStore(fd)
        self.watched = Watched(self.store)

    @invariant()
    def it_is_what_was_put(self) -> None:
        assert content(self.store) == self.model
        assert len(self.store) == len(self.model)
        assert self.store.live == sum(len(row[0]) for row in self.model.values())

    @invariant()
    def what_was_let_go_is_nowhere_in_memory(self) -> None:
        self.nothing_else_in(self.store, self.model)
        self.watched.pictures.clear()

    def killed(self, *allowed: Model) -> None:
        """A successor that starts from any moment of the last operation has one of these, and wipes the rest."""
        pictures = self.watched.pictures
        for image in pictures if len(pictures) < 8 else pictures[:: len(pictures) // 8]:
            successor = reopened(image)
            found = content(successor)
            assert found in allowed
            self.nothing_else_in(successor, found)
            os.close(successor.fileno())

    def nothing_else_in(self, store: ValueStore, model: Model) -> None:
        image = memory(store)
        for canary, key in self.canaries.items():
            living = key in model and model[key][0].startswith(canary)
            assert image.count(canary) == living


TestLife = pytest.mark.slow(Life.TestCase)
TestLife.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_a_record_that_was_torn_leaves_everything_before_it() -> None:
    store = ValueStore()
    for number in range(5):
        name = SecretName(f"s{number}")
        value = SecretValue(b"value %d" % number)
        store.put(name, Version("0" * 32), value, Properties(), racy=False, checked=float(number))
    rows = sorted(store, key=lambda one: one.start)
    for torn in range(rows[3].start + values._RECORD.size, rows[3].start + rows[3].length - 8):
        image = bytearray(memory(store))
        image[torn] ^= 0xFF
        successor = reopened(bytes(image))
        names = {key for key, _ in content(successor)}
        assert {"s0", "s1", "s2"} <= names
        assert "s3" not in names
        assert memory(successor).count(b"value 3") == 0
        os.close(successor.fileno())


@pytest.mark.parametrize("size", [0, 1, 4096, 1 << 20])
def test_a_memfd_of_any_content_is_a_store_or_becomes_one(size: int) -> None:
    fd = os.memfd_create("test")
    os.write(fd, os.urandom(size))
    store = ValueStore(fd)
    store.put(SecretName("a"), Version("1" * 32), SecretValue(b"x"), Properties(), racy=True, checked=0.0)
    assert [one.name.key for one in ValueStore(os.dup(fd))] == ["a"]


def test_the_longest_unused_go_first_and_no_more_than_needed() -> None:
    store = ValueStore(limit=1000)
    model: OrderedDict[str, int] = OrderedDict()
    sizes = [300, 400, 200, 50, 700, 10, 10, 999, 1, 500, 500, 1]
    for number, size in enumerate(sizes):
        name = SecretName(f"s{number}")
        version = Version("0" * 32)
        while model and sum(model.values()) + size > 1000:
            model.popitem(last=False)
        model[name.key] = size
        store.put(name, version, SecretValue(b"x" * size), Properties(), racy=False, checked=0.0)
        used = next(iter(model))
        assert store.get(SecretName(used), version) is not None
        model.move_to_end(used)
        assert {one.name.key for one in store} == set(model)
        assert store.live == sum(model.values()) <= 1000
    assert store.evicted == len(sizes) - len(model)


def test_memory_that_is_not_used_any_more_is_given_back() -> None:
    store = ValueStore(limit=1 << 20)
    for number in range(3000):
        name = SecretName(f"s{number}")
        store.put(name, Version("0" * 32), SecretValue(b"x" * 4000), Properties(), racy=False, checked=0.0)
    held = os.fstat(store.fileno()).st_blocks * 512
    assert held < 5 << 20, "a store of 1 MiB through which 12 MB went"
    store.clear()
    assert os.fstat(store.fileno()).st_blocks * 512 < 64 << 10


def test_values_are_no_file_of_the_machines() -> None:
    store = ValueStore()
    assert os.readlink(f"/proc/self/fd/{store.fileno()}").startswith("/memfd:")
    assert os.get_inheritable(store.fileno()) is False


def test_all_who_have_a_version_open_share_one_copy_of_it() -> None:
    """10,000 opens of 25 kB were once 250 MB."""
    store, name = ValueStore(None, 1 << 20), SecretName("a")
    one, other = Version("1" * 32), Version("2" * 32)
    for version, raw in ((one, b"x" * 25_000), (other, b"y")):
        store.put(name, version, SecretValue(raw), Properties(), racy=False, checked=0.0)
    opened = [store.get(name, one) for _ in range(100)]
    assert len({id(value) for value in opened}) == 1
    store.drop(name, one)  # it leaves the cache, and not who has it open
    store.put(name, one, SecretValue(b"x" * 25_000), Properties(), racy=False, checked=0.0)
    assert store.get(name, one) is opened[0]
    store.put(name, one, SecretValue(b"z"), Properties(), racy=False, checked=0.0)
    changed = store.get(name, one)
    assert changed is not None
    assert changed.reveal() == b"z"
    assert opened[0] is not None
    assert opened[0].reveal() == b"x" * 25_000
    del opened, changed
    assert len(store._given) == 0
    os.close(store.fileno())


def test_the_copy_that_was_given_last_is_given_again_until_its_value_is_dropped() -> None:
    store, name = ValueStore(None, 1 << 20), SecretName("a")
    one, other = Version("1" * 32), Version("2" * 32)
    for version, raw in ((one, b"one"), (other, b"other")):
        store.put(name, version, SecretValue(raw), Properties(), racy=False, checked=0.0)

    def copy(version: Version) -> ref[SecretValue]:
        value = store.get(name, version)
        assert value is not None
        return ref(value)

    first = copy(one)
    assert copy(one) is first
    assert first() is not None
    second = copy(other)
    assert first() is None, "only the last one is kept"
    store.drop(name, other)
    assert second() is None, "and not longer than its value"
    os.close(store.fileno())
