"""What the file ``metrics`` shows beside the counters: how things are now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyvaultfs.fence import Fence, fence

if TYPE_CHECKING:
    from keyvaultfs.cache.cache import Cache
    from keyvaultfs.filesystem.exposition import Gauges
    from keyvaultfs.worker.chain import Chain


def gauges(chain: Chain, cache: Cache, *, version: str, workers: int, broken: int) -> Gauges:
    """Gauges by family; see `metrics.GAUGES`. Never a value of a secret.

    Args:
        version: of this program.
        workers: how many have served the mount.
        broken: how many files cannot be made.
    """
    known = cache.overview.snapshot()
    held = fence().fence
    found: dict[str, float | dict[tuple[str, str], float]] = {
        "build": {("version", version): 1},
        "outage": int(bool(cache.outage)),
        "circuit_open": int(chain.throttle.open),
        "token_left_seconds": max(0.0, chain.token.left()),
        "workers_started": workers,
        "files_broken": broken,
        "refused_secrets": cache.overview.taken(),
        "stale_values": known["stale"],
        "known_names": cache.listings.names_known(),
        "imds_fence": {("state", one.value): int(one is held) for one in Fence},
        "secret_expires_timestamp_seconds": {
            ("name", name): expires for name, expires in sorted(cache.overview.expiries().items())
        },
    }
    if known["answered"] is not None:
        found["vault_last_answer_age_seconds"] = known["answered"]
    return found
