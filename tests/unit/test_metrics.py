"""The text of ``metrics``: each family is told of, once, with its type."""

from __future__ import annotations

import random
from dataclasses import fields
from types import SimpleNamespace

import trio
from trio.testing import MockClock

from keyvaultfs.filesystem.exposition import render
from keyvaultfs.metrics import GAUGE_FIELDS, GAUGES, HELP, Metrics
from keyvaultfs.transport.throttle import Throttle
from keyvaultfs.worker.gauges import gauges
from tests.support.world import TTL, world


def families(text: str) -> dict[str, str]:
    """Kind by family, checked: HELP, TYPE, then its samples and no other's, and the end."""
    *lines, end, nothing = text.split("\n")
    assert (end, nothing) == ("# EOF", "")
    found: dict[str, str] = {}
    for line in lines:
        if line.startswith("# HELP "):
            name = line.split()[2]
            assert name not in found, f"{name} twice"
            assert len(line.split(maxsplit=3)) == 4, f"nothing is said of {name}"
        elif line.startswith("# TYPE "):
            assert line.split()[2] == name
            found[name] = line.split()[3]
        else:
            suffix = {"counter": "_total", "info": "_info", "gauge": ""}[found[name]]
            assert line.partition(" ")[0].partition("{")[0] == name + suffix
            float(line.rpartition(" ")[2])
    return found


def test_each_counter_says_what_it_means() -> None:
    metrics = Metrics()
    names = {
        f"{part.name}_{field.name}"
        for part in fields(metrics)
        for field in fields(getattr(metrics, part.name))
    }
    assert names == set(HELP)
    assert set(HELP) >= GAUGE_FIELDS


async def test_what_is_known_is_shown_with_its_type(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.vault.put("pw", "x")
        w.vault.patch("pw", expires=1_800_000_000)
        w.vault.put("later", "x")
        chain = SimpleNamespace(
            throttle=Throttle(random.Random(1)), token=SimpleNamespace(left=lambda: 86_000.5)
        )
        metrics = Metrics()

        def text() -> str:
            return render(metrics, gauges(chain, w.cache, version='1"\\0', workers=3, broken=1))  # type: ignore[arg-type]

        before = text()
        assert "last_answer" not in before
        await w.read("pw")
        metrics.filesystem.requests["lookup"] += 2
        w.vault.patch("later", expires=1_700_000_000)
        assert [item async for page in w.cache.listing() for item in page]
        await trio.sleep(7)
        shown = text()
        found = families(shown)
        assert found.keys() - {f"keyvaultfs_{name}" for name in HELP} == {
            f"keyvaultfs_{name}" for name in set(GAUGES) - {"up", "readers_behind"}
        }
        for line in (
            'keyvaultfs_build_info{version="1\\"\\\\0"} 1',
            'keyvaultfs_secret_expires_timestamp_seconds{name="pw"} 1800000000',
            'keyvaultfs_secret_expires_timestamp_seconds{name="later"} 1700000000',
            "keyvaultfs_vault_last_answer_age_seconds 7",
            "keyvaultfs_token_left_seconds 86000.500",
            "keyvaultfs_workers_started_total 3",
            "keyvaultfs_files_broken 1",
            "keyvaultfs_stale_values 0",
            'keyvaultfs_filesystem_requests_total{kind="lookup"} 2',
        ):
            assert line in shown.splitlines()
        w.vault.down = True
        await trio.sleep(2 * TTL)
        assert await w.read("pw") == "x"
        assert "keyvaultfs_outage 1" in text().splitlines()
        assert "keyvaultfs_stale_values 1" in text().splitlines()
