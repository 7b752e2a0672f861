from __future__ import annotations

import socket
import ssl
from typing import Any

import pytest
import trio

from keyvaultfs.errors import Unavailable
from keyvaultfs.log import Causes
from keyvaultfs.metrics import Metrics, TransportMetrics
from keyvaultfs.settings.options import Settings
from keyvaultfs.transport.session import Transport
from keyvaultfs.transport.tls import tls_context
from keyvaultfs.worker.chain import Chain
from tests.support.vault import VaultProcess

TIMEOUT = 10.0


async def get(vault: VaultProcess, url: str, ca_file: str | None) -> int:
    transport = Transport(max_requests=2, context=tls_context(ca_file), metrics=TransportMetrics())
    try:
        with trio.fail_after(TIMEOUT):
            return (await transport.get(f"{url}/secrets?api-version=7.4", {}, probe=True)).status
    finally:
        transport.close()


async def test_a_certificate_of_the_authority_is_accepted_for_an_ip_address(vault: VaultProcess) -> None:
    assert await get(vault, vault.url, vault.ca_file) == 401


async def test_a_certificate_that_the_systems_store_does_not_know_is_refused(vault: VaultProcess) -> None:
    with pytest.raises(Unavailable) as caught:
        await get(vault, vault.url, None)
    assert caught.value.cause == "CertificateError"


async def test_ca_file_is_not_joined_by_the_systems_store(vault: VaultProcess) -> None:
    context = tls_context(vault.ca_file)
    authority = context.get_ca_certs()
    transport = Transport(max_requests=2, context=context, metrics=TransportMetrics())
    with trio.fail_after(TIMEOUT):
        await transport.get(f"{vault.url}/secrets?api-version=7.4", {}, probe=True)
    transport.close()
    assert context.get_ca_certs() == authority


async def test_a_certificate_of_another_host_is_refused(
    vault: VaultProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def resolve(host: str, *args: Any, **kwargs: Any) -> Any:
        return real("127.0.0.1" if host == "other.example" else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(Unavailable) as caught:
        await get(vault, vault.url.replace("127.0.0.1", "other.example"), vault.ca_file)
    assert caught.value.cause == "CertificateError"
    assert vault.requests() == []


async def test_ca_file_holds_for_the_vault_and_for_a_token_endpoint(
    vault: VaultProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts = []

    def transport(**given: Any) -> Transport:
        contexts.append(given["context"])
        return Transport(**given)

    monkeypatch.setattr("keyvaultfs.worker.chain.Transport", transport)
    settings = Settings(ca_file=vault.ca_file, resource=vault.resource)
    Chain.build(vault.url, settings, Metrics(), Causes(trio.current_time))
    authority = ssl.create_default_context(cafile=vault.ca_file).get_ca_certs()
    assert [context.get_ca_certs() for context in contexts] == [authority, authority]
