"""The answer that a rule wants, in place of the right one or made out of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from keyvaultfs_devvault import errors, paging
from keyvaultfs_devvault.app import next_link
from keyvaultfs_devvault.request import Answer
from keyvaultfs_devvault.tokens import CALLER, TENANT

if TYPE_CHECKING:
    from keyvaultfs_devvault.faults import Rule
    from keyvaultfs_devvault.request import Call

_HTML = b"<html><head><title>Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
FOREIGN = "https://vault.example.net:443/secrets?api-version=7.4&$skiptoken=eyJ9"
_CODES = {
    429: "Throttled",
    500: "InternalServerError",
    503: "ServiceUnavailable",
    401: "Unauthorized",
    403: "Forbidden",
}
_MESSAGES = {
    429: (
        "Request was not processed because too many requests were received."
        " Reason: VaultRequestTypeLimitReached"
    )
}


class App(Protocol):
    """What the vault and the token endpoint have in common."""

    def call(self, scope: dict[str, Any], body: bytes) -> Call:
        """What an ASGI request is about."""

    def answer(self, call: Call, rule: Rule | None = None) -> Answer:
        """The right answer; raises VaultError."""

    def error(self, call: Call, error: errors.VaultError, rule: Rule | None = None) -> Answer:
        """An error as an answer."""

    def dress(self, call: Call, answer: Answer) -> Answer:
        """Add the headers of every answer."""


def answer(app: App, call: Call, rule: Rule | None) -> Answer:
    """The answer to send, by the rule if there is one."""
    try:
        made = None if rule is None else _instead(rule, call)
        if made is None:
            made = app.answer(call, rule)
    except errors.VaultError as error:
        made = app.error(call, error, rule)
    made = app.dress(call, made)
    return made if rule is None else _spoil(rule, call, made)


def _instead(rule: Rule, call: Call) -> Answer | None:
    if rule.deny is not None:
        operation = "list" if call.op in ("list", "versions", "list_deleted") else "get"
        raise errors.denied(rule.deny, CALLER, "dev", operation)
    if rule.reject is not None:
        raise errors.unauthorized(_rejection(rule.reject))
    if rule.redirect is not None:
        return Answer(307, {"location": rule.redirect})
    raw = rule.raw_body()
    if raw is not None:
        return Answer(rule.status or 200, {"content-type": rule.content_type or "application/json"}, raw)
    if rule.json is not None:
        return Answer.json(rule.status or 200, rule.json)
    if rule.status is not None:
        code = rule.code or _CODES.get(rule.status, "Error")
        message = rule.message or _MESSAGES.get(rule.status, "The service misbehaves as it was told to.")
        raise errors.VaultError(rule.status, code, message, rule.inner_code)
    return None


def _rejection(kind: str) -> str:
    messages = {
        "missing": errors.NO_TOKEN,
        "audience": errors.wrong_audience("https://vault.azure.net", "https://management.azure.com/"),
        "issuer": errors.wrong_issuer(TENANT, "00000000-0000-4000-8000-000000000000"),
        "expired": errors.TOKEN_EXPIRED,
        "key": errors.unknown_key("eyJ0eXAiOiJKV1QifQ"),
        "claims": "AKV10000: Continuous access evaluation resulted in claims challenge.",
    }
    return messages.get(kind, kind)


def _spoil(rule: Rule, call: Call, made: Answer) -> Answer:
    made.headers.update({name.lower(): value for name, value in rule.headers.items()})
    document = _document(made)
    if document is not None:
        if rule.page is not None:
            _page(rule.page, call, document)
        if rule.next_link is not None and "nextLink" in document:
            document["nextLink"] = _link(rule.next_link, call, made, document)
        if rule.merge is not None:
            document.update(rule.merge)
            document = {
                name: value for name, value in document.items() if rule.merge.get(name, 0) is not None
            }
        if rule.wrong_types is not None:
            document = {name: _other(name, value, rule.wrong_types) for name, value in document.items()}
        made.body = Answer.json(200, document).body
    if rule.malformed is not None:
        made.body = _malformed(rule.malformed, made)
    return made


def _document(made: Answer) -> dict[str, Any] | None:
    try:
        document = json.loads(made.body)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _page(how: str, call: Call, document: dict[str, Any]) -> None:
    if "nextLink" not in document:
        return
    if how == "null":
        document["value"], document["nextLink"] = None, None
        return
    token = call.parameter("$skiptoken")
    key, done = ("", False) if token is None else paging.decode(token)
    if not done:
        document["value"] = []
        document["nextLink"] = next_link(call, _origin(call), paging.encode(key, empty_done=True))


def _link(how: str, call: Call, made: Answer, document: dict[str, Any]) -> str:
    del made, document
    if how == "foreign":
        return FOREIGN
    if how == "loop":
        token = call.parameter("$skiptoken")
        return next_link(call, _origin(call), token if token is not None else paging.encode(""))
    return how


def _origin(call: Call) -> str:
    return f"https://{call.headers.get('host', '')}"


def _other(name: str, value: object, chosen: list[str]) -> object:
    if chosen and name not in chosen:
        return value
    others: list[tuple[type, object]] = [
        (str, 17),
        (bool, "yes"),
        (int, "soon"),
        (dict, ["a"]),
        (list, {"a": 1}),
    ]
    return next((other for kind, other in others if isinstance(value, kind)), [1])


def _malformed(how: str, made: Answer) -> bytes:
    if how == "html":
        made.headers["content-type"] = "text/html"
        return _HTML
    return {
        "half": made.body[: len(made.body) // 2],
        "empty": b"",
        "not-utf8": made.body[:-1] + b'\xff"}',
        "bom": b"\xef\xbb\xbf" + made.body,
    }[how]
