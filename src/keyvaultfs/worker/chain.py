"""From the settings to a client: identity, transport, Key Vault."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

import trio

from keyvaultfs.errors import KeyVaultFSError
from keyvaultfs.identity import claims, kinds
from keyvaultfs.identity.token import SharedToken
from keyvaultfs.keyvault import door
from keyvaultfs.keyvault.client import KeyVaultClient
from keyvaultfs.keyvault.origin import Origin
from keyvaultfs.transport.session import Transport
from keyvaultfs.transport.throttle import PROBE_SECONDS, Throttle
from keyvaultfs.transport.tls import tls_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from keyvaultfs.identity.token import TokenSource
    from keyvaultfs.log import Causes
    from keyvaultfs.metrics import Metrics
    from keyvaultfs.settings.options import Settings

_IMDS_CONNECTIONS = 2
_LOOK_SECONDS = 0.5
_TIDY_SECONDS = 10.0
_IDENTITIES = ("client_id", "object_id", "msi_res_id")


@dataclass(slots=True, eq=False)
class Chain:
    """Everything from the vault's name to its client."""

    origin: Origin
    client: KeyVaultClient
    token: SharedToken
    throttle: Throttle
    timeout: float
    transports: tuple[Transport, ...]
    endpoint: str = ""

    @classmethod
    def build(cls, vault: str, settings: Settings, metrics: Metrics, causes: Causes) -> Chain:
        """Build it; nothing is sent.

        Raises:
            UsageError: the vault or an option is wrong.
        """
        rng = random.Random()  # noqa: S311 - spreads requests, guards nothing
        origin = Origin.parse(
            vault, allow_http_loopback=settings.allow_http_loopback, resource=settings.resource
        )
        throttle = Throttle(rng)
        context = _verification(settings.ca_file)
        transport = Transport(
            max_requests=settings.max_requests,
            context=context,
            https_proxy=settings.https_proxy,
            proxy_context=_proxy_context(settings),
            throttle=throttle,
            metrics=metrics.transport,
            rng=rng,
            wrong_door=partial(door.is_wrong, origin),
        )
        to_identity = Transport(max_requests=_IMDS_CONNECTIONS, context=context, metrics=metrics.transport)
        token = SharedToken(
            _source(settings, origin, to_identity),
            metrics=metrics.identity,
            causes=causes,
            rng=rng,
            attempt_seconds=settings.timeout,
        )
        client = KeyVaultClient(transport, origin, token, api_version=settings.api_version, wall=time.time)
        endpoint = settings.imds_endpoint or kinds.KINDS[settings.auth].endpoint
        return cls(origin, client, token, throttle, settings.timeout, (transport, to_identity), endpoint)

    async def run(self) -> None:
        """Renew the token, see whether a dead vault is back, let idle connections go. Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tidy)
            nursery.start_soon(self.token.run)
            nursery.start_soon(self._probe_while_open)

    def renew(self) -> None:
        """Ask for a new token on new connections, as after a suspend: old ones stood still and do not know it."""
        for transport in self.transports:
            transport.distrust()
        self.token.renew()

    def facts(self) -> dict[str, str]:
        """What cures speak of (`causes.Cause.mend`), as far as it is known; never a token."""
        origin, token = self.origin, self.token.last
        found = {
            "vault": origin.vault,
            "host": origin.host,
            "port": str(origin.port),
            "url": origin.base_url,
            "imds": self.endpoint,
        }
        if token is not None:
            whose = claims.of(token)
            found |= {"oid": whose.oid, "tid": whose.tid}
        return found

    def token_status(self) -> dict[str, object]:
        """For the file ``status``."""
        return self.token.status()

    async def _tidy(self) -> None:
        while True:
            await trio.sleep(_TIDY_SECONDS)
            for transport in self.transports:
                transport.tidy()

    async def _probe_while_open(self) -> None:
        while True:
            await trio.sleep(_LOOK_SECONDS)
            if self.throttle.open and not self.throttle.wait(trio.current_time()):
                with trio.move_on_after(min(self.timeout, PROBE_SECONDS)):
                    try:
                        await self.client.reach()
                    except KeyVaultFSError:
                        continue


def _verification(ca_file: str | None) -> ssl.SSLContext | Callable[[], ssl.SSLContext]:
    """One context for all that use it: a file is read now, and may be wrong, the system's store when it is needed."""
    return cache(partial(tls_context, None)) if ca_file is None else tls_context(ca_file)


def _proxy_context(settings: Settings) -> ssl.SSLContext | None:
    speaks_tls = (settings.https_proxy or "").startswith("https:")
    return tls_context(settings.ca_file) if speaks_tls else None


def _source(settings: Settings, origin: Origin, transport: Transport) -> TokenSource:
    identity = {name: value for name in _IDENTITIES if (value := getattr(settings, name)) is not None}
    wanted = kinds.Wanted(origin.resource, identity, settings.imds_endpoint, settings.arc_tokens, transport)
    return kinds.source(settings.auth, wanted)
