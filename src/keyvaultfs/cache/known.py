"""All that the cache knows of names: records, and their values. Every change of either is made here.

Whoever calls says what happened in the vault. What follows from it (what is stored and dropped, what others are told,
until when an answer is remembered) is decided here.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import OrderedDict
from typing import TYPE_CHECKING

import trio

from keyvaultfs.cache import freshness
from keyvaultfs.cache.freshness import FAILURE_SECONDS, Limits, Verdict
from keyvaultfs.cache.records import NEVER, Entry, Record, Rotated
from keyvaultfs.errors import BadAnswer, Disabled, NotFound, Refused, Unavailable
from keyvaultfs.model import UNREADABLE, Properties

if TYPE_CHECKING:
    from collections.abc import Collection

    from keyvaultfs.cache.values import ValueStore
    from keyvaultfs.metrics import CacheMetrics
    from keyvaultfs.model import ListItem, Secret, SecretName, Version

NOBODY_ANSWERED = (Unavailable, trio.TooSlowError)
ANSWERED_NO = (NotFound, Refused)

_MOST_ABSENT = 4096
"""Names of which only their absence is known: somebody may make them up."""


class Known:
    """Records by folded name.

    Args:
        shift: seconds from trio's clock to the one that outlives this process, for times in `store`.

    Attributes:
        rotated: what others are told of.
    """

    def __init__(self, limits: Limits, store: ValueStore, metrics: CacheMetrics, shift: float) -> None:
        self.records: dict[str, Record] = {}
        self.limits = limits
        self.store = store
        self.metrics = metrics
        self._shift = shift
        self._salt = os.urandom(16)
        self._absent: OrderedDict[str, None] = OrderedDict()
        self._send, self.rotated = trio.open_memory_channel[Rotated](math.inf)
        self._load()

    def record(self, name: SecretName) -> Record:
        """What is known of a name, perhaps nothing."""
        return self.records.setdefault(name.key, Record(name))

    def fresh(self, name: SecretName, now: float) -> Record | None:
        """What may be served without asking anybody."""
        record = self.records.get(name.key)
        return record if record is not None and record.fresh(now, self.limits) else None

    def was_refused(self, name: SecretName) -> bool:
        """Whether the vault's last answer was that the secret exists and may not be read."""
        record = self.records.get(name.key)
        return record is not None and isinstance(record.verdict, Refused)

    def is_disabled(self, name: SecretName) -> bool:
        """Whether the vault's last word on it was that it is switched off."""
        record = self.records.get(name.key)
        return record is not None and isinstance(record.verdict, Disabled)

    def is_over(self, record: Record, now: float) -> bool:
        """Whether a record can be dropped: it has neither a version, nor an absence or a refusal that still holds.

        A refusal is kept for `ttl` after it was in force: it tells which names are worth a request.
        """
        until = record.verdict_until
        if isinstance(record.verdict, Refused):
            until = freshness.ends(until, self.limits)
        return record.state(now, self.limits) is Verdict.GONE and now >= until

    def entry(self, record: Record, now: float) -> Entry:
        """A record that may be served, as others see it."""
        return record.entry(now, self.limits, retry=FAILURE_SECONDS)

    def refused(self, name: SecretName, now: float) -> Entry:
        """What stands for a name that is there and cannot be read, for as long as that is remembered."""
        record = self.record(name)
        expires = max(now, record.verdict_until)
        return Entry(record.name, UNREADABLE, Properties(enabled=False), now, expires, stale=False)

    # What the vault said.

    def is_current(self, record: Record, secret: Secret, sent: float) -> None:
        """A get gave the current version, asked for at `sent`.

        Raises:
            BadAnswer: it has another version's id, but not its bytes. Nothing is changed.
        """
        digest = self._compared(record, secret)
        racy = freshness.racy(secret)
        if record.version != secret.version:
            appeared = isinstance(record.verdict, NotFound | Disabled)
            self._tell(record, secret.version, appeared=appeared, updated=secret.properties.updated)
            self.metrics.rotations += record.version is not None
        record.name, record.version, record.properties = secret.name, secret.version, secret.properties
        record.digest, record.checked, record.racy, record.outdated = digest, sent, racy, False
        record.got = trio.current_time()
        record.verdict, record.verdict_until, record.hot, record.taken = None, NEVER, False, False
        self._absent.pop(record.name.key, None)
        self._put(secret, racy=racy, checked=sent + self._shift)

    def is_a_version(self, secret: Secret) -> None:
        """A get by its id gave a version, which may be the current one. Raises as `is_current`."""
        record = self.records.get(secret.name.key)
        checked = NEVER
        if record is not None and record.version == secret.version:
            self._compared(record, secret)
            checked = record.checked + self._shift
        self._put(secret, racy=True, checked=checked)

    def answered_no(self, record: Record, exc: Exception, now: float) -> None:
        """The vault has no such secret, or does not give it."""
        self.metrics.rotations += record.version is not None
        new = UNREADABLE if isinstance(exc, Refused) else None
        self._tell(record, new, gone=isinstance(exc, NotFound | Disabled))
        record.taken = isinstance(exc, Refused) and (record.taken or record.version is not None)
        if record.version is not None:
            self.store.drop(record.name, record.version)
        record.version, record.properties, record.digest, record.hot = None, None, b"", False
        record.verdict, record.verdict_until = exc, now + self.limits.negative_ttl
        self._absent[record.name.key] = None
        if len(self._absent) > _MOST_ABSENT:
            self.records.pop(self._absent.popitem(last=False)[0], None)

    def nobody_answered(self, record: Record, exc: Exception, now: float) -> None:
        """There was no answer."""
        record.verdict, record.verdict_until = exc, now + FAILURE_SECONDS

    # What a listing showed.

    def is_unchanged(self, record: Record, sent: float) -> None:
        """A listing, asked for at `sent`, shows it as it is known."""
        record.checked, record.hot = max(record.checked, sent), False
        self._check(record)

    def is_changed(self, record: Record, *, tell: bool, updated: int | None = None) -> None:
        """A listing shows it otherwise: it must be asked for before it is served as fresh.

        Args:
            record: of the name.
            tell: whether others are to hear of it before anybody asks.
            updated: of what it shows, in Unix seconds.
        """
        # Nobody may ever ask for it, and so it may change again and again while it is outdated.
        if tell and not (record.outdated and record.reported == updated):
            self._tell(record, None, updated=updated)
            record.reported = updated
        record.outdated = True

    def is_there(self, record: Record, item: ListItem, sent: float) -> None:
        """A listing, asked for at `sent`, shows a name without a version: the refusal may no longer be true."""
        again = isinstance(record.verdict, NotFound)
        if again or (isinstance(record.verdict, Disabled) and item.properties.enabled):
            record.verdict_until = sent

    # What was decided here.

    def forget(self) -> dict[str, int]:
        """Drop everything; returns how much of what was dropped."""
        names = sum(record.version is not None for record in self.records.values())
        for record in self.records.values():
            record.checked, record.verdict, record.verdict_until = NEVER, None, NEVER
        return {"values": self.store.clear(), "names": names}

    def expire(self, now: float) -> None:
        """Everything must be checked before it is served as fresh again."""
        for record in self.records.values():
            record.verdict_until = NEVER
            if record.version is not None:
                record.checked = min(record.checked, freshness.ended(now, self.limits))
                self._check(record)

    def let_go(self, record: Record) -> None:
        """Drop a name that nobody needs any more."""
        if record.version is not None:
            self.store.drop(record.name, record.version)
        self.records.pop(record.name.key, None)
        self._absent.pop(record.name.key, None)

    def let_go_versions(self, held: Collection[tuple[str, Version]]) -> None:
        """Values of versions that are neither current nor held, by folded name, are dropped."""
        for name, stored in self.store.secrets():
            current = self.records.get(name.key)
            is_current = current is not None and current.version == stored.version
            if not is_current and (name.key, stored.version) not in held:
                self.store.drop(name, stored.version)

    def states(self, now: float) -> list[Verdict]:
        """Of all names that have a version."""
        return [
            record.state(now, self.limits) for record in self.records.values() if record.version is not None
        ]

    def _compared(self, record: Record, secret: Secret) -> bytes:
        digest = hashlib.blake2b(secret.value.reveal(), digest_size=16, key=self._salt).digest()
        if record.version == secret.version and record.digest and record.digest != digest:
            raise BadAnswer("VersionChanged")
        return digest

    def _put(self, secret: Secret, *, racy: bool, checked: float) -> None:
        self.store.put(
            secret.name, secret.version, secret.value, secret.properties, racy=racy, checked=checked
        )
        self.metrics.evictions = self.store.evicted

    def _check(self, record: Record) -> None:
        if record.version is not None:
            self.store.check(record.name, record.version, record.checked + self._shift)

    def _tell(
        self,
        record: Record,
        new: Version | None,
        *,
        gone: bool = False,
        appeared: bool = False,
        updated: int | None = None,
    ) -> None:
        """Send word that a name stands for something else: its inode is to lose it. Arguments as of `Rotated`."""
        self._send.send_nowait(
            Rotated(record.name, record.version, new, gone=gone, appeared=appeared, updated=updated)
        )

    def _load(self) -> None:
        """What a predecessor left in the store."""
        for name, stored in self.store.secrets():
            record = self.record(name)
            checked = stored.checked - self._shift
            if checked > record.checked:
                record.name, record.version, record.properties = name, stored.version, stored.properties
                record.checked, record.racy = checked, stored.racy
                record.used = record.got = trio.current_time()  # who gave it when, the predecessor alone knew
