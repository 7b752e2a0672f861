"""Which edition a file has, on a cache over a fake vault."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import trio

from keyvaultfs.cache.cache import Rotated
from keyvaultfs.cache.stored import FileKey
from keyvaultfs.errors import CannotMake, NotFound, Refused, Unavailable
from keyvaultfs.files.broken import Breakage
from keyvaultfs.files.changes import Changed, Changes
from keyvaultfs.files.editions import Editions
from keyvaultfs.files.made import Made
from keyvaultfs.files.names import Starred
from keyvaultfs.files.recipes import Formatted, OneSecret, Source, Value
from keyvaultfs.files.rules import AS_MOUNTED
from keyvaultfs.files.shown import Shown
from keyvaultfs.files.sources import Sources
from keyvaultfs.files.tree import File, Map, Tree
from keyvaultfs.log import Causes
from keyvaultfs.model import SecretName, Version
from tests.support.fake_vault import FakeVault
from tests.support.world import TTL, World, world

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from keyvaultfs.files.edition import Edition
    from keyvaultfs.files.recipes import Recipe

N = SecretName


def one(name: str, version: str | None = None, previous: int = 0, **kwargs: Any) -> OneSecret:
    source = Source(N(name), None if version is None else Version(version), previous)
    return OneSecret(source, **kwargs)


def pair(**fields: str | None) -> Formatted:
    return Formatted("json", tuple((name, Value(Source(N(name)), key)) for name, key in fields.items()))


@dataclass
class Mount:
    """A tree on a cache."""

    world: World
    tree: Tree
    editions: Editions
    changes: Changes
    events: list[tuple[str, str | None, str | None]] = field(default_factory=list)

    def file(self, path: str) -> File:
        found = self.tree.find(path)
        assert isinstance(found, File)
        return found

    async def get(self, path: str) -> Edition:
        return await self.editions.get(self.file(path))

    async def read(self, path: str) -> str:
        edition = await self.get(path)
        return (await self.editions.value(edition.file, edition.id)).reveal().decode()

    def rotated(self) -> list[set[str]]:
        """The paths of each set that was announced since the last look."""
        found: list[set[str]] = []
        while True:
            try:
                event = self.world.cache.rotated.receive_nowait()
            except trio.WouldBlock:
                return [one for one in found if one]
            found.append({changed.file.path for changed in self.changes.of(event)})


@asynccontextmanager
async def mounted(
    named: dict[str, Recipe] | None = None,
    maps: tuple[Map, ...] = (),
    *,
    decode: bool = False,
    flat: bool = True,
    tags: tuple[tuple[str, str], ...] = (),
    **kwargs: Any,
) -> AsyncGenerator[Mount]:
    async with world(**kwargs) as found:
        tree = Tree([(path, recipe, AS_MOUNTED) for path, recipe in (named or {}).items()], maps, flat=flat)
        broken = Breakage(Causes(trio.current_time))
        sources = Sources(found.cache, Shown(tags=tags))
        editions = Editions(found.cache, sources, Made(found.cache.store), broken, decode=decode)
        yield Mount(found, tree, editions, Changes(tree, editions))


async def test_a_plain_secrets_edition_is_its_version(autojump_clock: object) -> None:
    async with mounted() as mount:
        first = mount.world.vault.put("pw", "one")
        edition = await mount.get("pw")
        assert (edition.id, await mount.read("PW")) == (first, "one")
        now = trio.current_time()
        assert mount.editions.fresh(mount.file("pw"), now) is not None
        assert mount.editions.left(edition, now) == pytest.approx(TTL, abs=1)
        second = mount.world.vault.put("pw", "two")
        await trio.sleep(TTL + 1)
        assert (
            mount.editions.fresh(mount.file("pw"), trio.current_time()) is None
            or await mount.read("pw") == "two"
        )
        assert (await mount.get("pw")).id == second
        assert (await mount.editions.value(mount.file("pw"), first)).reveal() == b"one"


async def test_a_file_of_several_secrets_has_the_least_time_and_the_latest_dates(
    autojump_clock: object,
) -> None:
    async with mounted({"both": pair(a=None, b="user")}) as mount:
        vault = mount.world.vault
        vault.put("a", "x")
        await trio.sleep(100)
        vault.put("b", '{"user": "app"}')
        await mount.world.cache.get(N("a"))
        await trio.sleep(50)
        edition = await mount.get("both")
        assert await mount.read("both") == '{"a": "x", "b": "app"}\n' or '"app"' in await mount.read("both")
        later = vault.secrets["b"].properties
        assert (edition.created, edition.updated) == (later.created, later.updated)
        now = trio.current_time()
        assert mount.editions.left(edition, now) == pytest.approx(TTL - 50)
        assert mount.editions.fresh(mount.file("both"), now) is not None
        assert len(edition.id) == 32
        again = await mount.get("both")
        assert again.id == edition.id


async def test_what_is_missing_is_worse_than_a_refusal_and_that_than_silence(autojump_clock: object) -> None:
    named: dict[str, Recipe] = {
        "ab": pair(a=None, b=None),
        "bc": pair(b=None, c=None),
        "abc": pair(a=None, b=None, c=None),
    }
    async with mounted(named, timeout=2) as mount:
        vault = mount.world.vault
        vault.put("b", "x")
        vault.patch("b", enabled=False)
        vault.put("c", "x")
        vault.hanging.add("c")
        for path in ("ab", "abc"):
            with pytest.raises(NotFound):
                await mount.get(path)
        with pytest.raises(Refused):
            await mount.get("bc")
        vault.patch("b", enabled=True)
        await trio.sleep(20)
        with pytest.raises((Unavailable, trio.TooSlowError)):
            await mount.get("bc")


async def test_a_stale_secret_makes_the_file_stale(autojump_clock: object) -> None:
    async with mounted({"both": pair(a=None, b=None)}, timeout=2) as mount:
        mount.world.vault.put("a", "x")
        mount.world.vault.put("b", "y")
        fresh = await mount.get("both")
        mount.world.vault.down = True
        await trio.sleep(TTL + 5)
        stale = await mount.get("both")
        assert (fresh.stale, stale.stale, stale.id) == (False, True, fresh.id)
        assert await mount.read("both")
        peeked = mount.editions.peek(mount.file("both"))
        assert peeked is not None
        assert peeked.stale
        assert mount.editions.ready(mount.file("both"), trio.current_time()) is None


async def test_one_rotation_changes_each_file_once_and_asks_once(autojump_clock: object) -> None:
    named: dict[str, Recipe] = {f"dir/{number}": one("pw", newline=True) for number in range(20)}
    named |= {
        "pin": one("pw", "0" * 31 + "1"),
        "old": one("pw", previous=1),
        "both": pair(pw=None, other=None),
    }
    async with mounted(named, (Map(Starred("p*"), Starred("maps/*")),)) as mount:
        vault = mount.world.vault
        vault.put("pw", "one")
        vault.put("other", "x")
        for number in range(20):
            assert await mount.read(f"dir/{number}") == "one\n"
        assert (await mount.read("pin"), await mount.read("maps/W"), await mount.read("pw")) == (
            "one",
            "one",
            "one",
        )
        await mount.read("both")
        mount.rotated()
        before = vault.asked["get pw"]
        vault.put("pw", "two")
        await trio.sleep(TTL + 1)
        for number in range(20):
            assert await mount.read(f"dir/{number}") == "two\n"
        assert vault.asked["get pw"] - before == 1
        told = mount.rotated()
        wanted = {f"dir/{number}" for number in range(20)} | {"old", "both", "maps/w", "pw"}
        assert told == [wanted]
        assert (await mount.read("pin"), await mount.read("old")) == ("one", "one")


async def test_all_files_of_a_set_have_their_new_edition_when_the_first_is_told(
    autojump_clock: object,
) -> None:
    named: dict[str, Recipe] = {f"set/{number}": one("pw", newline=True) for number in range(5)}
    async with mounted(named) as mount:
        mount.world.vault.put("pw", "old")
        for number in range(5):
            await mount.read(f"set/{number}")
        mount.rotated()
        mount.world.vault.put("pw", "new")
        await trio.sleep(TTL + 1)
        await mount.world.cache.get(N("pw"))
        event = mount.world.cache.rotated.receive_nowait()
        for changed in mount.changes.of(event):
            assert changed.new is not None
            for number in range(5):
                file = mount.file(f"set/{number}")
                ready = mount.editions.ready(file, trio.current_time())
                assert ready is not None
                value = mount.editions.peek_value(file, ready.id)
                assert value is not None
                assert value.reveal() == b"new\n"


async def test_a_rotation_that_a_listing_shows_is_told_of_a_made_file_before_anybody_asks_for_it(
    autojump_clock: object,
) -> None:
    """Somebody may watch the file and read nothing: what can be made meanwhile is still the last edition."""
    async with mounted({"file": one("pw", newline=True)}) as mount:
        mount.world.vault.put("pw", "old")
        old = await mount.get("file")
        mount.rotated()
        event = Rotated(N("pw"), Version("1" * 32), None, updated=2_000_000_000)
        told = {changed.file.path: changed for changed in mount.changes.of(event)}
        assert told["file"] == Changed(old.file, old.id, None, updated=2_000_000_000)


async def test_a_rotation_that_cannot_be_made_keeps_the_last_good_edition_and_is_told_once(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with mounted(
        {"user": one("db", field="user"), "never": one("bad", field="user")}, max_stale=4000
    ) as mount:
        vault = mount.world.vault
        vault.put("db", '{"user": "app"}')
        vault.put("bad", "no JSON at all, s3cret")
        good = await mount.get("user")
        with pytest.raises(CannotMake):
            await mount.get("never")
        mount.rotated()
        vault.put("db", "now it is s3cret text")
        await trio.sleep(TTL + 1)
        for _ in range(3):
            shown = await mount.get("user")
            assert (shown.id, shown.stale) == (good.id, True)
            assert await mount.read("user") == "app"
        assert mount.editions.fresh(mount.file("user"), trio.current_time()) is not None
        assert "user" not in {path for paths in mount.rotated() for path in paths}
        rows = mount.editions.broken.snapshot()
        assert [row["path"] for row in rows] == ["never", "user"]
        assert caplog.text.count("file user cannot be made") == 1
        assert "s3cret" not in caplog.text + repr(rows)
        await trio.sleep(4000)
        with pytest.raises(CannotMake):
            await mount.get("user")
        vault.put("db", '{"user": "again"}')
        await trio.sleep(TTL + 1)
        assert await mount.read("user") == "again"
        assert [row["path"] for row in mount.editions.broken.snapshot()] == ["never"]
    for record in caplog.records:
        assert record.levelno < logging.ERROR


async def test_a_previous_version_is_that_by_created_and_missing_while_there_is_none(
    autojump_clock: object,
) -> None:
    async with mounted({"before": one("pw", previous=1), "earlier": one("pw", previous=2)}) as mount:
        vault = mount.world.vault
        vault.put("pw", "1")
        with pytest.raises(NotFound):
            await mount.get("before")
        await trio.sleep(TTL)
        vault.put("pw", "2")
        await trio.sleep(TTL)
        assert await mount.read("before") == "1"
        with pytest.raises(NotFound):
            await mount.get("earlier")
        vault.put("pw", "3")
        await trio.sleep(TTL)
        assert (await mount.read("before"), await mount.read("earlier")) == ("2", "1")
        vault.down = True
        await trio.sleep(TTL + 1)
        assert (await mount.get("before")).stale
        assert await mount.read("before") == "2"


async def test_a_pinned_version_needs_no_listing_and_is_checked_each_ttl(autojump_clock: object) -> None:
    first = "0" * 31 + "1"
    async with mounted({"pin": one("pw", first)}) as mount:
        vault = mount.world.vault
        vault.list_refused = True
        vault.put("pw", "1")
        vault.put("pw", "2")
        for _ in range(5):
            assert await mount.read("pin") == "1"
        assert {kind: vault.asked[kind] for kind in ("get", "version", "versions")} == {
            "get": 0,
            "version": 1,
            "versions": 0,
        }
        assert mount.editions.fresh(mount.file("pin"), trio.current_time()) is not None
        await trio.sleep(TTL)
        assert mount.editions.fresh(mount.file("pin"), trio.current_time()) is None
        vault.down = True
        assert (await mount.get("pin")).stale


async def test_only_secrets_with_all_tags_are_there(autojump_clock: object) -> None:
    async with mounted({"named": one("two")}, tags=(("env", "prod"), ("team", "a"))) as mount:
        vault = mount.world.vault
        for name, tags in (
            ("one", {"env": "prod", "team": "a", "x": "y"}),
            ("two", {"env": "prod"}),
            ("none", {}),
        ):
            vault.put(name, "x")
            vault.patch(name, tags=tags)
        assert await mount.read("one") == "x"
        for path in ("two", "none", "named"):
            if path != "two":
                with pytest.raises(NotFound):
                    await mount.get(path)


async def test_a_value_that_left_memory_is_made_again(autojump_clock: object) -> None:
    async with mounted({"f": one("pw", newline=True)}) as mount:
        version = mount.world.vault.put("pw", "x")
        edition = await mount.get("f")
        mount.world.cache.store.drop(FileKey("f"), Version(edition.id))
        mount.world.cache.store.drop(N("pw"), version)
        assert (await mount.editions.value(edition.file, edition.id)).reveal() == b"x\n"


async def test_a_tag_that_says_how_it_is_encoded_is_part_of_the_edition(autojump_clock: object) -> None:
    async with mounted(
        {"raw": one("pw", decode="raw"), "hex": one("hex", decode="hex")}, decode=True
    ) as mount:
        vault = mount.world.vault
        version = vault.put("pw", "aGFsbG8=")
        vault.put("hex", "xyz")
        raw = await mount.get("pw")
        vault.patch("pw", tags={"file-encoding": "base64"})
        await trio.sleep(TTL + 1)
        assert await mount.read("pw") == "hallo"
        assert raw.id == version != (await mount.get("pw")).id
        assert await mount.read("raw") == "aGFsbG8="
        assert (await mount.editions.value(mount.file("pw"), version)).reveal() == b"aGFsbG8="
        with pytest.raises(CannotMake):
            await mount.get("hex")


async def test_what_nobody_needs_any_more_is_let_go_and_a_refresh_takes_nothing_made(
    autojump_clock: object,
) -> None:
    async with mounted({"f": one("pw", newline=True)}) as mount:
        file, store = mount.file("f"), mount.world.cache.store
        mount.world.vault.put("pw", "1")
        old = await mount.get("f")
        mount.world.cache.forget()
        assert mount.editions.peek_value(file, old.id) is not None
        mount.world.vault.put("pw", "2")
        mount.editions.forget()
        await trio.sleep(TTL + 1)
        new = await mount.get("f")
        mount.editions.sweep([(file, old.id)])
        assert {stored.version for _, stored in store.made()} == {old.id, new.id}
        mount.editions.sweep([])
        assert {stored.version for _, stored in store.made()} == {new.id}


async def test_what_a_held_file_is_made_of_is_asked_for_after_a_take_over(autojump_clock: object) -> None:
    """A successor has the edition of its predecessor, and has looked nothing up: a watch waits for the next one."""
    async with mounted({"both": pair(a=None, b="user"), "old": one("c", version="0" * 32)}) as mount:
        held = [(mount.file("both"), "f" * 32), (mount.file("old"), "e" * 32)]
        assert {str(name) for name, _ in mount.editions.secrets(held)} == {"a", "b"}
        mount.world.vault.put("a", "x")
        mount.world.vault.put("b", '{"user": "app"}')
        edition = await mount.get("both")
        assert mount.editions.secrets([(edition.file, edition.id)]) == {
            (part.name, part.version) for part in edition.parts
        }


async def test_a_version_that_came_while_all_was_forgotten_is_told_with_its_edition(
    autojump_clock: object,
) -> None:
    """What was on its way during a refresh is no proof of freshness, but news all the same."""
    async with mounted({"f": one("pw", newline=True)}, vault=FakeVault(latency=2)) as mount:
        mount.world.vault.put("pw", "1")
        old = await mount.get("f")
        mount.rotated()
        mount.world.vault.put("pw", "2")
        mount.world.cache.forget()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.world.cache.get, N("pw"))
            await trio.sleep(1)
            mount.world.cache.forget()
            with trio.fail_after(30):
                event = await mount.world.cache.rotated.receive()
            (changed,) = (one for one in mount.changes.of(event) if one.file.path == "f")
            assert changed.new not in {None, old.id}
            nursery.cancel_scope.cancel()


async def test_the_first_get_of_a_secret_is_no_news_of_files_that_nobody_has_seen(
    autojump_clock: object,
) -> None:
    async with mounted({"both": pair(a=None, b=None)}) as mount:
        mount.world.vault.put("a", "x")
        mount.world.vault.put("b", "y")
        await mount.world.cache.get(N("a"))
        assert mount.rotated() == [{"a"}]
        await mount.get("both")
        assert mount.rotated() == [{"both", "b"}]
        mount.world.vault.put("a", "z")
        await trio.sleep(TTL + 1)
        await mount.get("both")
        assert mount.rotated() == [{"both", "a"}]
