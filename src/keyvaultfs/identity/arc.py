"""Azure Arc's agent, on servers outside Azure: who may read its key files gets tokens (PROTOCOL §7)."""

from __future__ import annotations

import os
import re
import stat
import time
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import trio

from keyvaultfs import threads
from keyvaultfs.identity import answer
from keyvaultfs.identity.imds import HEADERS, PATH
from keyvaultfs.identity.token import Declined

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keyvaultfs.identity.token import AccessToken
    from keyvaultfs.transport.session import Transport

_API_VERSION = "2020-06-01"
_LARGEST_KEY = 4096
_REALM = re.compile(r'\s*basic\s+realm\s*=\s*(?:"([^"]{1,4096})"|([^\s",]{1,4096}))\s*', re.IGNORECASE)
_KEY = re.compile(rb"[\x21-\x7e]{1,4096}")


class ArcSource:
    """Asks for tokens, and proves itself by a file that the agent names.

    Args:
        transport: one without proxy and throttle of the vault's.
        endpoint: base URL of the agent.
        resource: whom tokens are for.
        identity: at most one of client_id, object_id, msi_res_id.
        folder: where key files are; no other file is ever read, wherever the answer points.
        wall: Unix seconds.
    """

    def __init__(
        self,
        transport: Transport,
        endpoint: str,
        resource: str,
        identity: Mapping[str, str],
        folder: str,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        query = {"api-version": _API_VERSION, "resource": resource, **identity}
        self._url = f"{endpoint}{PATH}?{urlencode(query)}"
        self._transport = transport
        self._identity = identity
        self._folder = folder
        self._wall = wall
        self._limiter = trio.CapacityLimiter(1)

    async def fetch(self) -> AccessToken:
        """See `TokenSource.fetch`."""
        first = await self._transport.get(self._url, HEADERS, probe=True)
        if first.status == 200:
            raise Declined("Identity-ArcNoChallenge")
        if first.status != 401:
            return answer.token(first, self._wall)  # raises
        found = _REALM.fullmatch(first.headers.get("www-authenticate", ""))
        if found is None:
            raise Declined("Identity-ArcNoChallenge")
        key = await threads.run(partial(_read_key, found[1] or found[2], self._folder), self._limiter)
        proof = {**HEADERS, "Authorization": f"Basic {key.decode('ascii')}"}
        second = await self._transport.get(self._url, proof, probe=True)
        token = answer.token(second, self._wall)
        fields = answer.fields(second.body)
        for name, wanted in self._identity.items():
            # An agent that knows no user-assigned identities gives the machine's own token without a word.
            if str(fields.get(name, wanted)).lower() != wanted.lower():
                raise Declined("Identity-ArcOtherIdentity")
        return token


def _read_key(path: str, folder: str, _end: float = 0.0) -> bytes:
    """The content of a key file.

    The answer that names the file may be anybody's who listens on the agent's port while it does not run: he shall
    not have us read, or wait for, what is not one of the agent's keys.

    Raises:
        Declined: it is not a key file of the agent's, or we may not read it.
    """
    file = PurePosixPath(path)
    if not (path.isprintable() and file.is_absolute() and file.suffix == ".key"):
        raise Declined("Identity-ArcKeyRefused")
    try:
        if os.path.realpath(file.parent) != os.path.realpath(folder):
            raise Declined("Identity-ArcKeyRefused")
        parent = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            opened = os.open(file.name, flags, dir_fd=parent)
        finally:
            os.close(parent)
    except PermissionError:
        raise Declined("Identity-ArcKeyForbidden") from None
    except (OSError, ValueError):
        raise Declined("Identity-ArcKeyRefused") from None
    try:
        facts = os.fstat(opened)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1 or facts.st_size > _LARGEST_KEY:
            raise Declined("Identity-ArcKeyRefused")
        key = os.read(opened, _LARGEST_KEY + 1).strip()
    except OSError:
        raise Declined("Identity-ArcKeyRefused") from None
    finally:
        os.close(opened)
    if not _KEY.fullmatch(key):
        raise Declined("Identity-ArcKeyRefused")
    return key
