"""Which identity a mount reads with."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from tests.support import mount as support

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.mount import Mount
    from tests.support.vault import VaultProcess

ONE = "11111111-1111-1111-1111-111111111111"


def test_a_mount_reads_by_way_of_azure_identity(
    vault: VaultProcess, mount: Callable[..., Mount], monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.set("pw", "x")
    env = support.environment() | {
        "AZURE_POD_IDENTITY_AUTHORITY_HOST": vault.imds,
        "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
    }
    monkeypatch.setattr(support, "environment", lambda _: env)
    assert (mount("auth=azure-identity") / "pw").read_text() == "x"


@pytest.mark.parametrize("option", ["object_id", "msi_res_id", "client_id"])
def test_a_user_assigned_identity_is_named_by_an_option(
    vault: VaultProcess, mount: Callable[..., Mount], option: str
) -> None:
    vault.set("pw", "x")
    assert (mount(f"{option}={ONE}") / "pw").read_text() == "x"


def test_an_identity_that_the_machine_has_not_reads_nothing(
    vault: VaultProcess, mount: Callable[..., Mount]
) -> None:
    vault.set("pw", "x")
    vault.turn(identities=[ONE])
    assert (mount(f"client_id={ONE}") / "pw").read_text() == "x"
    # Only the vault refuses a secret: of this one nothing is known, since there is no token to ask for it.
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        (mount(f"client_id={ONE.replace('1', '2')}") / "pw").read_text()


@pytest.mark.parametrize("more", [(), (f"client_id={ONE}",)], ids=["its own", "named"])
def test_a_mount_reads_by_way_of_azure_arcs_agent(
    vault: VaultProcess, mount: Callable[..., Mount], tmp_path: Path, more: tuple[str, ...]
) -> None:
    vault.set("pw", "x")
    vault.turn(arc=str(tmp_path))
    kv = mount("auth=arc", f"arc_tokens={tmp_path}", *more)
    assert (kv / "pw").read_text() == "x"
    assert [entry["status"] for entry in vault.requests(op="token")] == [401, 200]
    assert list(tmp_path.iterdir()) == []


def test_a_key_file_elsewhere_is_not_read(
    vault: VaultProcess, mount: Callable[..., Mount], tmp_path: Path
) -> None:
    vault.set("pw", "x")
    vault.turn(arc=str(tmp_path))
    kv = mount("auth=arc", "timeout=3")  # the agent's own folder is another
    with pytest.raises(OSError, match="Input/output"):
        (kv / "pw").read_text()
    kv.says("Identity-ArcKeyRefused")
    assert {entry["status"] for entry in vault.requests(op="token")} == {401}
