"""A secret's value -> the bytes of a file."""

from __future__ import annotations

import base64
import binascii
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keyvaultfs.model import SecretValue


class Decoding(Enum):
    """How a value becomes bytes. Part of an inode's identity: a tag changes without a new version."""

    RAW = "raw"
    BASE64 = "base64"
    HEX = "hex"


_BY_TAG = {"base64": Decoding.BASE64, "hex": Decoding.HEX}


def decoding(tags: Mapping[str, str], *, wanted: bool) -> Decoding:
    """What the tag ``file-encoding`` asks for; text encodings are no encodings of bytes (PROTOCOL §4)."""
    if not wanted or not tags:
        return Decoding.RAW
    return _BY_TAG.get(tags.get("file-encoding", "").lower(), Decoding.RAW)


def render(value: SecretValue, how: Decoding) -> tuple[bytes, bool]:
    """The file's bytes, and whether the decoding worked; where it does not, the value is served raw.

    ``az keyvault secret set --encoding base64 --value`` tags values that nobody encoded (PROTOCOL §4).
    """
    raw = value.reveal()
    try:
        if how is Decoding.BASE64:
            return base64.b64decode(b"".join(raw.split()), validate=True), True
        if how is Decoding.HEX:
            return binascii.unhexlify(raw.strip()), True
    except (binascii.Error, ValueError):
        return raw, False
    return raw, True
