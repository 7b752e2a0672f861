"""Writes dashboard.json, for Grafana (Dashboards, Import). Committed, so that nobody needs this to use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MOUNT = 'mountpoint=~"$mountpoint"'
SOURCE = {"type": "prometheus", "uid": "${source}"}

Panel = tuple[str, str, str, list[tuple[str, str]], str]
STATS: list[Panel] = [
    ("Mounts that do not answer", "stat", "short", [(f"count(keyvaultfs_up{{{MOUNT}}} == 0) or vector(0)", "")],
     "0 is right."),
    ("Values past ttl, unchecked", "stat", "short", [(f"sum(keyvaultfs_stale_values{{{MOUNT}}})", "")],
     "Served because nobody answers."),
    ("Files that cannot be made", "stat", "short", [(f"sum(keyvaultfs_files_broken{{{MOUNT}}})", "")],
     "Of the newest versions of their secrets."),
    ("Least time left of a token", "stat", "s", [(f"min(keyvaultfs_token_left_seconds{{{MOUNT}}})", "")],
     "0: there is none."),
]  # fmt: skip
CURVES: list[Panel] = [
    ("Next secrets to end", "table", "s",
     [(f"sort(keyvaultfs_secret_expires_timestamp_seconds{{{MOUNT}}} - time())", "{{name}}")], "Time until expiry."),
    ("Seconds since the vault answered", "timeseries", "s",
     [(f"keyvaultfs_vault_last_answer_age_seconds{{{MOUNT}}}", "{{instance}} {{mountpoint}}")],
     "A saw tooth as high as ttl where nobody reads; a slope is an outage."),
    ("Requests to the vault", "timeseries", "reqps",
     [(f"sum by (kind) (rate(keyvaultfs_transport_requests_total{{{MOUNT}}}[5m]))", "{{kind}}")],
     "By status, or by what went wrong."),
    ("Look-ups", "timeseries", "ops",
     [(f"sum(rate(keyvaultfs_cache_hits_total{{{MOUNT}}}[5m]))", "served at once"),
      (f"sum(rate(keyvaultfs_cache_misses_total{{{MOUNT}}}[5m]))", "had to ask the vault")], ""),
    ("Errors that programs saw", "timeseries", "ops",
     [(f"sum by (kind) (rate(keyvaultfs_filesystem_errors_total{{{MOUNT}}}[5m]))", "{{kind}}")], "By errno."),
    ("Rotations and workers", "timeseries", "short",
     [(f"sum(increase(keyvaultfs_cache_rotations_total{{{MOUNT}}}[5m]))", "rotations"),
      (f"sum(increase(keyvaultfs_workers_started_total{{{MOUNT}}}[5m]))", "workers started")], "In five minutes."),
]  # fmt: skip


def panel(number: int, one: Panel, place: dict[str, int]) -> dict[str, Any]:
    """One panel, as Grafana's schema 38 has it."""
    title, kind, unit, queries, words = one
    targets = [
        {"datasource": SOURCE, "expr": expr, "legendFormat": legend, "refId": "ABCDEF"[at]}
        | ({"format": "table", "instant": True} if kind == "table" else {})
        for at, (expr, legend) in enumerate(queries)
    ]
    return {
        "id": number, "title": title, "type": kind, "description": words, "datasource": SOURCE, "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0 if kind != "table" else None}, "overrides": []},
        "targets": targets,
    }  # fmt: skip


def dashboard() -> dict[str, Any]:
    """The whole of it."""
    panels = [panel(1 + at, one, {"h": 4, "w": 6, "x": 6 * at, "y": 0}) for at, one in enumerate(STATS)]
    panels += [
        panel(10 + at, one, {"h": 8, "w": 12, "x": 12 * (at % 2), "y": 4 + 8 * (at // 2)})
        for at, one in enumerate(CURVES)
    ]
    source = {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"}
    mountpoint = {
        "name": "mountpoint", "label": "Mount", "type": "query", "datasource": SOURCE, "multi": True,
        "includeAll": True, "query": "label_values(keyvaultfs_up, mountpoint)", "refresh": 2,
        "current": {"text": "All", "value": "$__all"},
    }  # fmt: skip
    return {
        "title": "keyvaultfs", "uid": "keyvaultfs", "schemaVersion": 38, "version": 1, "tags": ["keyvaultfs"],
        "time": {"from": "now-24h", "to": "now"}, "refresh": "1m", "editable": True,
        "templating": {"list": [source, mountpoint]}, "panels": panels,
    }  # fmt: skip


if __name__ == "__main__":
    text = json.dumps(dashboard(), indent=2) + "\n"
    Path(__file__).with_name("dashboard.json").write_text(text, encoding="ascii")
