"""A secret's value -> the bytes of a file."""

from __future__ import annotations

import base64
import binascii
from enum import Enum
from typing import TYPE_CHECKING

from keyvaultfs.errors import CannotMake
from keyvaultfs.model import SecretValue

if TYPE_CHECKING:
    from collections.abc import Mapping


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


def decode(value: SecretValue, how: Decoding) -> SecretValue:
    """The bytes that the value stands for; white space in it is none of the encoding's.

    Raises:
        CannotMake: it is not encoded so.
    """
    if how is Decoding.RAW:
        return value
    data = b"".join(value.reveal().split())
    try:
        if how is Decoding.BASE64:
            return SecretValue(base64.b64decode(data, validate=True))
        return SecretValue(binascii.unhexlify(data))
    except (binascii.Error, ValueError):
        pass  # raised below, without a context: its frames hold the value
    raise CannotMake(f"the value is no {how.value}")


def render(value: SecretValue, how: Decoding) -> tuple[bytes, bool]:
    """The file's bytes, and whether the decoding worked; where it does not, the value is served raw.

    ``az keyvault secret set --encoding base64 --value`` tags values that nobody encoded (PROTOCOL §4).
    """
    try:
        return decode(value, how).reveal(), True
    except CannotMake:
        return value.reveal(), False
