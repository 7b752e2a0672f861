"""What the cache knows of one name, and what it tells others. Times in seconds of trio's clock."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from keyvaultfs.cache.freshness import Limits, Verdict, ends, judge

if TYPE_CHECKING:
    from keyvaultfs.model import Properties, SecretName, Version

NEVER = -math.inf


@dataclass(frozen=True, slots=True)
class Entry:
    """The current version of a secret, as far as is known.

    Attributes:
        checked: when the request was sent that last found it current.
        expires: until when no check is needed; for a stale one, when the next try is due.
    """

    name: SecretName
    version: Version
    properties: Properties
    checked: float
    expires: float
    stale: bool


class Rotated(NamedTuple):
    """A name no longer stands for `old`.

    `new` is UNREADABLE when the vault refuses its value, and None when there is no such name or nobody has asked.

    Attributes:
        gone: there is no such secret, or it is disabled.
        appeared: there was none a moment ago.
        updated: of what it stands for now, in Unix seconds.
    """

    name: SecretName
    old: Version | None
    new: Version | None
    gone: bool = False
    appeared: bool = False
    updated: int | None = None


@dataclass(slots=True, eq=False)
class Record:
    """One name. Its fields are changed in `known` alone, but for `touch`.

    Attributes:
        version: the last known one, None when there is none.
        checked: see `Entry`.
        got: when its value was last asked for, and given.
        racy: an equal `updated` proves nothing yet.
        outdated: the listing has shown another `updated` than this version's.
        reported: while it is outdated, the `updated` of the change that was announced, so that each is announced once.
        hot: looked up or opened since its last check.
        used: when it was last looked up or opened.
        taken: it could be read, and the vault refuses it now.
        verdict: the absence or refusal in force until `verdict_until`, or a failure remembered until then.
    """

    name: SecretName
    version: Version | None = None
    properties: Properties | None = None
    checked: float = NEVER
    got: float = NEVER
    racy: bool = False
    outdated: bool = False
    reported: int | None = None
    hot: bool = False
    used: float = NEVER
    digest: bytes = b""
    taken: bool = False
    verdict: Exception | None = None
    verdict_until: float = NEVER

    def fresh(self, now: float, limits: Limits) -> bool:
        """Whether its version may be served without asking anybody; `state` in less time."""
        return now < ends(self.checked, limits) and not self.outdated and self.version is not None

    def state(self, now: float, limits: Limits) -> Verdict:
        """Whether its version may be served."""
        if self.version is None:
            return Verdict.GONE
        found = judge(self.checked, now, limits)
        if found is Verdict.FRESH and self.outdated:
            return Verdict.STALE if limits.max_stale else Verdict.GONE
        return found

    def touch(self, now: float) -> None:
        """Somebody looked it up or opened it: it is hot."""
        self.hot, self.used = True, now

    def opened(self, now: float, limits: Limits) -> bool:
        """`fresh`; and where it is, `touch`."""
        fresh = self.fresh(now, limits)
        if fresh:
            self.touch(now)
        return fresh

    def entry(self, now: float, limits: Limits, *, retry: float) -> Entry:
        """As others see it; a stale one is to be tried again after `retry` seconds."""
        assert self.version is not None
        assert self.properties is not None
        fresh = self.state(now, limits) is Verdict.FRESH
        expires = ends(self.checked, limits) if fresh else now + retry
        return Entry(self.name, self.version, self.properties, self.checked, expires, not fresh)
