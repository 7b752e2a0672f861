"""What was asked and what is answered, as the parts of the dev vault hand it around."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.datastructures import Headers, QueryParams

VAULT = "vault"
IMDS = "imds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request.

    Args:
        which: "vault" or "imds".
        op: what it wants, such as "get"; "unknown" when nothing answers that path and method.
        query: decoded.
        headers: without regard to case.
        body: all of it.
    """

    which: str
    method: str
    path: str
    op: str
    name: str | None = None
    version: str | None = None
    query: QueryParams
    headers: Headers = field(repr=False)
    body: bytes = field(default=b"", repr=False)

    @property
    def had_token(self) -> bool:
        """Whether it brought an `Authorization`, good or bad."""
        return "authorization" in self.headers

    def parameter(self, name: str) -> str | None:
        """A query parameter."""
        return self.query.get(name)


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
