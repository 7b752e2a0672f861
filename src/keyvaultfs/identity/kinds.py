"""The kinds of identity: what ``auth=`` can be. A new one is a row here, and a module of its own.

The table is read by the option table too, so by every process; what a kind needs is imported when it is built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keyvaultfs.identity.token import TokenSource
    from keyvaultfs.transport.session import Transport


class Wanted(NamedTuple):
    """What a source is built from.

    Attributes:
        resource: whom tokens are for.
        identity: at most one of client_id, object_id, msi_res_id.
        endpoint: base URL of the token endpoint, or None for the kind's own.
        arc_tokens: the folder of Azure Arc's key files.
        transport: one without proxy and throttle of the vault's.
    """

    resource: str
    identity: Mapping[str, str]
    endpoint: str | None
    arc_tokens: str
    transport: Transport


class Kind(NamedTuple):
    """A row of the table.

    Attributes:
        word: the value of ``auth=``.
        phrase: what it is, for people.
        build: what was wanted, and the endpoint's URL -> a source; may raise UsageError.
        endpoint: base URL of the token endpoint unless ``imds_endpoint=`` says another; "" where there is none.
    """

    word: str
    phrase: str
    build: Callable[[Wanted, str], TokenSource]
    endpoint: str = ""


def _imds(wanted: Wanted, endpoint: str) -> TokenSource:
    from keyvaultfs.identity.imds import ImdsSource

    return ImdsSource(wanted.transport, endpoint, wanted.resource, wanted.identity)


def _arc(wanted: Wanted, endpoint: str) -> TokenSource:
    from keyvaultfs.identity.arc import ArcSource

    return ArcSource(wanted.transport, endpoint, wanted.resource, wanted.identity, wanted.arc_tokens)


def _azure_identity(wanted: Wanted, _endpoint: str) -> TokenSource:
    from keyvaultfs.identity.azure import AzureIdentitySource

    return AzureIdentitySource(wanted.resource, wanted.identity)


_ROWS = (
    Kind("imds", "an Azure machine's own", _imds, "http://169.254.169.254"),
    Kind("arc", "Azure Arc's agent", _arc, "http://localhost:40342"),
    Kind("azure-identity", "the library of that name", _azure_identity),
)

KINDS = {row.word: row for row in _ROWS}


def source(word: str, wanted: Wanted) -> TokenSource:
    """The source for a value of ``auth=``.

    Raises:
        UsageError: what was wanted, this kind does not have.
    """
    kind = KINDS[word]
    return kind.build(wanted, wanted.endpoint or kind.endpoint)
