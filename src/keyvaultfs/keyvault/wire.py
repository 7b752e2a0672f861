"""JSON of Key Vault -> model (PROTOCOL §3 to §5). Nothing of an odd answer is ever quoted.

Two kinds of field are told apart. Which secret it is, its value, and where a listing goes on must be right: an answer
that is odd in one of them is a `BadAnswer`. What is merely shown (times, tags, content type, ``managed``, ``enabled``)
never decides over an answer or a page: where it is odd it counts as absent, as an odd row of a page does.
"""

from __future__ import annotations

import json
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from keyvaultfs import model
from keyvaultfs.errors import BadAnswer
from keyvaultfs.model import NO_TAGS, ListItem, Properties, Secret, SecretName, SecretValue, VersionItem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keyvaultfs.model import Version

_LATEST_TIME = 253_402_300_799  # 9999-12-31, what a date can show
_MOST_TAGS = 64
_ENCODING_TAG = "file-encoding"
_MOST_ROWS = 2000
"""Of a page; Key Vault's have 25. More would hold up the event loop, which serves cached reads too."""

_MOST_BRACKETS = 20_000
"""Lists and objects of an answer, for the same reason."""

_LONGEST_WORD = 4096
_LONGEST_LINK = 16384
_LONGEST_INTEGER = 20  # digits; Python itself refuses the whole text for one of 4,301
_CODE = re.compile("[A-Za-z0-9_.-]{1,64}")
# Ids are compared without regard to case (PROTOCOL §1).
_ID = re.compile(
    "https?://[^/?#]+/secrets/([0-9a-z-]{1,127})(?:/([0-9a-f]{32}))?/?", re.IGNORECASE | re.ASCII
)
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_AKV = re.compile("AKV[0-9]{5}")


class ErrorBody(NamedTuple):
    """What may be known of an error: the vault's words `code` and `inner`, and the number in its message."""

    code: str
    inner: str
    akv: str


def _integer(digits: str) -> int | None:
    """A number that is shown, or None: one that is out of all range says nothing of the other fields."""
    return int(digits) if len(digits) <= _LONGEST_INTEGER else None


def _constant(_name: str) -> None:
    """NaN and infinities, which are no JSON but which some writers let through."""


_JSON = json.JSONDecoder(parse_int=_integer, parse_constant=_constant)


def decode(body: bytes) -> dict[str, Any]:
    """A JSON object, with or without a byte order mark before it.

    Bytes that are no UTF-8 become lone surrogates, so that only the text that holds them is odd, and not the answer.

    Raises:
        BadAnswer: not one, nested too deep, or of too many pieces.
    """
    # A value or a tag may hold as many as it likes.
    if _brackets(body) > _MOST_BRACKETS and _brackets(_STRING.sub(b"", body)) > _MOST_BRACKETS:
        raise BadAnswer("NotJSON")
    try:
        text = body.decode("utf-8-sig", "surrogateescape")
        data = _JSON.decode(text)
    except (ValueError, RecursionError):
        raise BadAnswer("NotJSON") from None
    if not isinstance(data, dict):
        raise BadAnswer("NotAnObject")
    return data


def _brackets(text: bytes) -> int:
    return text.count(b"{") + text.count(b"[")


def secret(
    body: bytes, asked: SecretName, version: Version | None, *, answered: float | None = None
) -> Secret:
    """The answer to a get.

    Args:
        body: JSON.
        asked: the name of the request; the answer's may differ in case.
        version: the version of the request, or None for the current one.
        answered: the vault's clock when it answered, Unix seconds, if it said so.

    Raises:
        BadAnswer: it is no secret, or another one.
    """
    data = decode(body)
    value = data.get("value")
    name, found = _identifier(data.get("id"))
    if (
        not isinstance(value, str)
        or found is None
        or name != asked
        or (version is not None and found != version)
    ):
        raise BadAnswer("NotTheSecret")
    try:
        raw = value.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate; the error's text would quote the value
        raise BadAnswer("NotUnicode") from None
    return Secret(name, found, SecretValue(raw), _properties(data), answered)


def items(body: bytes) -> tuple[tuple[ListItem, ...], str | None]:
    """A page of the listing, and the link to the next. Rows without the name of a secret are left out.

    Raises:
        BadAnswer: it is no page.
    """
    rows, link = _page(body)
    found: list[ListItem] = []
    for row in rows:
        try:
            name, _ = _identifier(row.get("id"))
        except BadAnswer:
            continue
        properties = _properties(row)
        if found and found[-1].properties == properties:
            properties = found[-1].properties  # of thousands of names that were made at once, one is enough
        found.append(ListItem(name, properties))
    return tuple(found), link


def versions(body: bytes, asked: SecretName) -> tuple[tuple[VersionItem, ...], str | None]:
    """A page of a secret's versions, and the link to the next. Rows without a version's id are left out.

    Raises:
        BadAnswer: it is no page, or of another secret.
    """
    rows, link = _page(body)
    found = []
    for row in rows:
        try:
            name, version = _identifier(row.get("id"))
        except BadAnswer:
            continue
        if name != asked:
            raise BadAnswer("NotTheSecret")
        if version is None:
            continue
        found.append(VersionItem(version, _properties(row)))
    return tuple(found), link


def error(body: bytes) -> ErrorBody | None:
    """An error body, or None for what is not Key Vault's: a firewall's HTML, a proxy's JSON, nothing."""
    try:
        found = decode(body).get("error")
    except BadAnswer:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("code"), str):
        return None
    inner = found.get("innererror")
    inner_code = inner.get("code") if isinstance(inner, dict) else None
    message = found.get("message")
    number = _AKV.match(message) if isinstance(message, str) else None
    return ErrorBody(_word(found["code"]), _word(inner_code), number[0] if number else "")


def _word(code: object) -> str:
    """The code, if it can stand in a log."""
    return code if isinstance(code, str) and _CODE.fullmatch(code) else ""


def _page(body: bytes) -> tuple[list[dict[str, Any]], str | None]:
    data = decode(body)
    rows = data.get("value")
    link = data.get("nextLink")
    rows = [] if rows is None else rows  # an empty list was once sent as null
    if not isinstance(rows, list) or len(rows) > _MOST_ROWS:
        raise BadAnswer("NotAPage")
    if link is not None and (not isinstance(link, str) or len(link) > _LONGEST_LINK):
        raise BadAnswer("NotAPage")
    return [row for row in rows if isinstance(row, dict)], link or None


def _identifier(found: object) -> tuple[SecretName, Version | None]:
    parts = _ID.fullmatch(found) if isinstance(found, str) and len(found) <= _LONGEST_WORD else None
    if parts is None:
        raise BadAnswer("NotAnIdentifier")
    return SecretName(parts[1]), model.version(parts[2].lower()) if parts[2] else None


def _properties(data: dict[str, Any]) -> Properties:
    attributes = data.get("attributes")
    attributes = attributes if isinstance(attributes, dict) else {}
    created, updated = _time(attributes.get("created")), _time(attributes.get("updated"))
    return Properties(
        enabled=attributes.get("enabled") is not False,
        created=created,
        updated=created if updated == created else updated,  # one number where nothing was changed later
        expires=_time(attributes.get("exp")),
        not_before=_time(attributes.get("nbf")),
        content_type=_text(data.get("contentType")),
        tags=_tags(data.get("tags")),
        managed=data.get("managed") is True,
    )


def _time(found: object) -> int | None:
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= _LATEST_TIME:
        return None
    return int(found)


def _text(found: object) -> str | None:
    if not isinstance(found, str) or len(found) > _LONGEST_WORD:
        return None
    # What is shown must be encodable: a lone surrogate is not.
    return found.encode("utf-8", "replace").decode()


def _tags(found: object) -> Mapping[str, str]:
    """At most so many; the one that says how a value was encoded is always among them."""
    if not isinstance(found, dict):
        return NO_TAGS
    tags: dict[str, str] = {}
    for key, value in ((_text(key), _text(value)) for key, value in found.items()):
        if key is not None and value is not None and (len(tags) < _MOST_TAGS or key == _ENCODING_TAG):
            tags[key] = value
    return MappingProxyType(tags) if tags else NO_TAGS
