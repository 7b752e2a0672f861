"""Pages of names: the order of Key Vault and its `$skiptoken` (PROTOCOL §3, list)."""

from __future__ import annotations

import base64
import binascii
import bisect
import json
from typing import TYPE_CHECKING

from keyvaultfs_devvault import errors

if TYPE_CHECKING:
    from collections.abc import Sequence

MAXIMUM = 25
_END = "000028!9999-12-31T23:59:59.9999999Z!"


def encode(key: str, *, empty_done: bool = False) -> str:
    """A token for the page that begins at `key`: base64url without padding, as SDKs do not encode a `+`.

    Args:
        key: upper-case name, or ``NAME/VERSION``.
        empty_done: the next answer must have items (only used when the vault was told to send empty pages).
    """
    marker = f"secret/{key}"
    inner = f"{len(marker):06}!{marker}!{_END}"
    coded = base64.b64encode(inner.encode()).decode()
    token = {"NextMarker": f"2!{len(coded)}!{coded}", "TargetLocation": int(empty_done)}
    return base64.urlsafe_b64encode(json.dumps(token, separators=(",", ":")).encode()).decode().rstrip("=")


def decode(token: str) -> tuple[str, bool]:
    """The key and the flag that went into `encode`.

    Raises:
        VaultError: 400, for a token that the vault never made.
    """
    try:
        outer = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
        inner = base64.b64decode(outer["NextMarker"].split("!", 2)[2], validate=True).decode()
        length, rest = inner.split("!", 1)
        kind, _, key = rest[: int(length)].partition("/")
        if kind != "secret":
            raise ValueError(kind)  # noqa: TRY301 - one mistake among those of the decoders
        return key, bool(outer["TargetLocation"])
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, binascii.Error):
        raise errors.bad_parameter("The skiptoken is invalid.") from None


def page(order: Sequence[str], start: str | None, size: int) -> tuple[list[str], str | None]:
    """Up to `size` keys from `start` on, and where the next page begins.

    Args:
        order: sorted, upper-case.
        start: the first key, which may be gone by now, or None for the beginning.
        size: 1 to 25.

    Returns:
        The keys, and the next page's first key or None.
    """
    begin = 0 if start is None else bisect.bisect_left(order, start)
    keys = list(order[begin : begin + size])
    following = order[begin + size] if begin + size < len(order) else None
    return keys, following
