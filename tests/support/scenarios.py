"""What a program meets, told once: the same scenarios run on the handlers called directly and on a real mount.

A scenario that fails on the mount alone points at the kernel's caches, the keeper or the wire; one that fails on both,
at the handlers and what lies below them.
"""

from __future__ import annotations

import errno
import stat
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager

MOMENTS = 300
"""How many of a driver's moments something that has to come is waited for."""


@dataclass(frozen=True)
class Facts:
    """What stat(2) says: the size in bytes, the whole mode, the inode's number."""

    size: int
    mode: int
    inode: int


class OpenFile(Protocol):
    """A file that is open."""

    async def read(self) -> bytes:
        """All of it, from its beginning."""


class Driver(Protocol):
    """A vault, and the file system that shows it. Paths are relative to the mount point.

    What asks the file system raises OSError, with the errno that a program gets.
    """

    url: str

    async def put(self, name: str, value: str, **attributes: object) -> str:
        """Make a new version of a secret; returns its id."""

    async def change(self, name: str, **attributes: object) -> None:
        """Change attributes of its current version."""

    async def delete(self, name: str) -> None:
        """Take it out of the vault, so that the name is free again."""

    async def outage(self, *, begins: bool) -> None:
        """From now on the vault answers nobody; or it answers again."""

    async def refresh(self) -> None:
        """Have the file system forget what it knows."""

    async def moment(self) -> None:
        """Let a part of a second pass."""

    async def stat(self, path: str) -> Facts:
        """stat(2)."""

    async def read(self, path: str) -> bytes:
        """Open a file, read all of it, close it."""

    async def names(self, path: str = "") -> list[str]:
        """Names in a directory, sorted."""

    async def attribute(self, path: str, name: str) -> str:
        """getxattr(2) of ``user.keyvault.NAME``."""

    async def attributes(self, path: str) -> list[str]:
        """listxattr(2)."""

    def held(self, path: str) -> AbstractAsyncContextManager[OpenFile]:
        """Open a file, and close it in the end."""

    def writes(self, path: str) -> Mapping[str, Callable[[], Awaitable[object]]]:
        """Ways to write to a file that is there or beside it, by what they do."""


@dataclass(frozen=True)
class Scenario:
    """Steps, and the limits that the file system promises in them (mount options, in seconds)."""

    steps: Callable[[Driver], Awaitable[None]]
    limits: Mapping[str, float] = field(default_factory=dict)


SCENARIOS: dict[str, Scenario] = {}


def scenario(**limits: float) -> Callable[[Callable[[Driver], Awaitable[None]]], None]:
    """Put a function's steps into the table, by its name."""

    def add(steps: Callable[[Driver], Awaitable[None]]) -> None:
        SCENARIOS[steps.__name__] = Scenario(steps, limits)

    return add


@contextmanager
def fails_with(*codes: int) -> Iterator[None]:
    """What is done in it must fail, with one of these errnos."""
    try:
        yield
    except OSError as exc:
        found = exc.errno
    else:
        found = 0
    wanted = [errno.errorcode[code] for code in codes]
    assert found in codes, f"{errno.errorcode.get(found or 0, 'success')} in place of {wanted}"


async def comes(driver: Driver, what: Callable[[], Awaitable[object]], wanted: object) -> None:
    """Wait until something answers what is wanted; an errno is an answer too."""
    found: object = None
    for _ in range(MOMENTS):
        try:
            found = await what()
        except OSError as exc:
            found = exc.errno
        if found == wanted:
            return
        await driver.moment()
    raise AssertionError(f"{found!r} to the end in place of {wanted!r}")


@scenario()
async def a_file_reads_as_the_value_and_has_its_size(kv: Driver) -> None:
    for name, value in {"pw": "p@ssw0rd", "lines": "a\r\nb\n", "unicode": "Grüße, 世界", "empty": ""}.items():
        await kv.put(name, value)
        assert (await kv.stat(name)).size == len(value.encode())
        assert await kv.read(name) == value.encode()
    found = await kv.stat("pw")
    assert stat.filemode(found.mode) == "-r--------"


@scenario(negative_ttl=1)
async def an_unknown_name_is_enoent_until_there_is_such_a_secret(kv: Driver) -> None:
    with fails_with(errno.ENOENT):
        await kv.stat("later")
    with fails_with(errno.ENOENT):
        await kv.read("later")
    await kv.put("later", "here")
    await comes(kv, lambda: kv.read("later"), b"here")


@scenario()
async def a_name_that_no_secret_can_have_is_enoent_though_nobody_answers(kv: Driver) -> None:
    await kv.put("pw", "x")
    await kv.outage(begins=True)
    for name in (".git", "foo.txt", "under_score", "x" * 128, "ä"):
        with fails_with(errno.ENOENT):
            await kv.stat(name)
    # Where the vault has to be asked, it is another answer.
    with fails_with(errno.EIO, errno.ETIMEDOUT):
        await kv.stat("pw")


@scenario()
async def a_disabled_secret_is_there_and_cannot_be_opened(kv: Driver) -> None:
    await kv.put("off", "secret", enabled=False)
    assert (await kv.stat("off")).size == 0
    assert await kv.attribute("off", "state") == "refused"
    with fails_with(errno.EACCES):
        await kv.read("off")
    await kv.change("off", enabled=True)
    await kv.refresh()
    await comes(kv, lambda: kv.read("off"), b"secret")
    assert (await kv.stat("off")).size == len("secret")


@scenario()
async def another_spelling_is_the_same_file(kv: Driver) -> None:
    await kv.put("MyTestSecret", "x")
    inode = (await kv.stat("MyTestSecret")).inode
    assert (await kv.stat("mytestSECRET")).inode == inode
    assert await kv.read("mytestsecret") == b"x"
    await kv.refresh()
    await comes(kv, kv.names, ["MyTestSecret"])


@scenario()
async def a_file_that_is_open_keeps_its_bytes_in_a_rotation(kv: Driver) -> None:
    await kv.put("pw", "old")
    async with kv.held("pw") as before:
        inode = (await kv.stat("pw")).inode
        await kv.put("pw", "longer")
        assert await kv.read("pw") == b"old", "known for a ttl"
        await kv.refresh()
        await comes(kv, lambda: kv.read("pw"), b"longer")
        assert await before.read() == b"old"
        found = await kv.stat("pw")
        assert found.size == len("longer")
        assert found.inode != inode


@scenario(negative_ttl=1)
async def a_secret_that_is_deleted_is_gone_and_another_can_have_its_name(kv: Driver) -> None:
    await kv.put("pw", "first")
    assert await kv.read("pw") == b"first"
    async with kv.held("pw") as before:
        await kv.delete("pw")
        await kv.refresh()
        await comes(kv, lambda: kv.read("pw"), errno.ENOENT)
        await kv.put("pw", "another")
        await comes(kv, lambda: kv.read("pw"), b"another")
        assert (await kv.stat("pw")).size == len("another")
        assert await before.read() == b"first"


@scenario()
async def every_write_is_erofs(kv: Driver) -> None:
    await kv.put("pw", "x")
    assert await kv.read("pw") == b"x"
    for what, write in kv.writes("pw").items():
        try:
            await write()
        except OSError as exc:
            code = exc.errno
        else:
            code = 0
        assert code == errno.EROFS, what
    assert await kv.read("pw") == b"x"


@scenario()
async def a_listing_has_the_names_of_what_is_enabled(kv: Driver) -> None:
    for number in range(60):  # more than a page of the vault
        await kv.put(f"s{number:02}", "x")
    await kv.put("Mixed-Case", "x")
    await kv.put("off", "x", enabled=False)
    expected = ["Mixed-Case", *(f"s{number:02}" for number in range(60))]
    await kv.refresh()  # a mount reads the listing as it starts
    await comes(kv, kv.names, expected)
    await kv.change("off", enabled=True)
    await kv.change("s00", enabled=False)
    await kv.refresh()
    await comes(kv, kv.names, ["Mixed-Case", "off", *expected[2:]])


@scenario()
async def attributes_are_there_by_name_and_none_is_listed(kv: Driver) -> None:
    version = await kv.put("pw", "x", tags={"owner": "zoë"}, content_type="text/plain")
    wanted = {
        "version": version,
        "id": f"{kv.url}/secrets/pw/{version}",
        "enabled": "true",
        "content-type": "text/plain",
        "tags": '{"owner": "zoë"}',
        "state": "fresh",
    }
    assert {name: await kv.attribute("pw", name) for name in wanted} == wanted
    assert await kv.attributes("pw") == []
    with fails_with(errno.ENODATA):
        await kv.attribute("pw", "nothing")


@scenario()
async def the_control_folder_is_hidden_and_the_owners_alone(kv: Driver) -> None:
    await kv.put("pw", "x")
    await kv.refresh()
    await comes(kv, kv.names, ["pw"])
    assert await kv.names(".keyvaultfs") == ["metrics", "readers", "refresh", "status", "versions"]
    assert stat.filemode((await kv.stat(".keyvaultfs")).mode) == "dr-x------"
    assert stat.filemode((await kv.stat(".keyvaultfs/status")).mode) == "-r--------"
    assert (await kv.read(".keyvaultfs/metrics")).endswith(b"# EOF\n")
    with fails_with(errno.ENOENT):
        await kv.stat(".keyvaultfs/nothing")


@scenario(ttl=1, max_stale=3)
async def in_an_outage_what_is_known_is_served_for_a_while(kv: Driver) -> None:
    await kv.put("pw", "known")
    assert await kv.read("pw") == b"known"
    await kv.outage(begins=True)

    async def state() -> str:
        assert await kv.read("pw") == b"known"
        return await kv.attribute("pw", "state")

    await comes(kv, state, "stale")
    await comes(kv, lambda: kv.read("pw"), errno.EIO)
    await kv.outage(begins=False)
    await comes(kv, lambda: kv.read("pw"), b"known")
    await comes(kv, state, "fresh")


@scenario()
async def a_version_can_be_read_by_its_id(kv: Driver) -> None:
    first = await kv.put("pw", "one")
    second = await kv.put("pw", "second")
    folder = ".keyvaultfs/versions/pw"
    assert await kv.names(folder) == sorted([first, second])
    assert await kv.read(f"{folder}/{first}") == b"one"
    assert await kv.read(f"{folder}/{second}") == b"second"
    assert (await kv.stat(f"{folder}/{first}")).size == len("one")
    assert (await kv.stat(f"{folder}/{second}")).inode != (await kv.stat("pw")).inode
    for other in ("0" * 32, "latest", first.upper() + "0"):
        with fails_with(errno.ENOENT):
            await kv.stat(f"{folder}/{other}")
