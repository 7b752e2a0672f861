"""Whom a token is of, as it says itself. For people only: nobody but the vault can verify it."""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from keyvaultfs.identity.token import AccessToken

_LONGEST = 300


class Claims(NamedTuple):
    """Names in the words of Microsoft's access tokens; "" for what it does not say.

    Attributes:
        oid: the identity's object, whom roles are assigned to.
        appid: its application (client id).
        tid: its tenant.
        xms_mirid: the resource id of the machine or the identity.
    """

    oid: str = ""
    appid: str = ""
    tid: str = ""
    xms_mirid: str = ""


def of(token: AccessToken) -> Claims:
    """The claims of a JWT, without looking at its signature; of anything else none."""
    parts = token.text.reveal().split(b".")
    if len(parts) != 3:
        return Claims()
    try:
        found = json.loads(base64.urlsafe_b64decode(parts[1] + b"=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return Claims()
    if not isinstance(found, dict):
        return Claims()
    names = ("oid", "appid", "tid", "xms_mirid")
    return Claims(**{name: _text(found.get(name)) for name in names})


def _text(found: object) -> str:
    return found if isinstance(found, str) and len(found) <= _LONGEST and found.isprintable() else ""
