"""Reads a secret with Microsoft's clients as on a server with Azure Arc's agent: VAULT CA_FILE NAME."""

from __future__ import annotations

import sys

from azure.identity import ManagedIdentityCredential
from azure.keyvault.secrets import SecretClient


def main(vault: str, ca_file: str, name: str) -> None:
    credential = ManagedIdentityCredential()
    with credential, SecretClient(vault, credential, connection_verify=ca_file) as client:
        sys.stdout.write(str(client.get_secret(name).value))


if __name__ == "__main__":
    main(*sys.argv[1:])
