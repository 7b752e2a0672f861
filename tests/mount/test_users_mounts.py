"""What a user mounts by fusermount3, without root: rotations are renames there too, and nothing can be written."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.mount.test_packages_scripts import AS_USER, Namespace, namespace
from tests.support.mount import KEYVAULTFS, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.vault import VaultProcess

__all__ = ["namespace"]

# Each way to write, and the errno of it, a line each; what succeeds says so.
WRITES = """
import errno, os
def say(what, *args):
    try:
        what(*args)
        print(what.__name__, "succeeded")
    except OSError as exc:
        print(what.__name__, errno.errorcode[exc.errno])
for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
    say(os.open, "pw", flags)
say(os.truncate, "pw", 0)
say(os.chmod, "pw", 0o600)
say(os.utime, "pw")
say(os.unlink, "pw")
say(os.rename, "pw", "other")
say(os.rename, ".0123456789abcdef", "pw")
say(os.open, "new", os.O_CREAT | os.O_WRONLY)
say(os.mkdir, "folder")
say(os.symlink, "pw", "link")
say(os.link, "pw", "link")
say(os.setxattr, "pw", "user.x", b"x")
"""


class UsersMount:
    """Of user 65534, in a namespace of its own."""

    def __init__(self, namespace: Namespace, vault: VaultProcess, *options: str) -> None:
        self.namespace = namespace
        self.where = namespace.folder / "home/kv"
        self.where.mkdir()
        os.chown(self.where, 65534, 65534)
        text = vault.mount_options("ttl=1", *options)
        namespace.run(*AS_USER, *KEYVAULTFS, "mount", vault.url, self.where, "-o", text)

    def run(self, *command: object) -> str:
        """A program of the user's."""
        return self.namespace.run(*AS_USER, *command)

    def read(self, name: str) -> str:
        """A file's text; a rotation can hold nobody up."""
        return self.run("cat", self.where / name)

    def status(self, name: str) -> str:
        """A fact of its status."""
        return self.read(".keyvaultfs/status").partition(f'"{name}": ')[2].partition(",")[0]

    def watch(self, path: Path, events: str) -> subprocess.Popen[str]:
        """``inotifywait`` for three events of a folder or all of a file's, as the user."""
        command = ["inotifywait", "-m", "--format", "%e %f", "-e", events, path]
        # The program says on stderr that it is ready, and `start` waits for the first line of all.
        return self.namespace.start(*AS_USER, "sh", "-c", 'exec "$@" 2>&1', "sh", *command)


def lines(watch: subprocess.Popen[str], count: int) -> list[str]:
    """What a watch says next; in the first line it says that its watches are established."""
    assert watch.stdout is not None
    found: list[str] = []
    while len(found) < count:
        line = watch.stdout.readline().strip()
        assert line, found
        if line != "Watches established.":
            found.append(line)
    return found


@pytest.mark.parametrize("options", [("mode=0400",), ("mode=0600", "allow_other")])
def test_a_users_mount_tells_of_rotations_and_ends_with_its_unmount(
    vault: VaultProcess, namespace: Namespace, options: tuple[str, ...]
) -> None:
    vault.set("pw", "0")
    kv = UsersMount(namespace, vault, *options)
    assert kv.read("pw") == "0"
    folder = kv.watch(kv.where, "moved_to,delete,create")
    for number in ("1", "2"):
        file = kv.watch(kv.where / "pw", "attrib,delete_self")
        vault.set("pw", number)
        assert lines(folder, 1) == ["MOVED_TO pw"]
        assert lines(file, 2) == ["ATTRIB", "DELETE_SELF"]
        assert kv.read("pw") == number
    vault.set("another", "x")
    vault.delete("pw")
    assert sorted(lines(folder, 2)) == ["DELETE pw", "MOVED_TO another"]
    for watch in (folder, file):
        assert watch.poll() is None
        namespace.end(watch)
    processes = [kv.status("keeper"), kv.status("worker")]
    kv.run("fusermount3", "-u", kv.where)
    # The namespace's first process is sleep(1), which reaps nobody.
    state = ("ps", "-o", "state=", "-p", ",".join([*processes, "1"]))
    wait_until(lambda: [one for one in namespace.run(*state).split() if one != "Z"] == ["S"], "their end")
    assert namespace.mounts() == set()


@pytest.mark.parametrize(("mode", "refused"), [("0400", "EACCES"), ("0600", "EROFS")])
def test_nothing_in_a_users_mount_can_be_written_by_its_owner(
    vault: VaultProcess, namespace: Namespace, mode: str, refused: str
) -> None:
    """The mount itself is not read-only, since the rename of a rotation goes by it."""
    vault.set("pw", "1")
    kv = UsersMount(namespace, vault, f"mode={mode}")
    assert kv.read("pw") == "1"
    found = kv.run(
        "sh", "-c", 'cd "$1"; exec "$2" -c "$3"', "sh", kv.where, sys.executable, WRITES
    ).splitlines()
    assert found[:5] == [f"open {refused}"] * 4 + [f"truncate {refused}"]
    assert {line.split()[1] for line in found[5:]} <= {"EROFS", "ENOENT", "EACCES", "EPERM", "ENOTSUP"}, found
    assert len(found) == 15
    assert kv.read("pw") == "1"
    kv.run("fusermount3", "-u", kv.where)
