"""What programs see of a rotation: the old version while they have it open, the new one next, and an event."""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.mount import run, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.inotify import Watch
    from tests.support.mount import Mount
    from tests.support.vault import VaultProcess

    Mounter = Callable[..., Mount]

TTL = "ttl=2"


@pytest.fixture
def bind(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Bind-mounts single files, as containers do."""
    targets: list[Path] = []

    def start(source: Path) -> Path:
        target = tmp_path / f"bound{len(targets)}"
        target.touch()
        run("mount", "--bind", source, target)
        targets.append(target)
        return target

    yield start
    for target in targets:
        subprocess.run(["umount", "--lazy", target], check=False, capture_output=True)


def drop_caches() -> None:
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("2")


def test_an_open_file_keeps_its_version_and_the_next_open_reads_the_new_one(
    vault: VaultProcess, mount: Mounter
) -> None:
    old, new = "o" * 20_000, "n" * 3
    vault.set("pw", old)
    kv = mount(TTL)
    with (kv / "pw").open() as reader:
        assert reader.read(10) == "o" * 10
        vault.set("pw", new)
        kv.wait_for("pw", new)
        assert reader.read() == "o" * 19_990
        assert os.fstat(reader.fileno()).st_nlink == 0
    assert (kv / "pw").stat().st_size == 3


def test_a_watch_fires_with_no_reader_in_sight(
    vault: VaultProcess, mount: Mounter, events: Callable[..., Watch]
) -> None:
    vault.set("pw", "old")
    kv = mount(TTL)
    one = events(kv / "pw", "delete_self", once=True)
    vault.set("pw", "new")
    wait_until(one.fired, "delete_self")
    assert (kv / "pw").read_text() == "new"


def test_a_watch_stays_silent_while_nothing_changes(
    vault: VaultProcess, mount: Mounter, events: Callable[..., Watch]
) -> None:
    vault.bulk([{"name": name, "value": "x"} for name in ("pw", "other")])
    kv = mount(TTL)
    one = events(kv / "pw", "delete_self", once=True)
    vault.reset_requests()
    wait_until(lambda: len(vault.requests("get", "pw")) + len(vault.requests("list")) > 2, "two checks")
    assert one.silent()


def test_a_watch_fires_after_an_ls(vault: VaultProcess, mount: Mounter, events: Callable[..., Watch]) -> None:
    vault.set("pw", "old")
    kv = mount(TTL, "list_ttl=1")
    one = events(kv / "pw", "delete_self", once=True)
    vault.set("pw", "new")
    run("ls", "-la", kv.where)
    wait_until(one.fired, "delete_self")


def test_a_watch_fires_after_the_kernel_dropped_its_caches(
    vault: VaultProcess, mount: Mounter, events: Callable[..., Watch]
) -> None:
    vault.set("pw", "old")
    kv = mount(TTL)
    one = events(kv / "pw", "delete_self", once=True)
    drop_caches()
    vault.set("pw", "new")
    wait_until(one.fired, "delete_self")


def test_a_watch_fires_with_dir_mode_0700_for_a_third_user(
    vault: VaultProcess, mount: Mounter, events: Callable[..., Watch]
) -> None:
    vault.set("pw", "old")
    kv = mount(TTL, "dir_mode=0700", "uid=4321")
    one = events(kv / "pw", "delete_self", once=True, uid=4321)
    drop_caches()
    vault.set("pw", "new")
    wait_until(one.fired, "delete_self")


def test_with_the_file_held_open_the_event_comes_after_the_close(
    vault: VaultProcess, mount: Mounter, events: Callable[..., Watch]
) -> None:
    vault.set("pw", "old")
    kv = mount(TTL)
    with (kv / "pw").open() as reader:
        one = events(kv / "pw", "delete_self", once=True)
        vault.set("pw", "new")
        kv.wait_for("pw", "new")
        assert one.silent()
        assert reader.read() == "old"
    wait_until(one.fired, "delete_self after the close")


def test_a_watch_fires_when_the_secret_is_deleted(
    vault: VaultProcess, mount: Mounter, events: Callable[..., Watch]
) -> None:
    vault.set("pw", "old")
    kv = mount(TTL)
    one = events(kv / "pw", "delete_self", once=True)
    vault.delete("pw")
    wait_until(one.fired, "delete_self")
    with pytest.raises(FileNotFoundError):
        (kv / "pw").read_text()


def test_a_watch_fires_where_listing_is_forbidden(
    vault: VaultProcess, mount: Mounter, events: Callable[..., Watch]
) -> None:
    vault.set("pw", "old")
    vault.fault(op="list", status=403, code="Forbidden", inner_code="ForbiddenByRbac")
    kv = mount(TTL)
    one = events(kv / "pw", "delete_self", once=True)
    vault.set("pw", "new")
    wait_until(one.fired, "delete_self")


def test_a_change_of_metadata_alone_is_shown_and_notifies_nobody(
    vault: VaultProcess, mount: Mounter, events: Callable[..., Watch]
) -> None:
    vault.set("pw", "value", created=1_700_000_000, updated=1_700_000_000)
    kv = mount(TTL)
    one = events(kv / "pw", "delete_self", once=True)
    vault.update("pw", tags={"owner": "me"}, updated=1_700_000_100)

    def seen() -> bool:
        assert (kv / "pw").read_text() == "value"
        return os.getxattr(kv / "pw", "user.keyvault.tags") == b'{"owner": "me"}'

    wait_until(seen, "the new tags")
    wait_until(lambda: (kv / "pw").stat().st_ctime == 1_700_000_100, "the new ctime")
    assert one.silent()


def test_a_bind_mount_sees_two_rotations_and_then_the_deletion(
    vault: VaultProcess, mount: Mounter, bind: Callable[[Path], Path]
) -> None:
    vault.set("pw", "first")
    kv = mount(TTL, "negative_ttl=1")
    bound = bind(kv / "pw")
    assert bound.read_text() == "first"
    for value in ("a much longer second value", "3rd"):
        vault.set("pw", value)
        wait_until(lambda value=value: bound.read_text() == value, "the bind mount to follow")  # type: ignore[misc]
        assert bound.stat().st_size == len(value)
        with bound.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
            assert view[:] == value.encode()
        assert (kv / "pw").read_text() == value
    vault.delete("pw")

    def gone() -> bool:
        try:
            bound.read_text()
        except FileNotFoundError:
            return True
        return False

    wait_until(gone, "ENOENT through the bind mount")


def test_a_bind_mount_shows_one_version_for_as_long_as_somebody_reads_it(
    vault: VaultProcess, mount: Mounter, bind: Callable[[Path], Path]
) -> None:
    vault.set("pw", "short")
    kv = mount(TTL)
    bound = bind(kv / "pw")
    with bound.open("rb") as reader:
        vault.set("pw", "quite a bit longer")
        kv.wait_for("pw", "quite a bit longer")
        with bound.open("rb") as second:
            size = os.fstat(second.fileno()).st_size
            assert len(second.read()) == size == 5
        assert reader.read() == b"short"
    wait_until(lambda: bound.read_bytes() == b"quite a bit longer", "the switch after the last close")
    assert bound.stat().st_size == 18


def test_a_disabled_secret_is_refused_through_a_bind_mount(
    vault: VaultProcess, mount: Mounter, bind: Callable[[Path], Path]
) -> None:
    vault.set("pw", "x")
    kv = mount(TTL)
    bound = bind(kv / "pw")
    vault.disable("pw")

    def refused() -> bool:
        with contextlib.suppress(PermissionError):
            bound.read_text()
            return False
        return True

    wait_until(refused, "EACCES through the bind mount")


def test_a_refused_identity_takes_effect_over_what_is_cached(vault: VaultProcess, mount: Mounter) -> None:
    vault.set("pw", "x")
    kv = mount(TTL)
    assert (kv / "pw").read_text() == "x"
    vault.fault(op="get", status=403, code="Forbidden", inner_code="ForbiddenByRbac")
    vault.update("pw", tags={"a": "b"})

    def refused() -> bool:
        try:
            (kv / "pw").read_text()
        except PermissionError:
            return True
        return False

    wait_until(refused, "EACCES")


def test_an_outage_serves_what_is_known_and_says_so_once(vault: VaultProcess, mount: Mounter) -> None:
    vault.set("pw", "known")
    kv = mount(TTL, "timeout=5")
    kv.wait_for("pw", "known")
    vault.outage("both")
    path = kv / "pw"

    def stale() -> bool:
        assert path.read_text() == "known"
        return os.getxattr(path, "user.keyvault.state") == b"stale"

    wait_until(stale, "the state stale")
    for _ in range(50):
        assert path.read_text() == "known"
    with pytest.raises(OSError, match=r"Input/output|timed out"):
        (kv / "unknown").read_text()
    kv.says("vault unreachable")  # a line of the log may come after the answer that it is about
    assert kv.log().count("vault unreachable") == 1
    assert float(os.getxattr(path, "user.keyvault.age")) >= 2
    assert kv.status()["cache"]["outage"] is True
    assert kv.status()["cache"]["stale"] == 1
    assert kv.metric("cache_stale_served") > 0
    vault.clear_faults()
    vault.set("pw", "fresh again")
    kv.wait_for("pw", "fresh again")
    kv.says("vault unreachable ended")
    assert kv.log().count("vault unreachable") == 2
