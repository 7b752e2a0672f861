"""What the embedded vault can be told to do, as its clients meet it."""

from __future__ import annotations

import base64
import email.utils
import json
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.asking import Client
from tests.support.vault import VaultProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

ONE, TWO = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
TENANT = "33333333-3333-3333-3333-333333333333"


@pytest.fixture(scope="module")
def running() -> Iterator[VaultProcess]:
    with VaultProcess() as started:
        started.set("pw", "x")
        yield started


@pytest.fixture
def vault(running: VaultProcess) -> Iterator[VaultProcess]:
    yield running
    running.clear_faults()
    running.turn(identities=None, clock_offset=0, tenant="72f988bf-86f1-41af-91ab-2d7cd011db47", arc=None)


@pytest.fixture
def client(vault: VaultProcess) -> Client:
    return Client(vault)


@pytest.mark.parametrize(
    ("deny", "inner", "words"),
    [
        ("policy", "AccessDenied", "does not have secrets get permission on key vault 'dev;location=westeurope'"),
        ("rbac", "ForbiddenByRbac", "Action: 'Microsoft.KeyVault/vaults/secrets/getSecret/action'\r\nResource: '"),
        ("firewall", "ForbiddenByFirewall", "Client address is not authorized and caller is not a trusted service."),
        ("connection", "ForbiddenByConnection", "Public network access is disabled and request is not from a tru"),
        ("obo", "ForbiddenByPolicy", "on-behalf-of"),
        ("disabled", "SecretDisabled", "Operation get is not allowed on a disabled secret."),
    ],
)  # fmt: skip
def test_each_refusal_has_the_words_of_key_vault(
    vault: VaultProcess, client: Client, deny: str, inner: str, words: str
) -> None:
    vault.fault(deny=deny, op="get")
    status, body = client.get("secrets/pw")
    assert (status, body["error"]["code"], body["error"]["innererror"]["code"]) == (403, "Forbidden", inner)
    assert words in body["error"]["message"]
    assert client.get("secrets")[0] == 200


def test_a_listing_can_be_refused_alone(vault: VaultProcess, client: Client) -> None:
    vault.fault(deny="rbac", op="list")
    status, body = client.get("secrets")
    assert status == 403
    assert "Action: 'Microsoft.KeyVault/vaults/secrets/readMetadata/action'" in body["error"]["message"]
    assert client.get("secrets/pw")[0] == 200


@pytest.mark.parametrize(
    ("identities", "words"),
    [
        ([], "Identity not found"),
        ([ONE, TWO], "Multiple user assigned identities exist, please specify the clientId / resourceId"),
    ],
)
def test_a_machine_without_one_identity_gets_no_token(
    vault: VaultProcess, client: Client, identities: list[str], words: str
) -> None:
    vault.turn(identities=identities)
    status, body = client.token_answer()
    assert (status, body["error"]) == (400, "invalid_request")
    assert body["error_description"].startswith(words)


def test_a_vault_of_another_tenant_names_both(vault: VaultProcess, client: Client) -> None:
    vault.turn(tenant=TENANT)
    status, body = client.get("secrets/pw")
    assert status == 401
    assert body["error"]["message"].startswith(
        f"AKV10032: Invalid issuer. Expected one of https://sts.windows.net/{TENANT}/,"
    )
    assert f'authorization="https://login.microsoftonline.com/{TENANT}"' in client.headers["WWW-Authenticate"]


@pytest.mark.parametrize("offset", [-7200, 7200])
def test_a_clock_that_differs_shows_in_the_date(vault: VaultProcess, client: Client, offset: int) -> None:
    vault.turn(clock_offset=offset)
    assert client.get("secrets/pw")[0] == 200
    (date,) = client.headers.get_all("Date", [])
    there = email.utils.parsedate_to_datetime(date).timestamp()
    assert abs(there - time.time() - offset) < 600


def test_a_token_names_its_machine(client: Client) -> None:
    payload = client.token_answer()[1]["access_token"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims["xms_mirid"].endswith("/virtualMachines/dev")
    assert {"oid", "appid", "tid", "exp"} <= claims.keys()


def test_attributes_may_be_of_any_kind_in_get_and_list(vault: VaultProcess, client: Client) -> None:
    odd = {"exp": 253402303861, "nbf": "soon", "created": None, "enabled": "yes"}
    vault.set("odd", "x", odd=odd)
    got = client.get("secrets/odd")[1]["attributes"]
    listed = {item["id"].rpartition("/")[2]: item["attributes"] for item in client.get("secrets")[1]["value"]}
    assert {key: got[key] for key in odd} == odd == {key: listed["odd"][key] for key in odd}
    assert listed["pw"]["enabled"] is True


@pytest.mark.parametrize("which", ["vault", "imds"])
def test_an_answer_may_begin_with_a_byte_order_mark(vault: VaultProcess, client: Client, which: str) -> None:
    assert client.get("secrets/pw")[0] == 200
    vault.fault(which=which, malformed="bom")
    url = f"{vault.imds}/metadata/identity/oauth2/token?api-version=2018-02-01&resource=x"
    body = client.raw("secrets/pw")[1] if which == "vault" else client.ask(url, Metadata="true")[1]
    assert body.startswith(b"\xef\xbb\xbf{")


@pytest.mark.parametrize("code", ["NotFound", "ResourceNotFound", "VaultNotFound"])
def test_a_404_need_not_be_about_a_secret(vault: VaultProcess, client: Client, code: str) -> None:
    vault.fault(status=404, code=code)
    status, body = client.get("secrets/pw")
    assert (status, body["error"]["code"]) == (404, code)


def test_a_403_need_not_say_why(vault: VaultProcess, client: Client) -> None:
    vault.fault(status=403)
    status, body = client.get("secrets/pw")
    assert (status, body["error"]["code"], "innererror" in body["error"]) == (403, "Forbidden", False)


def test_challenges_may_come_in_company(vault: VaultProcess, client: Client) -> None:
    vault.fault(
        reject="expired", headers={"WWW-Authenticate": 'Negotiate, PoP nonce="a", Bearer resource="b"'}
    )
    assert client.get("secrets/pw")[0] == 401
    assert client.headers["WWW-Authenticate"] == 'Negotiate, PoP nonce="a", Bearer resource="b"'


@pytest.mark.parametrize("which", ["vault", "imds"])
def test_any_framing_can_be_sent_and_any_amount_behind_it(
    vault: VaultProcess, client: Client, which: str
) -> None:
    head = "HTTP/1.1 200 OK\r\nContent-Length: 2097154\r\n\r\nþ:"
    vault.fault(which=which, op="any", raw=head, pad=2)
    url = vault.url if which == "vault" else vault.imds
    status, body = client.ask(url)
    assert (status, body) == (200, "þ:".encode("latin-1") + b"a" * (2 << 20))


def test_a_rule_that_cannot_be_sent_is_refused(vault: VaultProcess) -> None:
    with pytest.raises(ValueError, match="latin-1"):
        vault.fault(raw="€")


# --- Azure Arc ---------------------------------------------------------------------------------------------


def test_arc_gives_a_token_once_to_who_can_read_its_file(
    vault: VaultProcess, client: Client, tmp_path: Path
) -> None:
    vault.turn(arc=str(tmp_path))
    assert client.token_answer("2020-06-01")[0] == 401
    scheme, _, name = client.headers["WWW-Authenticate"].partition("=")
    key = Path(name)
    assert (scheme, key.parent, key.suffix) == ("Basic realm", tmp_path, ".key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o640
    proof = f"Basic {key.read_text()}"
    assert client.token_answer("2020-06-01", "Basic of-my-own")[0] == 401
    status, body = client.token_answer("2020-06-01", proof)
    assert (status, body["token_type"]) == (200, "Bearer")
    assert not key.exists()
    assert client.token_answer("2020-06-01", proof)[0] == 401


def test_arc_keeps_few_files_that_nobody_used(vault: VaultProcess, client: Client, tmp_path: Path) -> None:
    vault.turn(arc=str(tmp_path))
    for _ in range(40):
        client.token_answer("2020-06-01")
    assert len(list(tmp_path.iterdir())) == 32


def test_arc_says_when_it_cannot_make_a_file(vault: VaultProcess, client: Client, tmp_path: Path) -> None:
    vault.turn(arc=str(tmp_path / "missing"))
    status, body = client.token_answer("2020-06-01")
    assert (status, body["error"]) == (500, "internal_error")
