"""Counters and gauges -> OpenMetrics text (https://prometheus.io/docs/specs/om/open_metrics_spec/), for ``metrics``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING

from keyvaultfs.metrics import GAUGE_FIELDS, GAUGES, HELP, PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyvaultfs.metrics import Metrics

Gauges = Mapping[str, "float | Mapping[tuple[str, str], float]"]
"""By family: a number, or numbers by (label, value of the label)."""

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_TYPES = {"build": "info", "workers_started": "counter"}
_SUFFIXES = {"counter": "_total", "info": "_info", "gauge": ""}


def render(metrics: Metrics, gauges: Gauges) -> str:
    """The whole text; a family without a sample is left out."""
    lines: list[str] = []
    for name, kind, samples in (*_counters(metrics), *_gauges(gauges)):
        full = f"{PREFIX}_{name}"
        lines += [f"# HELP {full} {HELP.get(name) or GAUGES.get(name, '')}", f"# TYPE {full} {kind}"]
        lines += [f"{full}{_SUFFIXES[kind]}{label} {_number(value)}" for label, value in samples.items()]
    return "\n".join([*lines, "# EOF", ""])


def _counters(metrics: Metrics) -> Iterator[tuple[str, str, dict[str, float]]]:
    for part in fields(metrics):
        counters = getattr(metrics, part.name)
        for counter in fields(counters):
            value = getattr(counters, counter.name)
            name = f"{part.name}_{counter.name}"
            kind = "gauge" if name in GAUGE_FIELDS else "counter"
            if not isinstance(value, dict):
                yield name, kind, {"": value}
            elif value:
                yield name, kind, {_label("kind", key): number for key, number in sorted(value.items())}


def _gauges(gauges: Gauges) -> Iterator[tuple[str, str, dict[str, float]]]:
    for name, value in gauges.items():
        kind = _TYPES.get(name, "gauge")
        if not isinstance(value, Mapping):
            yield name, kind, {"": value}
        elif value:
            yield name, kind, {_label(*label): number for label, number in value.items()}


def _label(name: str, value: str) -> str:
    return f'{{{name}="{value.translate(_ESCAPES)}"}}'


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.3f}"
