"""Medians, spread and ratios of what was measured; pure."""

from __future__ import annotations

from statistics import median, quantiles
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def spread(samples: Sequence[float]) -> tuple[float, float]:
    """The quartiles: half of the samples lie between them."""
    if len(samples) == 1:  # statistics takes one only from Python 3.13 on
        return samples[0], samples[0]
    low, _, high = quantiles(samples, n=4, method="inclusive")
    return low, high


def ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times of `theirs` is `mine`, at the median of the rounds.

    Round by round where both have as many rounds, since a neighbour who takes the machine's time takes it from all
    the competitors of that round; else of the medians.
    """
    if len(mine) == len(theirs):
        return median([one / other for one, other in zip(mine, theirs, strict=True)])
    return median(mine) / median(theirs)
