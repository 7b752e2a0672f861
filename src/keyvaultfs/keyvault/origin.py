"""A vault -> its https origin and whom tokens for it are for; and whether a URL is still that vault's."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import urlsplit

from keyvaultfs.errors import UsageError

CLOUDS = ("vault.azure.net", "vault.azure.cn", "vault.usgovcloudapi.net")
"""DNS suffixes; a token's resource is ``https://`` and the suffix (PROTOCOL §1)."""

_VAULT_NAME = re.compile("[0-9A-Za-z-]{3,24}")
_MANAGED_HSM = ("managedhsm.azure.net", "managedhsm.azure.cn", "managedhsm.usgovcloudapi.net")
_PRIVATE_ALIAS = ".privatelink.vaultcore.azure.net"
_PORTS = {"https": 443, "http": 80}


class Origin(NamedTuple):
    """Where a vault is.

    Attributes:
        base_url: scheme, host and port; no final slash.
        resource: whom tokens are for.
        exact: a challenge must name `resource` itself, since the user did.
    """

    scheme: str
    host: str
    port: int
    resource: str
    exact: bool

    @classmethod
    def parse(cls, vault: str, *, allow_http_loopback: bool = False, resource: str | None = None) -> Origin:
        """From a vault's name or URL.

        Raises:
            UsageError: it is neither, or not one that can be mounted.
        """
        if "://" not in vault and "/" not in vault:
            if "." in vault:
                return cls.parse(
                    f"https://{vault}", allow_http_loopback=allow_http_loopback, resource=resource
                )
            if not _VAULT_NAME.fullmatch(vault):
                raise UsageError(
                    f"{vault!r} is no vault name: 3 to 24 letters, digits and '-'; or give its https:// URL"
                )
            return cls(
                "https",
                f"{vault.lower()}.{CLOUDS[0]}",
                443,
                resource or f"https://{CLOUDS[0]}",
                bool(resource),
            )
        scheme, host, port = _parts(vault)
        if scheme == "http" and not (allow_http_loopback and _loopback(host)):
            raise UsageError(
                f"{vault}: a token would go in clear text; use https:// (or allow_http_loopback on loopback)"
            )
        if host.endswith(_PRIVATE_ALIAS):
            name = host.removesuffix(_PRIVATE_ALIAS)
            raise UsageError(
                f"{vault}: use the vault's public name, https://{name}.{CLOUDS[0]}; DNS leads it to the link"
            )
        if host.endswith(_MANAGED_HSM):
            raise UsageError(
                f"{vault} is a Managed HSM, which holds keys only: there are no secrets to mount"
            )
        cloud = next((suffix for suffix in CLOUDS if host.endswith("." + suffix)), None)
        if resource is None and cloud is None:
            raise UsageError(
                f"{vault} is in no known cloud: say with the option resource= whom tokens are for"
                f" (known: {', '.join(CLOUDS)})"
            )
        return cls(scheme, host, port, resource or f"https://{cloud}", bool(resource))

    @property
    def base_url(self) -> str:
        """Scheme, host and port as URLs of requests have them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS[self.scheme] else f":{self.port}")

    @property
    def vault(self) -> str:
        """The vault's name, or "" where its host is an address."""
        first = self.host.partition(".")[0]
        return first if _VAULT_NAME.fullmatch(first) and not first.isdigit() else ""

    def contains(self, url: str) -> bool:
        """Whether a URL has this very origin; ``:443`` is the same as none on https."""
        try:
            parts = urlsplit(url)
            port = parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError:
            return False
        plain = parts.username is None and parts.password is None and url.isascii() and url.isprintable()
        return (
            plain
            and "\\" not in url
            and (parts.scheme, parts.hostname, port) == (self.scheme, self.host, self.port)
        )


def _parts(vault: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(vault)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UsageError(f"{vault!r} is no URL") from None
    if parts.scheme not in _PORTS or not host or not re.fullmatch(r"[0-9a-z.:_-]+", host):
        raise UsageError(f"{vault!r} is neither a vault's name nor an https:// URL")
    if parts.path not in {"", "/"} or parts.query or parts.fragment or parts.username is not None:
        raise UsageError(
            f"{vault!r}: the vault's URL alone, such as {parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        )
    return parts.scheme, host, port or _PORTS[parts.scheme]


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
