"""Which version this is."""

from __future__ import annotations


def package_version() -> str:
    """The installed version, or ``unknown`` when the code runs without being installed."""
    from importlib.metadata import PackageNotFoundError, version  # 3 MiB that a keeper need not have

    try:
        return version("keyvaultfs")
    except PackageNotFoundError:
        return "unknown"
