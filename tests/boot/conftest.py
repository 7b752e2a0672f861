"""A vault that has Azure's name and addresses, and machines on which the package is installed."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.boot import machine as machines
from tests.boot.machine import Machine, above
from tests.support import roots
from tests.support.vault import VaultProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "mytestkeyvault.vault.azure.net"
_NETWORK = "ip link set lo up && ip address add 169.254.169.254/32 dev lo"
_DEV = ("--name", HOST, "--port", "443", "--imds-host", "169.254.169.254", "--imds-port", "80")


@pytest.fixture(scope="session")
def endpoint() -> Iterator[VaultProcess]:
    """The embedded vault, in a network of its own that the machines share: default options lead to it."""
    assert os.geteuid() == 0, "the boot tests are root's"
    with (roots.folder() / "boot.lock").open("w") as lock:
        # One run at a time: machines of two runs would find each other's units in the one hierarchy of cgroups.
        fcntl.flock(lock, fcntl.LOCK_EX)
        with VaultProcess(*_DEV, network=_NETWORK) as running:
            yield running


@pytest.fixture
def vault(endpoint: VaultProcess) -> VaultProcess:
    endpoint.clear_faults()
    endpoint.clear_secrets()
    endpoint.set("MyTestSecret", "correct horse")
    endpoint.set("db-password", "battery staple")
    return endpoint


@pytest.fixture(scope="session")
def package() -> Path:
    return machines.package()


@pytest.fixture(scope="session")
def installed(endpoint: VaultProcess, package: Path) -> Iterator[Machine]:
    """A machine, off, on which apt has installed the package; the others' disks lie over its own."""
    with with_package(endpoint, machines.base(package), package) as machine:
        yield machine


@pytest.fixture(scope="session")
def outdated(
    endpoint: VaultProcess, package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """A machine, off, that has an older version; of `make upgrade-check BASE=…`, or else the same by an older name."""
    older = Path(
        os.environ.get("OLDER_PACKAGE")
        or machines.renamed(package, "0.0.1", tmp_path_factory.mktemp("older"))
    )
    with with_package(endpoint, machines.base(package), older) as machine:
        machine.write("/root/keyvaultfs.deb", package.read_bytes())
        yield machine


@contextlib.contextmanager
def with_package(endpoint: VaultProcess, base: Path, package: Path) -> Iterator[Machine]:
    """A machine, off, over the disk `base`, on which apt has installed a package."""
    with above(base, endpoint.pid) as machine:
        machine.write("/etc/hosts", f"127.0.0.1 localhost {HOST}\n")
        authority = Path(endpoint.ca_file).read_text(encoding="ascii")
        machine.write("/usr/local/share/ca-certificates/dev.crt", authority)
        machine.write("/root/keyvaultfs.deb", package.read_bytes())
        machine.boot()
        machine.run("update-ca-certificates")
        for user in ("app", "other"):
            machine.run("useradd", "--system", user)
        before = machine.files()
        machine.run("apt-get", "install", "--yes", "--no-install-recommends", "/root/keyvaultfs.deb")
        machine.before = before
        machine.started = machine.run("systemctl", "list-units", "--no-legend", "keyvaultfs*")
        machine.poweroff()
        yield machine


@pytest.fixture
def machine(installed: Machine, endpoint: VaultProcess) -> Iterator[Machine]:
    """A machine, off, with the package installed; it is the test's own."""
    with above(installed.root, endpoint.pid) as one:
        yield one
