"""Read one secret with Microsoft's client in a fresh process: ``python -m benchmarks.sdk_read URL NAME``.

The environment says where the token endpoint is and whom to trust, as azure-identity and requests want it.
"""

from __future__ import annotations

import sys

from azure.identity import ManagedIdentityCredential
from azure.keyvault.secrets import SecretClient


def client(url: str) -> SecretClient:
    """A client for the embedded vault, whose name is in no known cloud."""
    return SecretClient(url, ManagedIdentityCredential(), verify_challenge_resource=False)


if __name__ == "__main__":
    print(client(sys.argv[1]).get_secret(sys.argv[2]).value, end="")
