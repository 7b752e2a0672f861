"""Plain counters, one dataclass for each part, and what each family of metrics means. `filesystem.exposition` renders.

A family is named ``keyvaultfs_PART_FIELD``, or stands in `GAUGES`. Counters end in ``_total`` where they are shown.
``keyvaultfs metrics`` adds the label ``mountpoint``, and ``keyvaultfs_up``: whether that mount answered.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class TransportMetrics:
    """HTTP attempts of the whole mount."""

    requests: Counter[str] = field(default_factory=Counter)
    """by outcome: ``200``, ``404``, ``timeout``, ``connection``, …"""
    in_flight: int = 0
    in_flight_max: int = 0
    stuck_threads: int = 0
    throttled: int = 0


@dataclass(slots=True, eq=False)
class IdentityMetrics:
    """Token requests."""

    requests: int = 0
    failures: int = 0


@dataclass(slots=True, eq=False)
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


@dataclass(slots=True, eq=False)
class FilesystemMetrics:
    """Requests of the kernel, by name."""

    requests: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    errors: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """by errno name"""
    notifications: Counter[str] = field(default_factory=Counter)
    """by outcome: ``sent``, ``unknown`` (the kernel had no such entry), ``failed``"""


@dataclass(slots=True, eq=False)
class AuditMetrics:
    """Records of opens."""

    records: int = 0
    lost: int = 0


@dataclass(slots=True, eq=False)
class Metrics:
    """All counters of a worker."""

    transport: TransportMetrics = field(default_factory=TransportMetrics)
    identity: IdentityMetrics = field(default_factory=IdentityMetrics)
    cache: CacheMetrics = field(default_factory=CacheMetrics)
    filesystem: FilesystemMetrics = field(default_factory=FilesystemMetrics)
    audit: AuditMetrics = field(default_factory=AuditMetrics)


PREFIX = "keyvaultfs"

HELP = {
    "transport_requests": "HTTP attempts, by kind: the status, or timeout, connection and the like.",
    "transport_in_flight": "HTTP requests under way now.",
    "transport_in_flight_max": "Most HTTP requests that were under way at once.",
    "transport_stuck_threads": "Threads that wait for a name server beyond their deadline.",
    "transport_throttled": "Answers that told the mount to wait (429, or Retry-After).",
    "identity_requests": "Tokens asked for.",
    "identity_failures": "Tokens that were not given.",
    "cache_hits": "Look-ups served without asking the vault.",
    "cache_misses": "Look-ups that had to ask the vault.",
    "cache_stale_served": "Answers from before ttl, because nobody answered.",
    "cache_gets": "Secrets asked for.",
    "cache_version_gets": "Versions asked for by their id.",
    "cache_list_pages": "Pages of the listing asked for.",
    "cache_rotations": "Secrets found to have changed, gone or come.",
    "cache_evictions": "Values let go because max_cache was full.",
    "filesystem_requests": "Requests of the kernel, by kind.",
    "filesystem_errors": "Requests of the kernel that failed, by errno.",
    "filesystem_notifications": "Rotations told to the kernel, by outcome.",
    "audit_records": "Opens that were recorded (option audit).",
    "audit_lost": "Opens whose record could not be written.",
}
"""What each counter means, and each of the few in `GAUGE_FIELDS`."""

GAUGE_FIELDS = {"transport_in_flight", "transport_in_flight_max", "transport_stuck_threads"}

GAUGES = {
    "up": "Whether the mount answered (by keyvaultfs metrics).",
    "build": "The version that serves, as a label.",
    "outage": "Whether nobody answers: the vault, or the identity endpoint.",
    "circuit_open": "Whether the vault counts as dead, so that it is only probed.",
    "vault_last_answer_age_seconds": "Seconds since the vault last answered; absent when it never has.",
    "token_left_seconds": "Seconds until the token ends; 0 without one.",
    "workers_started": "Workers that served this mount, this one included.",
    "files_broken": "Files that cannot be made of what the vault gave, or lacks. Not those that it refuses.",
    "refused_secrets": "Secrets that could be read and that the vault refuses now, while somebody asks for them.",
    "stale_values": "Values older than ttl that are served because nobody answers.",
    "known_names": "Secrets that are known, from listings and gets.",
    "secret_expires_timestamp_seconds": "When a secret expires (its attribute exp), by name.",
    "imds_fence": "Whether the token endpoint is fenced off from other users, by state: 1 for the one that holds.",
    "readers_behind": "Readers that last opened an earlier version than the current one of a file.",
}
"""What each metric means that is no counter of a part. `build` is an info, `workers_started` a counter, else gauges."""
