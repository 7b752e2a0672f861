"""Misbehaviour on demand: rules that say which requests go wrong, and how."""

from __future__ import annotations

import base64
import binascii
import itertools
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keyvaultfs_devvault.request import Call

DENIALS = ("policy", "rbac", "firewall", "connection", "obo", "disabled")
REJECTIONS = ("missing", "audience", "issuer", "expired", "key", "claims")
OUTAGES = ("reset", "refuse", "silent")
MALFORMED = ("half", "html", "empty", "not-utf8", "bom")
PAGES = ("empty", "null")
_CHOICES = {
    "deny": DENIALS,
    "outage": OUTAGES,
    "malformed": MALFORMED,
    "page": PAGES,
    "which": ("vault", "imds", "both"),
}
_NUMBERS: dict[str, type | tuple[type, ...]] = {
    "times": int,
    "after": int,
    "latency": (int, float),
    "delay": (int, float),
    "status": int,
    "huge": int,
    "pad": int,
    "body_rate": (int, float),
    "rate": (int, float),
    "reset": int,
    "close": int,
    "stall": int,
    "lifetime": (int, float),
    "claimed": (int, float),
}


@dataclass(slots=True, kw_only=True)
class Rule:
    """One misbehaviour. What is None is as usual.

    Which requests:
        which: "vault", "imds", or "both".
        op: one word or several: any, get, version, list, versions, set, update, delete, list_deleted,
            get_deleted, recover, purge, backup, restore, token; challenge is any request of the vault without
            a token, and only `any` and `challenge` match such.
        name: a glob, without regard to case.
        after: how many matching requests pass first. times: for how many it then holds; None for ever.

    Before the answer:
        latency: seconds before the vault looks. delay: seconds between looking and answering. hang: no
        answer until the client gives up.

    Instead of the answer:
        status, code, message, inner_code: an error of Key Vault. json: another JSON body.
        body_base64, content_type: any bytes. huge: a value of so many MiB. redirect: the Location of a 307.
        raw: a whole HTTP response, letter for letter (latin-1), with any framing; pad: so many MiB of "a" behind
        it; then the connection is closed.
        deny: a 403. reject: a 401, one of REJECTIONS or any message.

    The answer, spoilt:
        headers: added. merge: replaces fields of the JSON, null removes. wrong_types: fields (or all, if
        empty) get another type. malformed: one of MALFORMED. page: "empty" puts an empty page before each
        page, "null" is a list of null. next_link: "loop", "foreign", or a URL. challenge: resource of the
        `WWW-Authenticate`, "" leaves the header out. lifetime, claimed: seconds that a new token lives, and
        that the answer says.

    Its way to the client:
        body_rate: bytes per second. rate: the same, headers too. reset, close, stall: after so many bytes,
        headers included, the connection is reset, closed, or falls silent.
        outage: not about requests but the whole listener: "reset" and "silent" accept, "refuse" does not.
    """

    which: str = "vault"
    op: list[str] = field(default_factory=lambda: ["any"])
    name: str = "*"
    after: int = 0
    times: int | None = None
    latency: float | None = None
    delay: float | None = None
    hang: bool = False
    status: int | None = None
    code: str | None = None
    message: str | None = None
    inner_code: str | None = None
    json: Any = None
    body_base64: str | None = None
    content_type: str | None = None
    huge: int | None = None
    raw: str | None = None
    pad: int | None = None
    redirect: str | None = None
    deny: str | None = None
    reject: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    merge: dict[str, Any] | None = None
    wrong_types: list[str] | None = None
    malformed: str | None = None
    page: str | None = None
    next_link: str | None = None
    challenge: str | None = None
    lifetime: float | None = None
    claimed: float | None = None
    body_rate: float | None = None
    rate: float | None = None
    reset: int | None = None
    close: int | None = None
    stall: int | None = None
    outage: str | None = None
    id: int = field(default=0)
    hits: int = field(default=0)

    @classmethod
    def parse(cls, raw: object) -> Rule:
        """A rule from JSON. `op` may be one word, and true stands for 0 bytes in reset, close, stall.

        Raises:
            ValueError: saying what is wrong with it.
        """
        if not isinstance(raw, dict):
            raise ValueError("a rule is a JSON object")  # noqa: TRY004 - all are the caller's mistakes
        known = {item.name for item in fields(cls)} - {"id", "hits"}
        if unknown := sorted(set(raw) - known):
            raise ValueError(f"unknown in a rule: {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        given = dict(raw)
        if isinstance(given.get("op"), str):
            given["op"] = [given["op"]]
        for name in ("reset", "close", "stall"):
            if given.get(name) is True:
                given[name] = 0
        _check(given)
        return cls(**given)

    def matches(self, call: Call) -> bool:
        """Whether it is about this request, times and after aside."""
        if self.outage is not None or self.which not in (call.which, "both"):
            return False
        op = call.op if call.had_token or call.which == "imds" else "challenge"
        return ("any" in self.op or op in self.op) and fnmatchcase(
            (call.name or "").lower(), self.name.lower()
        )

    def raw_body(self) -> bytes | None:
        """The bytes of `body_base64`."""
        return None if self.body_base64 is None else base64.b64decode(self.body_base64)

    def framed(self) -> bytes | None:
        """The bytes of `raw`."""
        return None if self.raw is None else self.raw.encode("latin-1")


def _check(given: dict[str, Any]) -> None:
    for name, choices in _CHOICES.items():
        if given.get(name) is not None and given[name] not in choices:
            raise ValueError(f"{name} is one of {', '.join(choices)}")
    for name, kind in _NUMBERS.items():
        if given.get(name) is not None and (
            isinstance(given[name], bool) or not isinstance(given[name], kind)
        ):
            raise ValueError(f"{name} is a number")
    raw = given.get("raw") or ""
    if not isinstance(raw, str) or not all(ord(letter) < 256 for letter in raw):
        raise ValueError("raw is a text of latin-1")
    if not all(isinstance(op, str) for op in given.get("op", [])):
        raise ValueError("op is a word or a list of words")
    try:
        base64.b64decode(given.get("body_base64") or "", validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise ValueError("body_base64 is not base64") from None


class Rules:
    """The rules in force. Of several that match, the newest one applies."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._number = itertools.count(1)

    def add(self, rule: Rule) -> int:
        """Put a rule in force; returns its id."""
        rule.id = next(self._number)
        self._rules.insert(0, rule)
        return rule.id

    def take(self, call: Call) -> Rule | None:
        """The rule for a request; it counts as used."""
        for rule in self._rules:
            if not rule.matches(call):
                continue
            if rule.after > 0:
                rule.after -= 1
                continue
            if rule.times is not None:
                if rule.times <= 0:
                    continue
                rule.times -= 1
            rule.hits += 1
            return rule
        return None

    def outage(self, which: str) -> str | None:
        """How the listener of "vault" or "imds" is out of order, or None."""
        return next(
            (rule.outage for rule in self._rules if rule.outage and rule.which in (which, "both")), None
        )

    def clear(self, number: int | None = None) -> None:
        """Lift one rule, or all."""
        self._rules = [rule for rule in self._rules if number is not None and rule.id != number]

    def report(self) -> list[dict[str, Any]]:
        """The rules in force, newest first, with `hits`."""
        return [asdict(rule) for rule in self._rules]
