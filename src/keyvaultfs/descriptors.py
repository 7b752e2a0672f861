"""The numbers at which a worker finds its descriptors. They only become more: older keepers start newer workers."""

from __future__ import annotations

LOG_FD = 2
DEVICE_FD = 3
CHANNEL_FD = 4
TABLE_FD = 5
VALUES_FD = 6
AUDIT_FD = 7
READERS_FD = 8
TALLIES_FD = 9
FIRST_FREE_FD = 10
"""The last three are there if the charge says so."""
