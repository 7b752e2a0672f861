"""Microsoft's own clients work on the embedded vault unchanged, so that it stays honest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.identity import ManagedIdentityCredential
from azure.keyvault.secrets import SecretClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.vault import VaultProcess

CONFUSING = ("IDENTITY_ENDPOINT", "IDENTITY_HEADER", "IMDS_ENDPOINT", "MSI_ENDPOINT", "MSI_SECRET", "AZURE_CLIENT_ID",
             "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE", "IDENTITY_SERVER_THUMBPRINT")  # fmt: skip


@pytest.fixture
def client(vault: VaultProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[SecretClient]:
    for name in CONFUSING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", vault.imds)
    credential = ManagedIdentityCredential()
    with SecretClient(vault.url, credential, connection_verify=vault.ca_file) as made:
        yield made
    credential.close()


def test_set_and_get(client: SecretClient) -> None:
    made = client.set_secret("MyTestSecret", "p@ssw0rd!", content_type="text/plain", tags={"a": "b"})
    got = client.get_secret("MyTestSecret")
    assert (got.value, got.properties.version) == ("p@ssw0rd!", made.properties.version)
    assert (got.properties.content_type, got.properties.tags) == ("text/plain", {"a": "b"})
    assert got.properties.created_on is not None


def test_a_listing_of_many_pages_and_versions(client: SecretClient) -> None:
    for number in range(60):
        client.set_secret(f"s{number:02}", "x")
    second = client.set_secret("s00", "y")
    listed = sorted(str(item.name) for item in client.list_properties_of_secrets())
    assert listed == [f"s{number:02}" for number in range(60)]
    versions = {item.version for item in client.list_properties_of_secret_versions("s00")}
    assert len(versions) == 2
    assert second.properties.version in versions
    assert list(client.list_properties_of_secret_versions("unknown")) == []


def test_update_moves_attributes_and_keeps_the_version(client: SecretClient) -> None:
    made = client.set_secret("pw", "x")
    changed = client.update_secret_properties("pw", enabled=False, content_type="new")
    assert changed.version == made.properties.version
    with pytest.raises(HttpResponseError) as caught:
        client.get_secret("pw")
    assert caught.value.status_code == 403
    client.update_secret_properties("pw", enabled=True)
    assert client.get_secret("pw").value == "x"


def test_delete_recover_and_purge(client: SecretClient) -> None:
    made = client.set_secret("pw", "x")
    client.begin_delete_secret("pw").wait()
    with pytest.raises(ResourceNotFoundError):
        client.get_secret("pw")
    with pytest.raises(ResourceExistsError):
        client.set_secret("pw", "y")
    assert [item.name for item in client.list_deleted_secrets()] == ["pw"]
    client.begin_recover_deleted_secret("pw").wait()
    assert client.get_secret("pw").properties.version == made.properties.version
    client.begin_delete_secret("pw").wait()
    client.purge_deleted_secret("pw")
    assert client.set_secret("pw", "z").value == "z"


def test_backup_and_restore(client: SecretClient) -> None:
    made = client.set_secret("pw", "x")
    blob = client.backup_secret("pw")
    assert blob is not None
    client.begin_delete_secret("pw").wait()
    client.purge_deleted_secret("pw")
    assert client.restore_secret_backup(blob).version == made.properties.version
    assert client.get_secret("pw").value == "x"


def test_error_bodies_are_those_that_the_client_knows(client: SecretClient) -> None:
    with pytest.raises(ResourceNotFoundError) as caught:
        client.get_secret("unknown")
    assert caught.value.error is not None
    assert caught.value.error.code == "SecretNotFound"
    with pytest.raises(HttpResponseError) as too_large:
        client.set_secret("big", "x" * 25_601)
    assert too_large.value.status_code == 400
    with pytest.raises(HttpResponseError) as bad_name:
        client.set_secret("under_score", "x")
    assert bad_name.value.status_code == 400


def test_a_token_that_has_ended_is_replaced(client: SecretClient, vault: VaultProcess) -> None:
    client.set_secret("pw", "x")
    vault.revoke_tokens()
    with pytest.raises(ClientAuthenticationError):
        # The client asks its credential, which hands out the token that it has cached itself.
        client.get_secret("pw")


def test_an_identity_that_is_not_there_is_told(vault: VaultProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", vault.imds)
    vault.turn(identities=["11111111-1111-1111-1111-111111111111"])
    credential = ManagedIdentityCredential(client_id="22222222-2222-2222-2222-222222222222")
    client = SecretClient(vault.url, credential, connection_verify=vault.ca_file)
    with client, pytest.raises(ClientAuthenticationError):
        client.get_secret("pw")
    credential.close()
