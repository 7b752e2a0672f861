"""What keyvaultfs is compared with, started and ended again: file systems, agents, clients."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests

from benchmarks.installed import program
from benchmarks.model import OURS
from tests.support.mount import ROOT, Mount, mounts_below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.vault import VaultProcess

TMPFS = "tmpfs"
FLOOR = "pyfuse3 floor"
SINGLE = "keyvaultfs in a single process"
BINDFS = "bindfs"
RCLONE = "rclone mount"
FILES = (TMPFS, FLOOR, SINGLE, OURS, BINDFS, RCLONE)
_PATIENCE = 20.0  # seconds
serving: dict[str, int] = {}
"""by mount point: the process that serves a peer's"""
LONG = ("ttl=86400", "list_ttl=86400")  # nothing expires while it is measured


@contextlib.contextmanager
def folder(on: str | None = None) -> Iterator[Path]:
    """An empty folder; whatever is still mounted below is unmounted in the end."""
    where = Path(tempfile.mkdtemp(prefix="keyvaultfs-bench-", dir=on))
    try:
        yield where
    finally:
        for point in sorted(mounts_below(where), reverse=True):
            subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
        if mounts_below(where):
            print(f"still mounted: {where}", file=sys.stderr)
        else:
            shutil.rmtree(where, ignore_errors=True)


def wait(holds: Callable[[], bool], child: subprocess.Popen[bytes], what: str) -> None:
    """Until something holds.

    Raises:
        RuntimeError: if the child ended, or after a long time.
    """
    end = time.monotonic() + _PATIENCE
    while not holds():
        if child.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"{what} did not start")
        time.sleep(0.005)


@contextlib.contextmanager
def mounted(command: list[str], where: Path, what: str) -> Iterator[Path]:
    """A file system that a foreground program mounts."""
    where.mkdir(exist_ok=True)
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait(lambda: bool(mounts_below(where)), child, what)
        serving[str(where)] = child.pid
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=False, capture_output=True)
        if mounts_below(where):
            subprocess.run(["umount", "--lazy", str(where)], check=False, capture_output=True)
        ended(child)


def ended(child: subprocess.Popen[bytes]) -> None:
    """A child of ours, sooner or later."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(3)
        return
    child.terminate()
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@contextlib.contextmanager
def ours(vault: VaultProcess, where: Path, *options: str, source: Path = ROOT / "src") -> Iterator[Mount]:
    """keyvaultfs, from the command line as a user mounts it; by the code in `source`."""
    where.mkdir(exist_ok=True)
    mount = Mount(vault, where, options, source=source)
    try:
        mount.start()
        yield mount
        mount.stop()
    finally:
        mount.destroy()


@contextlib.contextmanager
def single(vault: VaultProcess, where: Path) -> Iterator[Path]:
    """The same operations class, mounted and served by one process."""
    options = ",".join((vault.mount_options(), *LONG))
    command = [sys.executable, "-m", "benchmarks.single", vault.url, str(where), options]
    with mounted(command, where, SINGLE) as there:
        yield there


def tmpfs_files(where: Path, names: list[str]) -> Path:
    """The same files as in the vault, on tmpfs."""
    for name in names:
        (where / name).write_text(name)
    return where


def shared_memory() -> str:
    """A folder on tmpfs."""
    return "/dev/shm"


def commands(below: Path, memory: Path, count: int) -> dict[str, list[str]]:
    """What starts the file systems that are installed, but for ours; each mounts on a folder of `below`."""
    made = {FLOOR: [sys.executable, "-m", "benchmarks.floor", str(below / "pyfuse3"), str(count)]}
    if bindfs := program("bindfs"):
        made[BINDFS] = [bindfs, "-f", "-r", str(memory), str(below / "bindfs")]
    if rclone := program("rclone"):
        options = ["--read-only", "--config", os.devnull]
        made[RCLONE] = [rclone, "mount", *options, str(memory), str(below / "rclone")]
    return made


@contextlib.contextmanager
def file_systems(below: Path, names: list[str]) -> Iterator[dict[str, Path]]:
    """All but ours, those that are installed; each shows the same names."""
    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(folder(shared_memory()))
        found = {TMPFS: tmpfs_files(memory, names)}
        for who, command in commands(below, memory, len(names)).items():
            found[who] = stack.enter_context(mounted(command, below / who.split()[0], who))
        yield found


@contextlib.contextmanager
def agent(vault: VaultProcess) -> Iterator[int]:
    """The local HTTP agent; its port."""
    facts = {"url": vault.url, "resource": vault.resource, "ca_file": vault.ca_file, "imds": vault.imds}
    with _server(["benchmarks.agent"], json.dumps(facts)) as port:
        yield port


@contextlib.contextmanager
def far_away(vault: VaultProcess, trip: float) -> Iterator[VaultProcess]:
    """The same vault behind a relay, so many seconds of round trip away."""
    where = urlsplit(vault.url)
    with _server(["benchmarks.relay", str(where.port), str(trip)], "") as port:
        far = copy.copy(vault)
        far.url = f"https://{where.hostname}:{port}"
        yield far


@contextlib.contextmanager
def _server(module: list[str], line: str) -> Iterator[int]:
    """A module that prints its port, and serves until its standard input ends."""
    child = subprocess.Popen([sys.executable, "-m", *module], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        if line:
            child.stdin.write(line.encode() + b"\n")
            child.stdin.flush()
        yield int(child.stdout.readline())
    finally:
        child.stdin.close()
        ended(child)
        child.stdout.close()


@contextlib.contextmanager
def nginx(below: Path) -> Iterator[int | None]:
    """nginx with one constant answer, which no agent can be faster than; None if it is missing."""
    if (where := program("nginx")) is None:
        yield None
        return
    port = free_port()
    (below / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {below}/nginx.pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; keepalive_requests 100000000; "
        + "".join(
            f"{kind}_temp_path {below}/{kind}; "
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        + f'server {{ listen 127.0.0.1:{port}; location / {{ return 200 "s000"; }} }} }}\n'
    )
    child = subprocess.Popen(
        [where, "-p", str(below), "-c", str(below / "nginx.conf")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait(lambda: listens(port), child, "nginx")
        yield port
    finally:
        child.terminate()
        ended(child)


def listens(port: int) -> bool:
    """Whether somebody does, on loopback."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def free_port() -> int:
    """One of loopback that nobody has now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def token(vault: VaultProcess) -> str:
    """One for the embedded vault, from its token endpoint."""
    where = f"{vault.imds}/metadata/identity/oauth2/token"
    wanted = {"api-version": "2018-02-01", "resource": vault.resource}
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(where, params=wanted, headers={"Metadata": "true"}, timeout=10)
        return str(answer.json()["access_token"])


def sdk_environment(vault: VaultProcess) -> dict[str, str]:
    """What leads Microsoft's clients to the embedded vault."""
    return {
        "AZURE_POD_IDENTITY_AUTHORITY_HOST": vault.imds,
        "REQUESTS_CA_BUNDLE": vault.ca_file,
        "NO_PROXY": "127.0.0.1,localhost",
    }


def tutorial(vault: VaultProcess) -> list[str]:
    """The two curls of Microsoft's tutorial, as one shell script; {} is the secret's name."""
    resource = vault.resource.replace(":", "%3A").replace("/", "%2F")
    token = f"{vault.imds}/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}"
    secret = f"{vault.url}/secrets/{{}}?api-version=7.4"
    cut = r"""sed 's/.*"access_token": *"\([^"]*\)".*/\1/'"""
    script = (
        f"T=$(curl -s --noproxy '*' '{token}' -H Metadata:true | {cut}); "
        f"curl -sf --noproxy '*' --cacert {vault.ca_file} '{secret}' -H \"Authorization: Bearer $T\""
    )
    return ["sh", "-c", script]
