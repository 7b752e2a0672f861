"""What was asked and what is answered, as the parts of the dev vault hand it around."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from collections.abc import Mapping

VAULT = "vault"
IMDS = "imds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request.

    Args:
        which: "vault" or "imds".
        op: what it wants, such as "get"; "unknown" when nothing answers that path and method.
        query: pairs, decoded, in their order.
        headers: names in lower case.
        body: all of it.
    """

    which: str
    method: str
    path: str
    op: str
    name: str | None = None
    version: str | None = None
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)

    @property
    def had_token(self) -> bool:
        """Whether it brought an `Authorization`, good or bad."""
        return "authorization" in self.headers

    def parameter(self, name: str) -> str | None:
        """The first value of a query parameter."""
        return next((value for key, value in self.query if key == name), None)


@dataclass(slots=True)
class Answer:
    """A whole answer, held in memory so that it can be spoilt."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @classmethod
    def json(cls, status: int, body: Any) -> Answer:
        """A JSON document as Key Vault and IMDS send it."""
        try:
            text = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
        except UnicodeEncodeError:  # half a surrogate pair is JSON, but only as an escape
            text = json.dumps(body, separators=(",", ":")).encode()
        return cls(status, {"content-type": "application/json; charset=utf-8"}, text)


def parse_query(raw: bytes) -> tuple[tuple[str, str], ...]:
    """The pairs of a query string; `+` is a space, as everywhere."""
    return tuple(parse_qsl(raw.decode("latin-1"), keep_blank_values=True))


def parse_headers(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """ASGI's headers as a mapping; the last of equal names stays."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}
