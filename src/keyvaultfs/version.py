"""Which version this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """The installed version, or ``unknown`` when the code runs without being installed."""
    try:
        return version("keyvaultfs")
    except PackageNotFoundError:
        return "unknown"
