"""How much memory a name takes, of which a vault may have tens of thousands; and that large tables are given back."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tracemalloc
from typing import TYPE_CHECKING, Any

import pyfuse3
import pytest

from keyvaultfs.keyvault import wire
from tests.support.fake_vault import FakeVault
from tests.support.handlers import OTHERS, handlers

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAMES = 2600

_HEAP = """
from keyvaultfs.worker import allocator

def heap():
    with open("/proc/self/maps") as maps:
        ends = [line.split()[0].split("-") for line in maps if "[heap]" in line]
    return sum(int(end, 16) - int(begin, 16) for begin, end in ends)

allocator.settle()
bytearray(1 << 20)  # after its end glibc would serve all that is smaller from the heap
before = heap()
tables = [bytearray(1 << 19) for _ in range(32)]
print(heap() - before)
"""


@pytest.fixture
def traced() -> Iterator[None]:
    gc.collect()
    tracemalloc.start()
    yield
    tracemalloc.stop()


def held() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def listed(operations: Any, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What ``ls -f`` of the root shows."""
    names: list[bytes] = []
    last = 0

    def add(_token: object, name: bytes, _attributes: object, cookie: int) -> bool:
        nonlocal last
        names.append(name)
        last = cookie
        return True

    monkeypatch.setattr(pyfuse3, "readdir_reply", add)
    fh = await operations.opendir(pyfuse3.ROOT_INODE, OTHERS)
    before = -1
    while len(names) != before:
        before = len(names)
        await operations.readdir(fh, last, None)
    await operations.releasedir(fh)
    return names


@pytest.mark.usefixtures("traced", "autojump_clock")
async def test_a_listed_name_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside what the vault's listing says of it. It was 1,028 bytes: of texts and unused recipes."""
    vault = FakeVault()
    for number in range(_NAMES):
        vault.put(f"name-of-a-secret-{number}", "v")
    async with handlers(vault=vault) as (_, operations):
        before = held()
        assert len(await listed(operations, monkeypatch)) == _NAMES
        each = (held() - before) / _NAMES
    assert each < 800, each


def test_names_that_were_made_at_once_share_what_is_shown_of_them() -> None:
    made = {"created": 1_700_000_000, "updated": 1_700_000_000}
    rows = [
        {"id": f"https://v/secrets/{name}", "attributes": times}
        for name, times in (("a", made), ("b", made), ("c", made | {"updated": 1_700_000_001}), ("d", made))
    ]
    items, _ = wire.items(json.dumps({"value": rows}).encode())
    assert items[0].properties is items[1].properties
    assert [item.properties.updated for item in items] == [made["updated"]] * 2 + [1_700_000_001] + [
        made["updated"]
    ]


def test_memory_of_a_large_table_is_given_back() -> None:
    grown = subprocess.run([sys.executable, "-c", _HEAP], check=True, capture_output=True, timeout=60).stdout
    assert int(grown) < 1 << 20
