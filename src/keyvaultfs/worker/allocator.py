"""Has the C library give memory back: a long listing needs large tables for a moment, and a worker runs for months."""

from __future__ import annotations

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # mallopt(3)
_LARGE = 128 << 10
"""Bytes. It is what glibc begins with; left alone it grows with the first large table, and what is below stays."""


def settle() -> None:
    """To be called before there are threads, which get no memory of their own: they take turns in Python anyway.

    A C library that has no such knobs is left alone.
    """
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for knob, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _LARGE), (_TRIM_THRESHOLD, _LARGE)):
            mallopt(knob, value)
