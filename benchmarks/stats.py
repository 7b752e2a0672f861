"""Medians, spread and ratios of what was measured; pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def quantile(samples: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the samples lie, interpolated.

    Raises:
        ValueError: without samples, or for a share outside of 0 to 1.
    """
    if not samples or not 0 <= share <= 1:
        raise ValueError("a quantile needs samples and a share of 0 to 1")
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = math.ceil(place)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(samples: Sequence[float]) -> float:
    """The middle one."""
    return quantile(samples, 0.5)


def spread(samples: Sequence[float]) -> tuple[float, float]:
    """The quartiles: half of the samples lie between them."""
    return quantile(samples, 0.25), quantile(samples, 0.75)


def ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times of `theirs` is `mine`, at the median of the rounds.

    Round by round where both have as many rounds, since a neighbour who takes the machine's time takes it from all
    the competitors of that round; else of the medians.
    """
    if len(mine) == len(theirs):
        return median([one / other for one, other in zip(mine, theirs, strict=True)])
    return median(mine) / median(theirs)
