"""Peers from the package index: there, installed now, or missing; and what machine this is."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

PEERS = {"bindfs": "bindfs", "rclone": "rclone", "curl": "curl", "nginx": "nginx-light"}  # program -> package
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_LIBRARIES = ("pyfuse3", "trio", "requests", "azure-keyvault-secrets", "azure-identity", "hypercorn")


def program(name: str) -> str | None:
    """Where it is."""
    return shutil.which(name) or shutil.which(name, path=_PATH)


def install_missing() -> list[str]:
    """Install what is not there, as root and where apt is; returns the names of what is missing still."""
    wanted = [peer for peer in PEERS if program(peer) is None]
    if wanted and os.geteuid() == 0 and shutil.which("apt-get"):
        packages = [PEERS[peer] for peer in wanted]
        print(f"installing {' '.join(packages)}", file=sys.stderr)
        # A service must not start just because its program is measured: 101 is policy-rc.d's "forbidden".
        command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        if done.returncode:
            print(f"apt-get: {done.stderr.strip()[-300:]}", file=sys.stderr)
    return [peer for peer in wanted if program(peer) is None]


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "missing"
    return (done.stdout or done.stderr).splitlines()[0].strip() if done.stdout or done.stderr else "silent"


def version(peer: str) -> str:
    """What it says of itself, in its first line."""
    where = program(peer)
    if where is None:
        return "missing"
    said = _said(where, {"rclone": "version", "nginx": "-v"}.get(peer, "--version"))
    return said.split(" (")[0]


def library(name: str) -> str:
    """Its version, or that it is missing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "unknown"


def _revision(root: Path) -> str:
    said = _said("git", "-C", str(root), "log", "-1", "--format=%h of %cs")
    return said if " of " in said else "unknown"


def facts(root: Path) -> dict[str, str]:
    """The machine and the versions, by name."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = {
        "keyvaultfs": f"{library('keyvaultfs')}, revision {_revision(root)}",
        "kernel": platform.release(),
        "system": _system(),
        "processor": f"{_processor()}, {os.cpu_count()} in all",
        "memory": f"{pages / 2**30:.0f} GiB",
        "load when it began": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "Python": platform.python_version(),
    }
    found |= {name: library(name) for name in _LIBRARIES}
    return found | {peer: version(peer) for peer in PEERS}
