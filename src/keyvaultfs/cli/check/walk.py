"""The walk from the token endpoint to a secret's value, as the worker goes it. Goes on where that makes sense."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import trio

from keyvaultfs.causes import Severity
from keyvaultfs.cli.check import wires
from keyvaultfs.cli.check.wires import Trouble
from keyvaultfs.errors import KeyVaultFSError, Refused
from keyvaultfs.files.shown import Shown
from keyvaultfs.identity import claims, kinds

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Sequence

    from keyvaultfs.cli.check.report import Report
    from keyvaultfs.identity.token import AccessToken
    from keyvaultfs.model import ListItem, Properties, SecretName, Version
    from keyvaultfs.settings.options import Settings
    from keyvaultfs.worker.chain import Chain

    Wanted = tuple[SecretName, Version | None]

IDENTITY, VAULT, PERMISSIONS = "identity", "vault", "permissions"
_LONGEST_STEP = 5.0
_CLOCKS_DIFFER = 300.0
"""Seconds: tokens are valid from some minutes before they are made."""

_DEAD_ENDS = {
    "endpoint": {
        "Prohibited": "EndpointProhibited",
        "Refused": "EndpointRefused",
        "Silent": "TokenTimeout",
        "NoSuchName": "EndpointNoName",
        "NameServerSilent": "EndpointNoName",
    },
    "vault": {
        "Prohibited": "VaultProhibited",
        "Refused": "VaultRefused",
        "Silent": "VaultSilent",
    },
    "proxy": {
        "Prohibited": "ProxyOutOfReach",
        "Refused": "ProxyOutOfReach",
        "Silent": "ProxyOutOfReach",
        "NoSuchName": "ProxyOutOfReach",
        "NameServerSilent": "NameServerSilent",
    },
}
"""What the same trouble means for each of those who are connected to."""


@dataclass(slots=True)
class Walk:
    """One walk.

    Args:
        names: secrets to try, each the current version or a named one; with none the first that the listing shows.
        context: verifies the vault's certificate; made while `ca_file` can be read.
    """

    chain: Chain
    settings: Settings
    report: Report
    names: Sequence[Wanted]
    context: ssl.SSLContext

    async def run(self) -> None:
        """All steps, each of which has a bound."""
        token = await self._identity()
        reachable = self._way() and await self._challenge(token)
        if token is None or not reachable:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.chain.run)
            await self._permissions()
            nursery.cancel_scope.cancel()

    @property
    def _seconds(self) -> float:
        return min(self.settings.timeout, _LONGEST_STEP)

    async def _identity(self) -> AccessToken | None:
        kind = kinds.KINDS[self.settings.auth]
        endpoint = self.settings.imds_endpoint or kind.endpoint
        if endpoint and not self._endpoint(endpoint):
            return None
        begin = trio.current_time()
        try:
            with trio.fail_after(self._seconds):
                token = await self.chain.token.source.fetch()
        except (KeyVaultFSError, trio.TooSlowError) as exc:
            code = exc if isinstance(exc, KeyVaultFSError) else KeyVaultFSError("TokenTimeout")
            self.report.failed(IDENTITY, "token", code, as_bad=Severity.FAIL)
            return None
        took = 1000 * (trio.current_time() - begin)
        self.report.ok(IDENTITY, "token", f"{kind.phrase} gave one in {took:.0f} ms, good for {_life(token)}")
        self._whose(token)
        return token

    def _endpoint(self, endpoint: str) -> bool:
        parts = urlsplit(endpoint)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        self.report.facts |= {"endpoint": host}
        what = "token endpoint"
        try:
            found = wires.addresses(host, port, self._seconds)
            connection, _, took = wires.connect(found, port, self._seconds)
        except Trouble as exc:
            self.report.bad(IDENTITY, what, _DEAD_ENDS["endpoint"][exc.code], exc.seen)
            return False
        connection.close()
        self.report.ok(IDENTITY, what, f"{host} port {port} takes connections, in {took:.0f} ms")
        return True

    def _whose(self, token: AccessToken) -> None:
        found = claims.of(token)
        self.report.facts |= {"oid": found.oid, "tid": found.tid}
        said = [
            f"{name} {value}"
            for name in ("oid", "appid", "tid", "xms_mirid")
            if (value := getattr(found, name))
        ]
        if said:
            self.report.ok(IDENTITY, "whose", ", ".join(said))

    def _way(self) -> bool:
        """Name, connection and certificate."""
        origin = self.chain.origin
        proxy = self.settings.https_proxy if origin.scheme == "https" else None
        try:
            opened = self._directly() if proxy is None else self._by_proxy(proxy)
            if origin.scheme == "https":
                whose = wires.certificate(origin.host, opened, self.context)
                self.report.ok(VAULT, "certificate", f"verified, issued by {whose}")
        except Trouble as exc:
            what = {"CertificateError": "certificate", "NoTLS": "certificate"}.get(exc.code, "connection")
            if exc.code in {"NoSuchName", "NameServerSilent"}:
                what = "name"
            self.report.bad(VAULT, what, exc.code, exc.seen)
            return False
        return True

    def _directly(self) -> Callable[[], socket.socket]:
        origin = self.chain.origin
        found = wires.addresses(origin.host, origin.port, self._seconds)
        self.report.ok(VAULT, "name", f"{origin.host} is {'; '.join(map(wires.kind, found))}")
        try:
            connection, address, took = wires.connect(found, origin.port, self._seconds)
        except Trouble as exc:
            raise Trouble(_DEAD_ENDS["vault"][exc.code], exc.seen) from None
        connection.close()
        self.report.ok(VAULT, "connection", f"{address} port {origin.port}, in {took:.0f} ms")
        return partial(wires.opened, address, origin.port, self._seconds)

    def _by_proxy(self, proxy: str) -> Callable[[], socket.socket]:
        origin, parts = self.chain.origin, urlsplit(proxy)
        host, port = parts.hostname or "", parts.port or 80
        self.report.facts |= {"proxy": f"{host}:{port}"}
        try:
            connection, address, took = wires.connect(
                wires.addresses(host, port, self._seconds), port, self._seconds
            )
        except Trouble as exc:
            raise Trouble(_DEAD_ENDS["proxy"][exc.code], exc.seen or host) from None
        connection.close()
        self.report.ok(VAULT, "proxy", f"{address} port {port}, in {took:.0f} ms")
        wires.tunnel(proxy, origin.host, origin.port, self._seconds).close()
        self.report.ok(VAULT, "connection", "the proxy lets it through")
        return partial(wires.tunnel, proxy, origin.host, origin.port, self._seconds)

    async def _challenge(self, token: AccessToken | None) -> bool:
        try:
            with trio.fail_after(self._seconds):
                reached = await self.chain.client.reach()
        except (KeyVaultFSError, trio.TooSlowError) as exc:
            self.report.failed(VAULT, "challenge", exc, as_bad=Severity.FAIL)
            return False
        own = "" if token is None else claims.of(token).tid
        if own and reached.tenant and own.lower() != reached.tenant.lower():
            self.report.facts["vault_tid"] = reached.tenant
            self.report.bad(
                VAULT, "tenant", "AKV10032", f"the token is of {own}, the vault of {reached.tenant}"
            )
        else:
            self.report.ok(VAULT, "challenge", f"of tenant {reached.tenant or 'unknown'}")
        if reached.date is not None:
            gap = time.time() - reached.date
            if abs(gap) > _CLOCKS_DIFFER:
                self.report.bad(VAULT, "clock", "ClockDiffers", f"by {gap:+.0f} s")
            else:
                self.report.ok(VAULT, "clock", f"as this machine's, to {abs(gap):.0f} s")
        return True

    async def _permissions(self) -> None:
        first = await self._list()
        names = self.names or ([] if first is None else [(first, None)])
        for name, version in names:
            await self._get(name, version)
        if not names and first is None:
            self.report.ok(PERMISSIONS, "get", "not tried: name a secret, keyvaultfs check VAULT NAME")

    async def _list(self) -> SecretName | None:
        """List a page; returns a secret to try."""
        count, first = 0, None
        try:
            with trio.fail_after(self.settings.timeout):
                async with aclosing(self.chain.client.pages()) as pages:
                    async for page in pages:
                        count += len(page)
                        first = first or next(filter(None, map(self._readable, page)), None)
                        if first is not None:
                            break
        except Refused as exc:
            # Files that are named can be read all the same, and whoever gave no such permission may have meant it.
            self.report.failed(
                PERMISSIONS, "list", exc, as_bad=Severity.WARN if self.names else Severity.FAIL
            )
        except (KeyVaultFSError, trio.TooSlowError) as exc:
            self.report.failed(PERMISSIONS, "list", exc, as_bad=Severity.FAIL)
        else:
            shown = (
                "the vault is empty"
                if not count
                else f"shows secrets, such as {first}"
                if first
                else "allowed"
            )
            self.report.ok(PERMISSIONS, "list", shown)
            if count and first is None:
                self.report.bad(PERMISSIONS, "shown", "NothingShown")
        return first

    def _readable(self, item: ListItem) -> SecretName | None:
        """Its name, if the mount would show it and give its value."""
        return item.name if item.properties.enabled and self._shows(item.name, item.properties) else None

    def _shows(self, name: SecretName, properties: Properties) -> bool:
        shown = Shown(self.settings.include, self.settings.exclude, self.settings.tags)
        return shown.by_name(name) and shown.by_tags(properties.tags)

    async def _get(self, name: SecretName, version: Version | None) -> None:
        self.report.facts["name"] = str(name)
        what = f"get {name}" if version is None else f"get {name}/{version}"
        client = self.chain.client
        try:
            with trio.fail_after(self.settings.timeout):
                secret = await (client.get(name) if version is None else client.get_version(name, version))
        except (KeyVaultFSError, trio.TooSlowError) as exc:
            self.report.failed(PERMISSIONS, what, exc, as_bad=Severity.FAIL)
        else:
            self.report.ok(PERMISSIONS, what, "can be read")
            if not self._shows(name, secret.properties):
                self.report.bad(PERMISSIONS, f"show {name}", "NotShown")


def _life(token: AccessToken) -> str:
    seconds = token.expires - token.obtained
    return f"{seconds / 3600:.0f} h" if seconds >= 7200 else f"{seconds / 60:.0f} min"
