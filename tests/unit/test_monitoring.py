"""Alert rules and dashboard, by Prometheus' own tool; and they ask for no metric that there is not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from keyvaultfs.metrics import GAUGE_FIELDS, GAUGES, HELP

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "packaging/monitoring"
COUNTERS = HELP.keys() - GAUGE_FIELDS | {"workers_started"}
METRICS = {f"keyvaultfs_{name}{'_total' * (name in COUNTERS)}" for name in HELP.keys() | GAUGES.keys()}
METRIC = re.compile(r"\bkeyvaultfs_[a-z_]+")


def promtool(*words: str) -> str:
    done = subprocess.run(
        ["promtool", *words], cwd=FOLDER, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_alert_fires_when_it_should() -> None:
    rules = (FOLDER / "alerts.yml").read_text()
    alerts = set(re.findall(r"- alert: (\S+)", rules))
    assert f"{len(alerts)} rules found" in promtool("check", "rules", "alerts.yml")
    assert "SUCCESS" in promtool("test", "rules", "alerts.test.yml")
    fired = re.findall(
        r'alertname="(\w+)", severity="\w+".*value: 1', (FOLDER / "alerts.test.yml").read_text()
    )
    assert set(fired) == alerts


def test_rules_and_dashboard_ask_for_metrics_that_there_are() -> None:
    for name in ("alerts.yml", "dashboard.json"):
        asked = set(METRIC.findall((FOLDER / name).read_text()))
        assert asked
        assert asked <= METRICS


def test_the_dashboard_is_what_the_program_beside_it_writes() -> None:
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    places = [one["gridPos"] for one in dashboard["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    code = "import json, build_dashboard; print(json.dumps(build_dashboard.dashboard()))"
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(made) == dashboard
