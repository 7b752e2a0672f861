"""What an administrator does with the package, on machines with a real systemd and with default options."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING

import pytest

from tests.boot.conftest import HOST
from tests.boot.machine import SUITE, above

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.boot.machine import Machine
    from tests.support.vault import VaultProcess

pytestmark = pytest.mark.timeout(3000)  # the first one makes the root, or waits for another run

FSTAB = f"https://{HOST}  /mnt/kv  keyvaultfs  _netdev,nofail,uid=app,mode=0400,ttl=120{{more}}  0  0\n"
TOML = 'vault = "mytestkeyvault"\nmountpoint = "/mnt/kv"\nuid = "app"\n{more}'

DEPENDANT = """
[Unit]
{after}
[Service]
Type=oneshot
RemainAfterExit=yes
User=app
RuntimeDirectory=dependant
ExecStart=/bin/sh -c 'cat /mnt/kv/MyTestSecret > /run/dependant/read'
[Install]
WantedBy=multi-user.target
"""

READER = """
import sys, time
count = 0
print("reading", flush=True)
while True:
    with open("/mnt/kv/MyTestSecret") as file:
        text = file.read()
    if text not in {"correct horse", "changed"}:
        sys.exit(f"read {text!r}")
    count += 1
    if sys.stdin in __import__("select").select([sys.stdin], [], [], 0)[0]:
        sys.exit(f"{count} reads without an error" if count else "no read")
"""


def tell(words: str) -> None:
    """On the step's line: pytest runs with --capture=no here."""
    sys.stdout.write(f"{words}; ")


def in_fstab(machine: Machine, more: str = "") -> None:
    machine.write("/etc/fstab", FSTAB.format(more=more))
    (machine.root / "mnt/kv").mkdir(exist_ok=True)


def as_a_unit(machine: Machine, more: str = "") -> None:
    machine.write("/etc/keyvaultfs/web.toml", TOML.format(more=more))
    (machine.root / "mnt/kv").mkdir(exist_ok=True)
    machine.enable("keyvaultfs@web.service")


def has_a_dependant(machine: Machine, after: str) -> None:
    machine.write("/etc/systemd/system/dependant.service", DEPENDANT.format(after=after))
    machine.enable("dependant.service")


def property_of(machine: Machine, unit: str, name: str) -> str:
    return machine.run("systemctl", "show", unit, f"--property={name}", "--value").strip()


def status(machine: Machine, name: str) -> str:
    for _ in range(5):  # a status that was opened just before a take-over cannot be read after it
        text = machine.run("keyvaultfs", "status", "--json", "/mnt/kv", check=False)
        if text.startswith("{"):
            break
    found = re.search(rf'"{name}": "?([^",\n]+)', text)
    assert found, text
    return found[1]


def readers_behind(machine: Machine, name: str) -> dict[str, bool]:
    """Of the units that have opened a file: whether they are still on an earlier version."""
    (file,) = json.loads(machine.run("keyvaultfs", "readers", "--json", "/mnt/kv", name))["files"]
    return {one["unit"]: one["behind"] for one in file["readers"] if one["unit"]}


def reading(machine: Machine) -> subprocess.Popen[str]:
    """A reader that ends at its first error, or when it is told to."""
    reader = machine.start("python3", "-c", READER, user="app")
    assert reader.stdout is not None
    assert reader.stdout.readline() == "reading\n"
    return reader


def saw_no_error(reader: subprocess.Popen[str]) -> str:
    said, _ = reader.communicate("stop\n", timeout=60)
    assert "reads without an error" in said, said
    return said.strip()


def the_worker_is_confined(machine: Machine) -> None:
    worker = status(machine, "worker")
    assert machine.run("ps", "-o", "user=", "-p", worker).strip() == "keyvaultfs"
    root_may = machine.can(
        "sh", "-c", "ulimit -l unlimited"
    )  # not where the tests themselves are in a container
    assert status(machine, "memory_locked") == ("true" if root_may else "false")


def only_its_owner_reads(machine: Machine) -> None:
    read = machine.run("cat", "/mnt/kv/MyTestSecret", user="app")
    assert read == "correct horse"
    assert not machine.can("cat", "/mnt/kv/MyTestSecret", user="other")


def test_01_apt_installs_it_and_nothing_starts(installed: Machine, machine: Machine) -> None:
    assert installed.started == ""
    machine.boot()
    assert machine.run("systemctl", "list-units", "--no-legend", "keyvaultfs*") == ""
    assert machine.run("systemctl", "is-enabled", "keyvaultfs@web.service", check=False).strip() == "disabled"
    assert machine.run("getent", "passwd", "keyvaultfs").endswith("/usr/sbin/nologin\n")
    assert machine.run("dpkg", "--verify", "keyvaultfs") == ""
    machine.poweroff()


def test_02_a_line_of_fstab(vault: VaultProcess, machine: Machine) -> None:
    in_fstab(machine)
    has_a_dependant(machine, "RequiresMountsFor=/mnt/kv")
    tell(f"booted in {machine.boot():.1f} s")
    assert machine.run("cat", "/run/dependant/read", user="app") == "correct horse"
    only_its_owner_reads(machine)
    the_worker_is_confined(machine)
    assert f"/mnt/kv https://{HOST} fuse.keyvaultfs ro,nosuid,nodev,noexec" in machine.run(
        "findmnt", "--noheadings", "--raw", "--output", "TARGET,SOURCE,FSTYPE,OPTIONS", "/mnt/kv"
    )
    machine.run("mount", "-a")
    assert machine.run("findmnt", "--noheadings", "/mnt/kv").count("\n") == 1
    machine.poweroff()


def test_03_a_unit(vault: VaultProcess, machine: Machine) -> None:
    as_a_unit(machine)
    has_a_dependant(machine, "Requires=keyvaultfs@web.service\nAfter=keyvaultfs@web.service")
    tell(f"booted in {machine.boot():.1f} s")
    assert machine.run("cat", "/run/dependant/read", user="app") == "correct horse"
    only_its_owner_reads(machine)
    the_worker_is_confined(machine)
    security = machine.run("systemd-analyze", "security", "--no-pager", "keyvaultfs@web.service")
    tell(re.sub(r"^.*level for \S+", "systemd-analyze security:", security.strip().splitlines()[-1]))
    machine.poweroff()


@pytest.mark.parametrize("how", ["refuse", "silent"])
@pytest.mark.parametrize("configure", [in_fstab, as_a_unit])
def test_04_the_vault_is_down_at_boot(
    vault: VaultProcess, machine: Machine, configure: Callable[[Machine], None], how: str
) -> None:
    configure(machine)
    fault = vault.outage("both", how)
    tell(
        f"booted in {machine.boot():.1f} s"
    )  # `boot` fails unless all units are up: with the vault still down
    assert machine.can("stat", "/mnt/kv")
    assert not machine.can("cat", "/mnt/kv/MyTestSecret", user="app")
    vault.clear_faults(fault)
    machine.wait_until(lambda: machine.can("cat", "/mnt/kv/MyTestSecret", user="app"), "the secret")
    only_its_owner_reads(machine)
    machine.poweroff()


def test_05_a_credential_of_a_unit(vault: VaultProcess, machine: Machine) -> None:
    in_fstab(machine, ",audit=journal")
    vault.set("web-env", "GREETING=hello")
    vault.set("off", "never", enabled=False)
    machine.write("/etc/systemd/system/credited.service", """
[Unit]
RequiresMountsFor=/mnt/kv
[Service]
Type=oneshot
RemainAfterExit=yes
DynamicUser=yes
LoadCredential=db:/mnt/kv/db-password
LoadCredential=kv:/mnt/kv
RuntimeDirectory=credited
ExecStart=/bin/sh -c 'cat $CREDENTIALS_DIRECTORY/db > /run/credited/read'
[Install]
WantedBy=multi-user.target
""")  # fmt: skip
    machine.enable("credited.service")
    machine.boot()
    assert machine.run("cat", "/run/credited/read") == "battery staple"
    # systemd itself reads this one: a name that nobody has read before, of a vault that takes its time.
    machine.write("/etc/systemd/system/environment.service", """
[Service]
Type=oneshot
RemainAfterExit=yes
EnvironmentFile=/mnt/kv/web-env
ExecStart=/bin/sh -c 'test "$GREETING" = hello'
""")  # fmt: skip
    machine.run("systemctl", "daemon-reload")
    machine.run("keyvaultfs", "refresh", "/mnt/kv")
    slow = vault.fault(op="get", latency=0.8)
    machine.run("systemctl", "start", "environment.service")
    vault.clear_faults(slow)
    in_the_journal(machine, "/mnt/kv/web-env", "systemd")
    in_the_journal(machine, "/mnt/kv/db-password", "(sd-mkdcreds)", "(credited)", "(sd-executor)", "(sh)")
    for name in ("web-env", "off"):
        vault.delete(name, erase=True)
    machine.poweroff()


def in_the_journal(machine: Machine, path: str, *programs: str) -> None:
    """A record of an open, with its fields."""

    def found() -> list[dict[str, str]]:
        lines = machine.run("journalctl", "--output=json", f"KEYVAULTFS_PATH={path}").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    machine.wait_until(lambda: bool(found()), f"a record of {path}")
    record = found()[-1]
    assert record["KEYVAULTFS_OUTCOME"] == "opened"
    assert re.fullmatch("[0-9a-f]{32}", record["KEYVAULTFS_VERSION"])
    assert record["OBJECT_COMM"] in programs, record
    assert (record["OBJECT_UID"], record["SYSLOG_IDENTIFIER"]) == ("0", "keyvaultfs")
    assert record["_COMM"].startswith("python")


def test_06_a_path_unit_reloads_a_service_on_rotation_and_systemd_never_waits_for_the_vault(
    vault: VaultProcess, machine: Machine
) -> None:
    vault.set("web-tls", "one")
    as_a_unit(machine, 'ttl = 2\ntimeout = "60s"\n')
    for name in ("reload-on-rotation.path", "reload-on-rotation.service"):
        example = (machine.root / "usr/share/doc/keyvaultfs/examples" / name).read_text()
        machine.write(f"/etc/systemd/system/{name}", example)
    machine.enable("reload-on-rotation.path")
    machine.write("/etc/systemd/system/nginx.service", """
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'cat /mnt/kv/web-tls > /run/reloaded'
ExecReload=/bin/sh -c 'cat /mnt/kv/web-tls > /run/reloaded'
[Unit]
Requires=keyvaultfs@web.service
After=keyvaultfs@web.service
[Install]
WantedBy=multi-user.target
""")  # fmt: skip
    machine.enable("nginx.service")
    machine.write("/etc/systemd/system/conditional.service", """
[Unit]
ConditionPathExists=/mnt/kv/nobody-has-asked-for-it
[Service]
ExecStart=/bin/true
""")  # fmt: skip
    machine.boot()
    assert machine.run("cat", "/run/reloaded") == "one"
    for value in ("two", "three"):
        vault.rotate("web-tls", value)
        machine.wait_until(lambda: machine.run("cat", "/run/reloaded") == value, "the reload")  # noqa: B023 - at once
    # A request may wait for 60 s here, and systemctl for systemd no longer than 25 s.
    vault.outage("vault", "silent")
    hanging = machine.start("cat", "/mnt/kv/nor-for-this", user="app")
    for command in (
        "daemon-reload",
        "start conditional.service",
        "restart reload-on-rotation.path",
        "list-units",
    ):
        took = machine.timed("systemctl", *command.split())
        tell(f"systemctl {command}, while the vault hangs: {took:.2f} s")
    assert hanging.poll() is None
    vault.clear_faults()
    hanging.communicate(timeout=90)
    vault.rotate("web-tls", "four")
    machine.wait_until(lambda: machine.run("cat", "/run/reloaded") == "four", "the reload after the outage")
    machine.poweroff()


def test_07_an_automount(vault: VaultProcess, machine: Machine) -> None:
    in_fstab(machine, ",noauto,x-systemd.automount")
    machine.boot()
    assert property_of(machine, "mnt-kv.mount", "ActiveState") == "inactive"
    only_its_owner_reads(machine)
    assert property_of(machine, "mnt-kv.mount", "ActiveState") == "active"
    machine.poweroff()


def test_08_a_worker_is_killed_and_the_unit_reloaded_restarted_and_stopped(
    vault: VaultProcess, machine: Machine
) -> None:
    as_a_unit(machine)
    machine.boot()
    unit = "keyvaultfs@web.service"
    reader = reading(machine)
    for command in (("kill", "-KILL", "{worker}"), ("systemctl", "reload", unit)):
        before = status(machine, "worker")
        machine.run(*(word.format(worker=before) for word in command))
        machine.wait_until(lambda: status(machine, "worker") != before, "another worker")  # noqa: B023 - at once
        assert property_of(machine, unit, "ActiveState") == "active"
    tell(saw_no_error(reader))
    machine.run("systemctl", "restart", unit)
    only_its_owner_reads(machine)
    machine.run("systemctl", "stop", unit)
    assert property_of(machine, unit, "Result") == "success"
    assert not machine.can("mountpoint", "/mnt/kv")
    assert machine.run("pgrep", "--full", "keyvaultfs", check=False) == ""
    machine.poweroff()


@pytest.mark.parametrize("signal", ["KILL", "STOP"])
def test_08_a_keeper_that_is_killed_or_hangs_is_replaced_by_systemd(
    vault: VaultProcess, machine: Machine, signal: str
) -> None:
    as_a_unit(machine)
    unit = "keyvaultfs@web.service"
    machine.write(f"/etc/systemd/system/{unit}.d/soon.conf", "[Service]\nWatchdogSec=3\nTimeoutAbortSec=2\n")
    machine.boot()
    keeper = property_of(machine, unit, "MainPID")
    machine.run("kill", f"-{signal}", keeper)
    machine.wait_until(lambda: property_of(machine, unit, "NRestarts") == "1", "the restart")
    machine.wait_until(lambda: machine.can("cat", "/mnt/kv/MyTestSecret", user="app"), "the mount")
    only_its_owner_reads(machine)
    assert machine.run("findmnt", "--noheadings", "/mnt/kv").count("\n") == 1
    machine.run("systemctl", "stop", unit)
    assert machine.run("pgrep", "--full", "keyvaultfs", check=False) == ""
    machine.poweroff()


def test_08_the_keeper_of_an_fstab_mount_is_killed_and_mount_mends_it(
    vault: VaultProcess, machine: Machine
) -> None:
    in_fstab(machine)
    machine.boot()
    machine.run("kill", "-KILL", status(machine, "keeper"))
    machine.wait_until(lambda: not machine.can("stat", "/mnt/kv/MyTestSecret"), "the end of the mount")
    machine.run("mount", "/mnt/kv")
    only_its_owner_reads(machine)
    assert machine.run("findmnt", "--noheadings", "/mnt/kv").count("\n") == 1
    machine.poweroff()


@pytest.mark.parametrize("configure", [in_fstab, as_a_unit])
def test_09_apt_upgrades_it_under_a_reader(
    vault: VaultProcess, endpoint: VaultProcess, outdated: Machine, configure: Callable[[Machine], None]
) -> None:
    with above(outdated.root, endpoint.pid) as machine:
        configure(machine)
        machine.boot()
        before = status(machine, "version"), status(machine, "worker")
        reader = reading(machine)
        remembers = " readers " in machine.run("keyvaultfs", "--help")  # version 0.1.0 did not
        once = ("systemd-run", "--quiet", "--wait", "--unit=once", "--property=User=app")
        machine.run(*once, "cat", "/mnt/kv/MyTestSecret")
        vault.rotate("MyTestSecret", "changed")
        machine.run("keyvaultfs", "refresh", "/mnt/kv")
        machine.wait_until(lambda: machine.run("cat", "/mnt/kv/MyTestSecret", user="app") == "changed", "it")
        machine.run("apt-get", "install", "--yes", "--no-install-recommends", "/root/keyvaultfs.deb")
        machine.wait_until(lambda: status(machine, "version") != before[0], "a worker of the new code")
        assert status(machine, "worker") != before[1]
        assert readers_behind(machine, "MyTestSecret") == ({"once.service": True} if remembers else {})
        tell(saw_no_error(reader))
        tell(f"from {before[0]} to {status(machine, 'version')}")
        machine.poweroff()


def test_10_only_root_and_the_worker_reach_the_token_endpoint(vault: VaultProcess, machine: Machine) -> None:
    as_a_unit(machine)
    ask = ("python3", "-c", "import socket; socket.create_connection(('169.254.169.254', 80), 5)")
    machine.boot()
    assert all(machine.can(*ask, user=user) for user in ("root", "keyvaultfs", "app"))
    machine.run("systemctl", "enable", "--now", "keyvaultfs-imds.service")
    for again in (False, True):
        if again:
            machine.poweroff()
            machine.boot()
        assert all(machine.can(*ask, user=user) for user in ("root", "keyvaultfs"))
        assert not any(machine.can(*ask, user=user) for user in ("app", "other"))
        only_its_owner_reads(machine)
    machine.run("systemctl", "start", "nftables")
    nftables = [f"systemctl {verb} nftables" for verb in ("reload", "restart", "stop")]
    for flush in (*nftables, "nft flush ruleset"):
        machine.run(*flush.split())
        machine.wait_until(lambda: not machine.can(*ask, user="app"), f"the fence after {flush}")
        assert machine.run("cat", "/run/keyvaultfs/imds-fence", user="app").startswith("in-force ")
    machine.run("systemctl", "disable", "--now", "keyvaultfs-imds.service")
    assert machine.can(*ask, user="app")
    assert not machine.can("test", "-e", "/run/keyvaultfs/imds-fence")
    assert property_of(machine, "keyvaultfs-imds-check.timer", "ActiveState") == "inactive"
    machine.poweroff()


@pytest.mark.parametrize("says_so", [True, False])
@pytest.mark.parametrize("configure", [in_fstab, as_a_unit])
def test_11_poweroff_is_clean_while_the_mount_is_busy(
    vault: VaultProcess, machine: Machine, configure: Callable[[Machine], None], says_so: bool
) -> None:
    """Busy with a service that says what it needs, or with one that does not, while the vault hangs."""
    configure(machine)
    machine.boot()
    idle = machine.poweroff()
    machine.boot()
    need = "keyvaultfs@web.service" if configure is as_a_unit else "mnt-kv.mount"
    machine.run("systemd-run", "--unit=busy", *([f"--property=After={need}"] if says_so else []), "sh", "-c",
                "cd /mnt/kv; exec 3< MyTestSecret; while :; do cat MyTestSecret; sleep 0.1; done")  # fmt: skip
    machine.wait_until(lambda: "correct horse" in machine.journal("--unit=busy"), "the busy service")
    vault.outage("vault", "silent")
    tell(f"powered off in {machine.poweroff():.1f} s, unused in {idle:.1f} s")
    said = machine.console() + machine.last_journal()
    assert not re.search(r"(?i)dependency failed|forcibly|timed out|SIGKILL", said), said
    if says_so:  # else systemd says, truly, that it could not unmount before the service had ended
        assert not re.search(r"(?i)failed (un)?mount", said), said


def test_12_removing_unmounts_and_purging_leaves_nothing(
    vault: VaultProcess, installed: Machine, machine: Machine
) -> None:
    as_a_unit(machine)
    machine.boot()
    (machine.root / "mnt/other").mkdir()
    machine.run("mount", "-t", "keyvaultfs", f"https://{HOST}", "/mnt/other")
    assert machine.run("cat", "/mnt/other/MyTestSecret") == "correct horse"
    machine.run("systemctl", "disable", "keyvaultfs@web.service")
    machine.run("apt-get", "remove", "--yes", "keyvaultfs")
    machine.wait_until(
        lambda: machine.run("pgrep", "--full", "keyvaultfs", check=False) == "", "its processes to end"
    )
    assert "fuse.keyvaultfs" not in machine.run("cat", "/proc/self/mountinfo")
    assert machine.can("test", "-e", "/etc/keyvaultfs/web.toml")
    machine.run("apt-get", "purge", "--yes", "keyvaultfs")
    assert not machine.can("getent", "passwd", "keyvaultfs")
    machine.run("apt-get", "autoremove", "--purge", "--yes")
    assert machine.files() - installed.before == set()
    machine.poweroff()


NEXT_RELEASE = {"bookworm": "trixie", "trixie": "forky"}


@pytest.mark.slow
def test_13_the_machine_goes_to_the_next_release_of_debian_under_a_reader(
    vault: VaultProcess, machine: Machine
) -> None:
    """Another Python, pyfuse3, trio and libfuse take the mount over from those that it began with."""
    machine.fetch_release(NEXT_RELEASE[SUITE])
    in_fstab(machine)
    machine.boot()
    python = machine.run("python3", "--version")
    reader = reading(machine)
    keep = "Dpkg::Options::=--force-confold"
    machine.run("apt-get", "--yes", "--no-download", "-o", keep, "dist-upgrade", seconds=900)
    tell(saw_no_error(reader))
    tell(f"from {python.strip()} to {machine.run('python3', '--version').strip()}")
    assert machine.run("python3", "--version") != python
    reader, before = reading(machine), status(machine, "worker")
    machine.run("kill", "-KILL", before)
    machine.wait_until(lambda: status(machine, "worker") != before, "a worker of the new Python")
    assert status(machine, "python") in machine.run("python3", "--version")
    tell(saw_no_error(reader))
    machine.poweroff()
    machine.boot()
    only_its_owner_reads(machine)
    machine.poweroff()
