"""Every misbehaviour and every setting of the embedded vault does what its description says."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import pytest

from keyvaultfs_devvault.faults import MALFORMED, REJECTIONS
from tests.support.asking import Client
from tests.support.vault import VaultProcess

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def running() -> Iterator[VaultProcess]:
    with VaultProcess() as started:
        yield started


USUAL = {"latency": 0.0, "delete_delay": 0.0, "retention": 90, "purge_protection": False, "page_size": 25,
         "token_lifetime": 86_400.0, "token_cache": True}  # fmt: skip


@pytest.fixture
def vault(running: VaultProcess) -> Iterator[VaultProcess]:
    running.set("pw", "x")
    yield running
    running.clear_faults()
    running.turn(**USUAL)
    running.clear_secrets()
    running.revoke_tokens()


@pytest.fixture
def client(vault: VaultProcess) -> Client:
    return Client(vault)


OPERATIONS: dict[str, tuple[str, str, dict[str, object]]] = {
    "get": ("GET", "secrets/pw", {}),
    "version": ("GET", "secrets/pw/" + "0" * 32, {}),
    "list": ("GET", "secrets", {}),
    "versions": ("GET", "secrets/pw/versions", {}),
    "set": ("PUT", "secrets/new", {"value": "x"}),
    "update": ("PATCH", "secrets/pw", {"tags": {}}),
    "backup": ("POST", "secrets/pw/backup", {}),
    "restore": ("POST", "secrets/restore", {"value": "x"}),
    "delete": ("DELETE", "secrets/pw", {}),
    "list_deleted": ("GET", "deletedsecrets", {}),
    "get_deleted": ("GET", "deletedsecrets/pw", {}),
    "recover": ("POST", "deletedsecrets/pw/recover", {}),
    "purge": ("DELETE", "deletedsecrets/pw", {}),
}


@pytest.mark.parametrize("op", sorted(OPERATIONS))
def test_a_rule_is_about_its_operation_alone(vault: VaultProcess, client: Client, op: str) -> None:
    vault.fault(op=op, status=503)
    for other, (method, path, body) in OPERATIONS.items():
        assert (client.do(method, path, **body)[0] == 503) == (other == op), other
    assert [rule["hits"] for rule in vault.faults()] == [1]


def test_the_newest_rule_holds_for_so_many_after_so_many(vault: VaultProcess, client: Client) -> None:
    vault.fault(op="get", name="P*", status=500)
    vault.fault(op="get", status=503, after=1, times=2)
    assert [client.get("secrets/pw")[0] for _ in range(4)] == [500, 503, 503, 500]
    vault.set("other", "x")
    assert client.get("secrets/other")[0] == 200


@pytest.mark.parametrize("when", ["latency", "delay"])
def test_an_answer_can_take_its_time(vault: VaultProcess, client: Client, when: str) -> None:
    vault.fault(op="get", **{when: 0.3})
    vault.reset_requests()
    assert client.get("secrets/pw")[0] == 200
    (entry,) = vault.requests(op="get")
    assert entry["end"] - entry["time"] >= 0.3


@pytest.mark.parametrize("kind", REJECTIONS)
def test_each_rejection_is_a_401_with_a_challenge(vault: VaultProcess, client: Client, kind: str) -> None:
    words = {"missing": "AKV10000", "audience": "AKV10022", "issuer": "AKV10032", "expired": "[TokenExpired]",
             "key": "AKV10046", "claims": "AKV10000"}  # fmt: skip
    vault.fault(reject=kind)
    status, body = client.get("secrets/pw")
    assert (status, body["error"]["code"]) == (401, "Unauthorized")
    assert body["error"]["message"].startswith(words[kind])
    assert client.headers["WWW-Authenticate"].startswith(
        'Bearer authorization="https://login.microsoftonline.com/'
    )
    assert ('claims="' in client.headers["WWW-Authenticate"]) == (kind == "claims")


@pytest.mark.parametrize("kind", MALFORMED)
def test_each_malformed_answer_is_no_json(vault: VaultProcess, client: Client, kind: str) -> None:
    vault.fault(malformed=kind)
    status, body = client.raw("secrets/pw")
    assert status == 200
    with contextlib.suppress(UnicodeDecodeError, json.JSONDecodeError):
        pytest.fail(f"it is JSON: {json.loads(body.decode())}")


def test_a_value_may_be_huge(vault: VaultProcess, client: Client) -> None:
    vault.fault(op="get", huge=2)
    assert len(client.raw("secrets/pw")[1]) > 2 << 20


def test_a_token_may_be_dead_and_its_answer_lie(vault: VaultProcess, client: Client) -> None:
    vault.fault(which="imds", lifetime=-10)
    assert client.get("secrets/pw")[0] == 401
    vault.fault(which="imds", claimed=99)
    assert client.token_answer()[1]["expires_in"] == "99"
    vault.clear_faults()
    vault.turn(token_lifetime=600, token_cache=False)
    one, other = client.token_answer()[1], client.token_answer()[1]
    assert one["access_token"] != other["access_token"]
    assert 590 <= int(one["expires_in"]) <= 600


def test_one_token_is_handed_out_until_it_ends(client: Client) -> None:
    assert client.token_answer()[1]["access_token"] == client.token_answer()[1]["access_token"]


def test_pages_may_be_small(vault: VaultProcess, client: Client) -> None:
    vault.made_up(5)
    vault.turn(page_size=2)
    status, body = client.get("secrets")
    assert (status, len(body["value"])) == (200, 2)
    assert body["nextLink"].startswith(vault.url)


def test_a_deletion_and_a_recovery_may_take_their_time(vault: VaultProcess, client: Client) -> None:
    vault.turn(delete_delay=600)
    assert client.do("DELETE", "secrets/pw")[0] == 200
    assert client.get("deletedsecrets/pw")[0] == 404
    assert (
        client.do("PUT", "secrets/pw", value="y")[1]["error"]["innererror"]["code"] == "ObjectIsBeingDeleted"
    )
    vault.turn(clock_offset=601)
    assert client.get("deletedsecrets/pw")[0] == 200
    assert client.do("POST", "deletedsecrets/pw/recover")[0] == 200
    assert client.get("secrets/pw")[0] == 404
    vault.turn(clock_offset=1202)
    assert client.get("secrets/pw")[0] == 200


def test_what_is_deleted_is_kept_for_so_many_days_and_may_be_protected(
    vault: VaultProcess, client: Client
) -> None:
    vault.turn(retention=7, purge_protection=True)
    gone = client.do("DELETE", "secrets/pw")[1]
    assert gone["scheduledPurgeDate"] - gone["deletedDate"] == 7 * 86_400
    assert (gone["attributes"]["recoverableDays"], gone["attributes"]["recoveryLevel"]) == (
        7,
        "CustomizedRecoverable",
    )
    status, body = client.do("DELETE", "deletedsecrets/pw")
    assert (status, body["error"]["code"]) == (403, "Forbidden")
    vault.turn(purge_protection=False)
    assert client.do("DELETE", "deletedsecrets/pw")[0] == 204


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"colour": 1}, "unknown in a rule: colour"),
        ({"deny": "x"}, "deny is one of policy, rbac"),
        ({"status": "x"}, "status is a number"),
        ({"op": [1]}, "op is a word"),
        ({"body_base64": "!"}, "body_base64 is not base64"),
    ],
)
def test_a_rule_that_is_none_is_told(vault: VaultProcess, rule: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        vault.fault(**rule)
    with pytest.raises(ValueError, match="no such knob: colour"):
        vault.turn(colour=1)
