"""Azure Arc's agent names a file; only its own key files are read, and nothing is waited for."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trio

from keyvaultfs.errors import BadAnswer, UsageError
from keyvaultfs.identity import kinds
from keyvaultfs.identity.arc import ArcSource
from keyvaultfs.identity.token import Declined
from keyvaultfs.settings.options import BY_NAME, settings
from keyvaultfs.transport.answer import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from keyvaultfs.identity.token import AccessToken

RESOURCE = "https://vault.azure.net"
TOKEN = {"access_token": "ey.canary", "expires_in": "3600", "client_id": "An-Id"}


class Agent:
    """Answers the first request with `challenge`, and one that brings `key` with `body`."""

    def __init__(
        self, challenge: str | None, key: str = "the-key", body: Mapping[str, object] = TOKEN
    ) -> None:
        self.challenge = challenge
        self.key = key
        self.body = dict(body)
        self.asked: list[tuple[str, dict[str, str]]] = []

    async def get(self, url: str, headers: dict[str, str], **_: Any) -> Answer:
        self.asked.append((url, dict(headers)))
        if headers.get("Authorization") == f"Basic {self.key}":
            return Answer(200, {}, json.dumps(self.body).encode())
        return Answer(401, {} if self.challenge is None else {"www-authenticate": self.challenge}, b"")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "tokens"
    made.mkdir()
    (made / "1.key").write_text("the-key")
    return made


async def fetched(agent: Agent, folder: Path, **identity: str) -> AccessToken:
    source = ArcSource(agent, "http://localhost:40342", RESOURCE, identity, str(folder))  # type: ignore[arg-type]
    with trio.fail_after(10):
        return await source.fetch()


@pytest.mark.parametrize(
    "form", ["Basic realm={}", 'Basic realm="{}"', "basic  Realm = {}", " Basic realm={} "]
)
async def test_the_content_of_the_named_file_is_the_proof(folder: Path, form: str) -> None:
    agent = Agent(form.format(folder / "1.key"))
    token = await fetched(agent, folder, client_id="an-id")
    assert token.text.reveal() == b"ey.canary"
    (url, first), (again, second) = agent.asked
    assert url == again
    assert urlsplit(url)[:3] == ("http", "localhost:40342", "/metadata/identity/oauth2/token")
    wanted = {"api-version": ["2020-06-01"], "resource": [RESOURCE], "client_id": ["an-id"]}
    assert parse_qs(urlsplit(url).query) == wanted
    assert first == {"Metadata": "true"}
    assert second == {"Metadata": "true", "Authorization": "Basic the-key"}


async def test_a_folder_that_is_reached_by_a_link_is_the_same_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    await fetched(Agent(f"Basic realm={folder / '1.key'}"), tmp_path / "link")
    await fetched(Agent(f"Basic realm={tmp_path / 'link/1.key'}"), folder)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def _below(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"k")


REFUSED: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a link": ("x.key", lambda path: path.symlink_to(path.with_name("1.key"))),
    "a second name": ("x.key", lambda path: path.hardlink_to(path.with_name("1.key"))),
    "a FIFO": ("x.key", _fifo),
    "a socket": ("x.key", _socket),
    "a folder": ("x.key", lambda path: path.mkdir()),
    "one byte too large": ("x.key", lambda path: path.write_bytes(b"k" * 4097)),
    "huge, with holes": ("x.key", lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 1 << 40)),
    "empty": ("x.key", lambda path: path.touch()),
    "with a line break": ("x.key", lambda path: path.write_bytes(b"a\r\nX-Injected: 1")),
    "not ASCII": ("x.key", lambda path: path.write_bytes(b"\xff\xfe")),
    "another suffix": ("x.keys", lambda path: path.write_bytes(b"k")),
    "no suffix": ("key", lambda path: path.write_bytes(b"k")),
    "only a suffix": (".key", lambda path: path.write_bytes(b"k")),
    "outside": ("../x.key", lambda path: path.write_bytes(b"k")),
    "in a folder below": ("below/x.key", _below),
    "not there": ("x.key", lambda _: None),
}


@pytest.mark.parametrize(("name", "make"), REFUSED.values(), ids=REFUSED)
async def test_anything_else_is_refused_and_nothing_is_waited_for(
    folder: Path, name: str, make: Callable[[Path], object]
) -> None:
    make(folder / name)
    agent = Agent(f"Basic realm={folder / name}", key="k")
    with pytest.raises(Declined) as caught:
        await fetched(agent, folder)
    assert caught.value.cause == "Identity-ArcKeyRefused"
    assert "arc_tokens=" in caught.value.hint
    assert len(agent.asked) == 1, "nothing of it is sent"


async def test_a_file_of_4096_bytes_is_read(folder: Path) -> None:
    (folder / "1.key").write_bytes(b"k" * 4096)
    await fetched(Agent(f"Basic realm={folder / '1.key'}", key="k" * 4096), folder)


@pytest.mark.parametrize(
    "realm",
    [
        "1.key",
        "tokens/1.key",
        "/etc/shadow",
        "/etc/passwd.key",
        "/proc/self/environ",
        "//host/x.key",
        "/\0.key",
    ],
)
async def test_a_path_elsewhere_is_refused(folder: Path, realm: str) -> None:
    with pytest.raises(Declined):
        await fetched(Agent(f"Basic realm={realm}"), folder)


@pytest.mark.parametrize(
    "challenge",
    [None, "", "Basic", "Basic realm=", 'Basic realm=""', "Bearer realm=/x.key", "Basic realm=" + "a" * 9000],
)
async def test_without_its_challenge_it_is_not_the_agent(folder: Path, challenge: str | None) -> None:
    with pytest.raises(Declined, match="ArcNoChallenge"):
        await fetched(Agent(challenge), folder)


async def test_a_folder_that_we_may_not_enter_says_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no(*_args: object, **_kwargs: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "open", no)
    with pytest.raises(Declined, match="ArcKeyForbidden"):
        await fetched(Agent(f"Basic realm={folder / '1.key'}"), folder)


async def test_a_wrong_key_and_the_token_of_another_identity_are_no_tokens(folder: Path) -> None:
    challenge = f"Basic realm={folder / '1.key'}"
    with pytest.raises(Declined, match="Identity-401"):
        await fetched(Agent(challenge, key="another"), folder)
    with pytest.raises(Declined, match="OtherIdentity"):
        await fetched(Agent(challenge), folder, client_id="yet-another")
    with pytest.raises(BadAnswer):
        await fetched(Agent(challenge, body={"access_token": "x"}), folder)


# --- the table -----------------------------------------------------------------------------------------------


class Remembers:
    """A transport that notes where a first request goes."""

    def __init__(self) -> None:
        self.url = ""

    async def get(self, url: str, *_: object, **__: object) -> Answer:
        self.url = url
        return Answer(403, {}, b"")


@pytest.mark.parametrize(
    ("options", "begins"),
    [
        ({}, "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&"),
        ({"auth": "arc"}, "http://localhost:40342/metadata/identity/oauth2/token?api-version=2020-06-01&"),
        ({"auth": "arc", "imds_endpoint": "http://127.0.0.1:5"}, "http://127.0.0.1:5/metadata/"),
        ({"imds_endpoint": "http://127.0.0.1:5"}, "http://127.0.0.1:5/metadata/"),
    ],
)
async def test_each_kind_has_its_own_endpoint(options: dict[str, str], begins: str) -> None:
    found, wire = settings(options), Remembers()
    wanted = kinds.Wanted(RESOURCE, {}, found.imds_endpoint, found.arc_tokens, wire)  # type: ignore[arg-type]
    with pytest.raises(Declined):
        await kinds.source(found.auth, wanted).fetch()
    assert wire.url.startswith(begins)


def test_the_option_offers_what_the_table_has() -> None:
    assert BY_NAME["auth"].kind.offers == tuple(kinds.KINDS) == ("imds", "arc", "azure-identity")
    with pytest.raises(UsageError, match="imds, arc or azure-identity"):
        settings({"auth": "magic"})
