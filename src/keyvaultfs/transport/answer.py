"""What came back: status, headers, and all of a body."""

from __future__ import annotations

import http.client
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from keyvaultfs.errors import BadAnswer
from keyvaultfs.transport.bounded import LARGEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Answer(NamedTuple):
    """A whole answer; `headers` have lower-case names. Shown without its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"<Answer {self.status} {len(self.body)} B>"


def read(response: Any) -> Answer:
    """Read one to its end: of urllib3 or http.client.

    Raises:
        OSError, http.client.HTTPException: it breaks off.
        BadAnswer: it has more bytes than anybody needs, or is compressed.
    """
    headers = joined(response.headers.items())
    if headers.get("content-encoding", "identity").lower() not in {"", "identity"}:
        raise BadAnswer("Compressed")
    body = response.read(LARGEST)
    length = headers.get("content-length", "")
    if re.fullmatch("[0-9]{1,9}", length) and "transfer-encoding" not in headers and len(body) != int(length):
        raise http.client.IncompleteRead(body)  # urllib3 1.26 does not look
    return Answer(response.status, headers, body)


def joined(lines: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by lower-case name. Lines of one name are one list (RFC 9110 §5.3); what is only repeated counts once."""
    found: dict[str, str] = {}
    for name, said in lines:
        value = said.replace("\r\n", "").strip()  # the library leaves what does not belong to it
        before = found.get(key := name.lower())
        found[key] = value if before is None or before == value else f"{before}, {value}"
    return found
