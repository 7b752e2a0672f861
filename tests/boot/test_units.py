"""What systemd does with files of a mount: reads them for a unit, watches them, and is told who may open them."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.boot.test_boot import as_a_unit, in_fstab

if TYPE_CHECKING:
    from tests.boot.machine import Machine
    from tests.support.vault import VaultProcess

pytestmark = pytest.mark.timeout(3000)  # the first one makes the root, or waits for another run


def has_a_unit(
    machine: Machine, name: str, service: str, *, needs: str = "RequiresMountsFor=/mnt/kv"
) -> None:
    """A service that the test starts by hand."""
    text = f"[Unit]\n{needs}\n[Service]\nType=oneshot\nRemainAfterExit=yes\n{service}\n"
    machine.write(f"/etc/systemd/system/{name}.service", text)


def test_20_a_unit_starts_on_secrets_that_nobody_has_read_yet(vault: VaultProcess, machine: Machine) -> None:
    """An environment file of a slow vault, and a folder of credentials in which one secret is disabled."""
    vault.set("db-env", "PASSWORD=battery staple\n")
    vault.set("off", "nobody may read this", enabled=False)
    in_fstab(machine)
    has_a_unit(
        machine,
        "environment",
        "EnvironmentFile=/mnt/kv/db-env\nExecStart=/bin/sh -c 'echo $PASSWORD >/run/env'",
    )
    credentials = "ls $CREDENTIALS_DIRECTORY; cat $CREDENTIALS_DIRECTORY/kv_db-password"
    has_a_unit(
        machine, "folder", f"LoadCredential=kv:/mnt/kv\nExecStart=/bin/sh -c '({credentials}) >/run/folder'"
    )
    machine.boot()
    vault.turn(latency=0.8)
    machine.run("systemctl", "start", "environment.service")
    assert machine.run("cat", "/run/env") == "battery staple\n"
    vault.turn(latency=0)
    machine.run("systemctl", "start", "folder.service")
    assert machine.run("cat", "/run/folder").split("\n") == [
        "kv_MyTestSecret",
        "kv_db-env",
        "kv_db-password",
        "battery staple",
    ]
    machine.poweroff()


def test_21_only_the_units_that_are_named_may_open_a_file(vault: VaultProcess, machine: Machine) -> None:
    as_a_unit(machine, 'audit = "journal"\n[[rules]]\nmatch = "db-*"\nunits = ["web*.service"]\n')
    for name in ("web1", "other"):
        read = "User=app\nExecStart=/bin/cat /mnt/kv/db-password"
        has_a_unit(machine, name, read, needs="Requires=keyvaultfs@web.service\nAfter=keyvaultfs@web.service")
    machine.boot()
    machine.run("systemctl", "start", "web1.service")
    assert not machine.can("systemctl", "start", "other.service")
    found = [
        json.loads(line)
        for line in machine.journal("--output=json", "KEYVAULTFS_PATH=/mnt/kv/db-password").splitlines()
    ]
    assert [(one["KEYVAULTFS_UNIT"], one["KEYVAULTFS_OUTCOME"]) for one in found] == [
        ("web1.service", "opened"),
        ("other.service", "EACCES"),
    ]
    assert all(one["OBJECT_UID"] == machine.run("id", "-u", "app").strip() for one in found)
    assert "battery staple" not in json.dumps(found)
    machine.poweroff()


WATCHER = """
[Unit]
Requires=keyvaultfs@web.service
After=keyvaultfs@web.service
[Path]
{what}
"""


def test_22_path_units_hear_of_a_secret_that_comes_goes_and_comes_again(
    vault: VaultProcess, machine: Machine
) -> None:
    as_a_unit(machine, "ttl = 2\nlist_ttl = 2\n")
    needs = "Requires=keyvaultfs@web.service\nAfter=keyvaultfs@web.service"
    often = f"[Unit]\n{needs}\nStartLimitIntervalSec=0\n[Service]\nType=oneshot\n"
    for how in ("Changed", "Modified"):
        unit = f"/etc/systemd/system/{how}"
        machine.write(f"{unit}.path", WATCHER.format(what=f"Path{how}=/mnt/kv/MyTestSecret"))
        read = f"ExecStart=/bin/sh -c 'cat /mnt/kv/MyTestSecret >/run/{how} || true'\n"
        machine.write(f"{unit}.service", often + read)
    for how, what in (("Exists", "new-one"), ("ExistsGlob", "new-*")):
        machine.write(f"/etc/systemd/system/{how}.path", WATCHER.format(what=f"Path{how}=/mnt/kv/{what}"))
        has_a_unit(machine, how, f"ExecStart=/bin/cp /mnt/kv/new-one /run/{how}", needs=needs)
    machine.boot()
    machine.run("systemctl", "start", "Changed.path", "Modified.path", "Exists.path", "ExistsGlob.path")

    def all_say(text: str, *units: str) -> bool:
        return all(machine.run("cat", f"/run/{unit}", check=False) == text for unit in units)

    for text in ("two", "three", "four"):
        vault.rotate("MyTestSecret", text)
        machine.wait_until(partial(all_say, text, "Changed", "Modified"), f"rotation to {text}")
    vault.delete("MyTestSecret", erase=True)
    machine.wait_until(lambda: not machine.can("cat", "/mnt/kv/MyTestSecret"), "the deletion")
    vault.set("MyTestSecret", "again")
    machine.wait_until(lambda: all_say("again", "Changed", "Modified"), "the secret's return")
    assert not machine.can("test", "-e", "/run/Exists")
    assert not machine.can("test", "-e", "/run/ExistsGlob")
    vault.set("new-one", "here")
    machine.wait_until(lambda: all_say("here", "Exists", "ExistsGlob"), "the new secret")
    machine.poweroff()
