"""Plain counters, one dataclass for each part. Rendered in `filesystem.control`."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field


@dataclass(slots=True)
class TransportMetrics:
    """HTTP attempts of the whole mount."""

    requests: Counter[str] = field(default_factory=Counter)
    """by outcome: ``200``, ``404``, ``timeout``, ``connection``, …"""
    in_flight: int = 0
    in_flight_max: int = 0
    stuck_threads: int = 0
    throttled: int = 0


@dataclass(slots=True)
class IdentityMetrics:
    """Token requests."""

    requests: int = 0
    failures: int = 0


@dataclass(slots=True)
class CacheMetrics:
    """What the cache was asked, and what it asked."""

    hits: int = 0
    misses: int = 0
    stale_served: int = 0
    gets: int = 0
    version_gets: int = 0
    list_pages: int = 0
    rotations: int = 0
    evictions: int = 0


@dataclass(slots=True)
class FilesystemMetrics:
    """Requests of the kernel, by name."""

    requests: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    errors: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """by errno name"""
    notifications: Counter[str] = field(default_factory=Counter)
    """by outcome: ``sent``, ``unknown`` (the kernel had no such entry), ``failed``"""


@dataclass(slots=True)
class Metrics:
    """All counters of a worker."""

    transport: TransportMetrics = field(default_factory=TransportMetrics)
    identity: IdentityMetrics = field(default_factory=IdentityMetrics)
    cache: CacheMetrics = field(default_factory=CacheMetrics)
    filesystem: FilesystemMetrics = field(default_factory=FilesystemMetrics)
