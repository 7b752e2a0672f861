"""What the vault, the token endpoint and the control interface share."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields
from typing import Any

from keyvaultfs_devvault.backup import Sealer
from keyvaultfs_devvault.faults import Rules
from keyvaultfs_devvault.journal import Journal
from keyvaultfs_devvault.store import Store
from keyvaultfs_devvault.tokens import TENANT, Tokens


@dataclass(slots=True)
class Knobs:
    """How the vault behaves when nothing is wrong; all can be turned while it runs.

    Args:
        latency: seconds before each answer of the vault.
        delete_delay: seconds until a deletion or a recovery is visible.
        retention: days that a deleted secret is kept.
        purge_protection: whether purging is refused.
        page_size: the most items on a page, at most 25.
        token_lifetime: seconds.
        token_cache: whether the token endpoint hands out one token until it ends, as IMDS does.
        identities: client ids of the machine's user-assigned identities, or None to take any.
        clock_offset: seconds added to the vault's wall clock, by which it dates its answers and judges tokens.
        tenant: that the vault trusts; another than `tokens.TENANT` refuses every token of this machine.
        arc: the folder for key files: the token endpoint is that of Azure Arc's agent (see `arc`). None: IMDS.
    """

    latency: float = 0.0
    delete_delay: float = 0.0
    retention: int = 90
    purge_protection: bool = False
    page_size: int = 25
    token_lifetime: float = 86_400.0
    token_cache: bool = True
    identities: list[str] | None = None
    clock_offset: float = 0.0
    tenant: str = TENANT
    arc: str | None = None


@dataclass(slots=True)
class State:
    """One vault with its token endpoint."""

    knobs: Knobs = field(default_factory=Knobs)
    rules: Rules = field(default_factory=Rules)
    journal: Journal = field(default_factory=Journal)
    sealer: Sealer = field(default_factory=Sealer)
    store: Store = field(init=False)
    tokens: Tokens = field(init=False)

    def __post_init__(self) -> None:
        self.store = Store(self.now)
        self.tokens = Tokens(self.now)
        self._apply()

    def now(self) -> float:
        """The vault's wall clock, Unix seconds."""
        return time.time() + self.knobs.clock_offset

    def turn(self, changes: dict[str, Any]) -> None:
        """Turn knobs.

        Raises:
            ValueError: for a knob that does not exist; nothing is changed then.
        """
        known = {knob.name for knob in fields(self.knobs)}
        if unknown := sorted(set(changes) - known):
            raise ValueError(f"no such knob: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        for name, value in changes.items():
            setattr(self.knobs, name, value)
        self._apply()

    def _apply(self) -> None:
        self.store.delete_delay = self.knobs.delete_delay
        self.store.retention = self.knobs.retention
        self.tokens.lifetime = self.knobs.token_lifetime
        self.tokens.trusted = self.knobs.tenant
