"""Many machines on one vault that has a limit. `docs/fleet.py` runs the full thousand and draws the plot."""

from __future__ import annotations

import pytest

from tests.support.fleet import WINDOW, simulate

pytestmark = pytest.mark.slow

MACHINES = 50
LIMIT = (
    4 * MACHINES
)  # a vault takes 4,000 requests in 10 s (PROTOCOL §6): four for each of a thousand machines


@pytest.mark.parametrize("tells", [True, False], ids=["with Retry-After", "without"])
def test_a_fleet_that_boots_in_one_second_is_served_whole_and_stays_below_the_limit(tells: bool) -> None:
    fleet = simulate(MACHINES, limit=LIMIT, seconds=1200, tells=tells)
    programs = sum(len(machine.names) for machine in fleet.machines)
    fastest = programs / LIMIT * WINDOW
    assert programs > 7 * LIMIT, "the boot would fit into one window: this would prove nothing"
    assert fleet.wanting() == 0
    assert fleet.waited()[-1] < 2 * fastest
    assert sum(machine.failed_later for machine in fleet.machines) == 0
    asked = fleet.vault.asked()
    # While they wait for their first values they share what the vault gives; few requests are in vain.
    assert max(asked[2 * WINDOW : int(fastest)]) < 1.6 * LIMIT
    assert sum(fleet.vault.refused.values()) < programs
    # From then on there is room for ten times as many.
    assert max(asked[int(2 * fastest) :]) < LIMIT / 2
    assert not any(second > 2 * fastest for second in fleet.vault.refused)


def test_a_fleet_whose_boot_fits_the_limit_is_never_refused() -> None:
    """Not by the first refresh either, in a vault whose listing is dearer than the gets that it would save."""
    fleet = simulate(MACHINES, limit=LIMIT, seconds=1200, secrets=[3], names=1000)
    assert not fleet.vault.refused
    assert fleet.wanting() == 0


def test_without_chance_the_same_fleet_comes_back_together() -> None:
    """That the two tests above can fail: it is the jitter that makes them true."""
    boot = simulate(MACHINES, limit=LIMIT, seconds=400, jitter=False)
    assert boot.waited()[-1] > simulate(MACHINES, limit=LIMIT, seconds=400).waited()[-1] * 1.3
    small = simulate(MACHINES, limit=LIMIT, seconds=1200, secrets=[3], names=1000, jitter=False)
    assert small.vault.refused
