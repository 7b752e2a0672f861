"""What a service manager is told, what the shipped files say, and whom the firewall lets through."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from keyvaultfs.settings import file
from tests.support.mount import KEYVAULTFS, PATIENCE, ROOT, environment, mounts_below, wait_until

if TYPE_CHECKING:
    from tests.support.vault import VaultProcess


def test_systemd_is_told_the_truth(vault: VaultProcess, tmp_path: Path) -> None:
    vault.set("pw", "x")
    where = tmp_path / "kv"
    where.mkdir()
    said: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)

        def wait_for(state: str) -> None:
            while not any(state in one for one in said):
                said.append(manager.recv(4096).decode())

        env = environment() | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"}
        command = [*KEYVAULTFS, "mount", "-f", vault.url, str(where), "-o", vault.mount_options()]
        keeper = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
        try:
            wait_for("READY=1")
            assert (where / "pw").read_text() == "x"
            wait_for("STATUS=worker")
            wait_for("WATCHDOG=1")
            said.clear()
            keeper.send_signal(signal.SIGHUP)
            wait_for("RELOADING=1")
            assert "MONOTONIC_USEC=" in "".join(said)
            wait_for("READY=1")
            said.clear()
            keeper.send_signal(signal.SIGTERM)
            wait_for("STOPPING=1")
            assert keeper.wait(PATIENCE) == 0
        finally:
            if keeper.poll() is None:
                keeper.terminate()
                keeper.wait(PATIENCE)
    wait_until(lambda: mounts_below(tmp_path) == [], "the unmount")


def test_the_example_configuration_is_valid() -> None:
    found = file.load(str(ROOT / "packaging/config/example.toml"))
    assert (found.vault, found.mountpoint) == ("mytestkeyvault", "/mnt/kv")


def test_the_unit_has_no_directive_that_makes_a_mount_namespace() -> None:
    hiding = ("Private", "ProtectSystem", "ProtectHome", "ProtectKernel", "ProtectProc", "ProtectControl", "ReadOnly",
              "ReadWrite", "Inaccessible", "BindPaths", "BindReadOnly", "TemporaryFileSystem", "RootDirectory",
              "MountFlags", "DynamicUser", "StateDirectory", "RuntimeDirectory", "LoadCredential")  # fmt: skip
    lines = (ROOT / "systemd/keyvaultfs@.service").read_text().splitlines()
    assert [line for line in lines if line.startswith(hiding)] == []


ASK = """
import socket, sys
with socket.socket() as sock:
    sock.settimeout(5)
    try:
        sock.connect(("169.254.169.254", 80))
    except OSError as exc:
        sys.exit(str(exc))
"""
LISTEN = "import socket, time; s = socket.create_server(('169.254.169.254', 80)); print('up', flush=True); "
LISTEN += "time.sleep(60)"


def test_behind_the_firewall_only_root_and_the_worker_reach_the_token_endpoint(
    tmp_path: Path,
) -> None:
    """In a network namespace of its own, where that address is one of `lo`."""
    rules = (
        (ROOT / "packaging/nftables/keyvaultfs-imds.nft")
        .read_text()
        .replace("{ root, keyvaultfs }", "{ 0, 4321 }")
    )
    (tmp_path / "rules").write_text(rules)
    script = f"""
    set -e
    ip link set lo up && ip address add 169.254.169.254/32 dev lo
    {sys.executable} -c "{LISTEN}" > {tmp_path}/up & listener=$!
    trap 'kill $listener' EXIT
    while ! grep -q up {tmp_path}/up; do sleep 0.05; done
    ask() {{ setpriv --reuid=$1 --clear-groups --inh-caps=-all,+dac_read_search \\
        --ambient-caps=-all,+dac_read_search {sys.executable} -c '{ASK}' 2>/dev/null \\
        && echo "$1 yes" || echo "$1 no"; }}
    ask 5555
    nft -f {tmp_path}/rules
    nft -f {tmp_path}/rules
    ask 0; ask 4321; ask 5555
    """
    done = subprocess.run(
        ["unshare", "--net", "bash", "-c", script], capture_output=True, text=True, check=False, timeout=60,
        env=environment() | {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:4] == ["5555 yes", "0 yes", "4321 yes", "5555 no"]


def test_behind_the_firewall_no_container_reaches_the_token_endpoint(tmp_path: Path) -> None:
    """Three network namespaces: a container, the machine that forwards for it, and the fabric with that address."""
    rules = (ROOT / "packaging/nftables/keyvaultfs-imds.nft").read_text()
    (tmp_path / "rules").write_text(rules.replace("{ root, keyvaultfs }", "{ 0, 4321 }"))
    script = f"""
    set -e
    unshare --net sleep 60 & container=$!
    unshare --net sleep 60 & fabric=$!
    listener=; trap 'kill $container $fabric $listener' EXIT
    machine=$(readlink /proc/self/ns/net)
    for pid in $container $fabric; do
      while [ "$(readlink /proc/$pid/ns/net)" = "$machine" ]; do sleep 0.05; done
    done
    at() {{ pid=$1; shift; nsenter --target=$pid --net "$@"; }}
    ip link set lo up
    ip link add toc type veth peer name eth0 netns $container
    ip link add tof type veth peer name eth0 netns $fabric
    ip address add 10.1.0.1/24 dev toc; ip link set toc up
    ip address add 10.2.0.1/24 dev tof; ip link set tof up
    at $container ip address add 10.1.0.2/24 dev eth0; at $container ip link set eth0 up
    at $container ip route add default via 10.1.0.1
    at $fabric ip address add 10.2.0.2/24 dev eth0; at $fabric ip link set eth0 up; at $fabric ip link set lo up
    at $fabric ip address add 169.254.169.254/32 dev lo
    at $fabric ip route add default via 10.2.0.1
    ip route add 169.254.169.254/32 via 10.2.0.2
    echo 1 > /proc/sys/net/ipv4/ip_forward
    nsenter --target=$fabric --net {sys.executable} -c "{LISTEN}" > {tmp_path}/up & listener=$!
    while ! grep -q up {tmp_path}/up; do sleep 0.05; done
    ask() {{ "$@" {sys.executable} -c '{ASK}' 2>/dev/null && echo yes || echo no; }}
    ask at $container
    nft -f {tmp_path}/rules
    ask at $container; ask env
    """
    done = subprocess.run(
        ["unshare", "--net", "bash", "-c", script],
        capture_output=True, text=True, check=False, timeout=60,
        env=environment() | {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["yes", "no", "yes"]
