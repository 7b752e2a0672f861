"""Answers as the world gives them: what is odd beside a value takes nothing away, and only the vault's words do."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.mount import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.mount import Mount
    from tests.support.vault import VaultProcess

    Mounter = Callable[..., Mount]

MARK = b"\xef\xbb\xbf"
PAST_ALL_YEARS = 253402303861


def error(code: str, inner: str | None = None) -> dict[str, Any]:
    return {"error": {"code": code, "message": "m"} | ({"innererror": {"code": inner}} if inner else {})}


def test_a_date_past_all_years_hides_no_secret(vault: VaultProcess, mount: Mounter) -> None:
    vault.set("far", "x", exp=PAST_ALL_YEARS)
    vault.set("near", "y")
    vault.fault(op="list", merge={"extra": {"nested": [None]}})
    kv = mount()
    assert sorted(os.listdir(kv.where)) == ["far", "near"]
    assert (kv / "far").read_text() == "x"
    assert (kv / "near").read_text() == "y"
    with pytest.raises(OSError, match="No data") as caught:
        os.getxattr(kv / "far", "user.keyvault.expires")
    assert caught.value.errno == errno.ENODATA


@pytest.mark.parametrize(
    "odd",
    [{"attributes": "x"}, {"tags": [1], "contentType": 5, "managed": "no", "kid": {}}, {"tags": {"a": None}}],
)
def test_odd_fields_beside_a_value_are_left_out(
    vault: VaultProcess, mount: Mounter, odd: dict[str, Any]
) -> None:
    vault.set("pw", "x", tags={"file-encoding": "utf-8"})
    vault.fault(op="get", merge=odd)
    assert (mount() / "pw").read_text() == "x"


def test_a_byte_order_mark_is_no_part_of_an_answer(vault: VaultProcess, mount: Mounter) -> None:
    version = vault.set("pw", "x")
    row = {"id": f"{vault.url}/secrets/pw"}
    vault.fault(op="list", body=MARK + json.dumps({"value": [row], "nextLink": None}).encode())
    vault.fault(
        op="get", body=MARK + json.dumps(row | {"id": f"{row['id']}/{version}", "value": "x"}).encode()
    )
    kv = mount()
    assert os.listdir(kv.where) == ["pw"]
    assert (kv / "pw").read_text() == "x"


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (404, error("NotFound")),
        (404, error("ResourceNotFound")),
        (404, error("VaultNotFound")),
        (403, error("Forbidden")),
        (403, error("AuthorizationFailed", "AccessDenied")),
    ],
    ids=lambda part: str(part),
)
def test_what_is_not_the_vaults_word_takes_no_secret_away(
    vault: VaultProcess, mount: Mounter, status: int, said: dict[str, Any]
) -> None:
    vault.set("known", "x")
    vault.set("unknown", "y")
    kv = mount("ttl=1")
    assert (kv / "known").read_text() == "x"
    with (kv / "known").open() as held:
        inode = os.fstat(held.fileno()).st_ino
        vault.fault(op=["get", "list", "version"], status=status, json=said)
        vault.reset_requests()
        wait_until(lambda: any(one["status"] == status for one in vault.requests()), "the odd answer")
        for _ in range(3):
            assert (kv / "known").read_text() == "x"
            assert (kv / "known").stat().st_ino == inode
        assert os.fstat(held.fileno()).st_nlink == 1
    with pytest.raises(OSError, match="Input/output") as caught:
        (kv / "unknown").read_text()
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize(
    "challenge",
    [
        "Negotiate, {ours}",
        'PoP nonce="a, b", {ours}',
        "Bearer, {ours}",
        'Bearer error="insufficient_claims", claims="e30="',
    ],
)
def test_a_token_that_the_vault_no_longer_takes_is_renewed_once_whatever_stands_beside_the_challenge(
    vault: VaultProcess, mount: Mounter, challenge: str
) -> None:
    vault.set("pw", "x")
    ours = f'Bearer authorization="https://login.windows.net/x", resource="{vault.resource}"'
    kv = mount()
    wait_until(lambda: kv.status()["token"]["state"] == "valid", "a token")
    before = len(vault.requests("token"))
    vault.fault(op="get", status=401, headers={"www-authenticate": challenge.format(ours=ours)}, times=1)
    assert (kv / "pw").read_text() == "x"
    assert len(vault.requests("token")) == before + 1


@pytest.mark.parametrize(
    "lines",
    [
        "{ours}\r\nWWW-Authenticate: NTLM",
        "Negotiate\r\nwww-authenticate: {ours}\r\nWWW-Authenticate: Basic realm=x",
    ],
)
def test_challenges_on_lines_of_their_own_are_read_all(
    vault: VaultProcess, mount: Mounter, lines: str
) -> None:
    vault.set("pw", "x")
    ours = f'Bearer authorization="https://login.windows.net/x", resource="{vault.resource}"'
    kv = mount()
    head = f"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {lines.format(ours=ours)}\r\nContent-Length: 2\r\n\r\n{{}}"
    vault.fault(op="get", raw=head, times=1)
    assert (kv / "pw").read_text() == "x"


def test_a_refusal_of_one_secret_names_it_once(vault: VaultProcess, mount: Mounter) -> None:
    vault.bulk([{"name": name, "value": "x"} for name in ("open", "closed")])
    vault.fault(op="get", name="closed", deny="rbac")
    kv = mount("negative_ttl=0")
    for _ in range(3):
        assert (kv / "open").read_text() == "x"
        with pytest.raises(PermissionError):
            (kv / "closed").read_text()
    kv.says("vault refuses closed error=ForbiddenByRbac")
    assert kv.log().count("vault refuses") == 1
    assert any("az role assignment create" in one["cure"] for one in kv.status()["problems"])
    vault.clear_faults()
    kv.wait_for("closed", "x")
    kv.says("vault refuses closed ended")
