"""A client of the embedded vault that is none of ours: it asks in plain HTTP and shows what came."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from email.message import Message
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from tests.support.vault import VaultProcess


class Client:
    """Asks as any client of HTTP does, and remembers the last answer's headers."""

    def __init__(self, vault: VaultProcess) -> None:
        context = ssl.create_default_context(cafile=vault.ca_file)
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        self._vault = vault
        self.headers = Message()

    def ask(
        self, url: str, method: str = "GET", sent: bytes | None = None, **headers: str
    ) -> tuple[int, bytes]:
        request = urllib.request.Request(url, headers=headers, method=method, data=sent)
        try:
            with self._opener.open(request, timeout=30) as answer:
                self.headers = answer.headers
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                self.headers = error.headers
                return error.code, error.read()

    def token_answer(self, version: str = "2018-02-01", proof: str = "") -> tuple[int, dict[str, Any]]:
        url = f"{self._vault.imds}/metadata/identity/oauth2/token?api-version={version}"
        headers = {"Metadata": "true"} | ({"Authorization": proof} if proof else {})
        status, body = self.ask(f"{url}&resource={quote(self._vault.resource)}", "GET", None, **headers)
        return status, json.loads(body)

    def raw(self, path: str, method: str = "GET", sent: bytes | None = None) -> tuple[int, bytes]:
        token = self.token_answer()[1]["access_token"]
        url = f"{self._vault.url}/{path}{'&' if '?' in path else '?'}api-version=7.4"
        return self.ask(url, method, sent, Authorization=f"Bearer {token}")

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        return self.do("GET", path)

    def do(self, method: str, path: str, **body: object) -> tuple[int, dict[str, Any]]:
        status, raw = self.raw(path, method, json.dumps(body).encode() if body else None)
        return status, json.loads(raw or b"{}")
