"""The only place that puts cache, files and file system together, and hands events from one to the other."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from keyvaultfs import ipc
from keyvaultfs.cache.cache import Cache, Limits
from keyvaultfs.cache.freshness import PAGE
from keyvaultfs.cache.values import ValueStore
from keyvaultfs.files.files import Files
from keyvaultfs.files.shown import Shown, globs
from keyvaultfs.filesystem.askers import Asker, Askers
from keyvaultfs.filesystem.attributes import Appearance
from keyvaultfs.filesystem.audit import Audit, JournalEntry, JsonLine
from keyvaultfs.filesystem.control import Control
from keyvaultfs.filesystem.inodes.table import InodeTable
from keyvaultfs.filesystem.opener import Opener
from keyvaultfs.filesystem.opens import Opens
from keyvaultfs.filesystem.operations import Operations
from keyvaultfs.filesystem.readers import Readers
from keyvaultfs.filesystem.resolver import Resolver
from keyvaultfs.filesystem.rotation import Rotation
from keyvaultfs.model import NAME_PATTERN, SecretName
from keyvaultfs.settings import locations
from keyvaultfs.tallies import Tallies
from keyvaultfs.worker.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from keyvaultfs.files.tree import Tree
    from keyvaultfs.ipc import Charge
    from keyvaultfs.log import Causes
    from keyvaultfs.metrics import Metrics
    from keyvaultfs.model import ListItem
    from keyvaultfs.settings.options import Settings
    from keyvaultfs.worker.chain import Chain
    from keyvaultfs.worker.privileges import InForce

_SHORT_LISTING = 10
"""Pages. To read more each `ttl` for watchers who may not be there would spend a fleet's share of requests."""

_FOR_READERS = 2
"""Requests that background work leaves to programs that wait."""

_LEAN_BITS = 2
"""Each time that the kernel killed a worker for lack of memory, the next one keeps a quarter of the values."""


class Parts:
    """What a worker serves with. Reads the table and the values of a predecessor, so one at a time has it.

    Args:
        charge: what the keeper says.
        settings: the mount's options.
        tree: its files and directories.
        in_force: who mounted.
        chain: the vault's client.
        metrics: counted here.
        causes: told of what is wrong.
        announce: has the keeper rename, so that watchers notice; see `Rotation`.
    """

    def __init__(
        self,
        charge: Charge,
        settings: Settings,
        tree: Tree,
        in_force: InForce,
        chain: Chain,
        *,
        metrics: Metrics,
        causes: Causes,
        announce: Callable[[str, str, str, int], bool],
    ) -> None:
        self._settings = settings
        self.tree = tree
        owner, group = in_force.mounted_by
        self.table = InodeTable(ipc.TABLE_FD, chain.origin.base_url, tree)
        appearance = Appearance(
            uid=owner if settings.uid is None else settings.uid,
            gid=group if settings.gid is None else settings.gid,
            mode=settings.mode,
            dir_mode=settings.dir_mode,
            started=self.table.began // 10**9,
        )
        self.rotation = Rotation(
            self.table,
            metrics.filesystem,
            ask=announce,
            names=lambda: self.resolver,
            renames=charge.renames and settings.rename,
            refreshes=owner == 0,  # open_by_handle_at(2) is for root
            put_off=settings.timeout + 1,
        )
        shown = Shown(settings.include, settings.exclude, settings.tags)
        self.cache = self._cache(charge, chain, shown, metrics, causes)
        self.files = Files(tree, self.cache, causes, shown, decode=settings.decode)
        self.resolver = Resolver(self.files.editions, self.table, self.rotation, appearance)
        kept = ipc.READERS_FD if ipc.READERS_FD in charge.descriptors else None
        self.readers = Readers(kept, Asker, self.table.handles.by_number.__contains__)
        self._audit = _audit(charge, settings, metrics, causes)
        report = Report(
            charge,
            in_force,
            chain=chain,
            cache=self.cache,
            files=self.files,
            tree=tree,
            table=self.table,
            readers=self.readers,
            metrics=metrics,
            causes=causes,
            settle=self._settle_audit,
        )
        self.operations = Operations(
            files=self.files,
            causes=causes,
            table=self.table,
            resolver=self.resolver,
            opener=Opener(self.files.editions, self.table, self.rotation, self.resolver),
            announcements=self.rotation.announcements,
            control=Control(
                appearance,
                metrics,
                status=report.status,
                refresh=self._refresh,
                gauges=report.gauges,
                readers=report.readers,
            ),
            appearance=appearance,
            metrics=metrics.filesystem,
            timeout=settings.timeout,
            base_url=chain.origin.base_url,
            opens=Opens(
                self.table,
                self.files.editions,
                Askers(),
                self.readers,
                mountpoint=charge.launch.mountpoint,
                audit=self._audit,
            ),
        )

    def _cache(self, charge: Charge, chain: Chain, shown: Shown, metrics: Metrics, causes: Causes) -> Cache:
        settings = self._settings
        max_cache = settings.max_cache >> (_LEAN_BITS * min(charge.lean, 8))
        limits = Limits(
            ttl=settings.ttl,
            list_ttl=settings.list_ttl,
            negative_ttl=settings.negative_ttl,
            max_stale=settings.max_stale,
            max_cache=max_cache,
            timeout=settings.timeout,
        )
        return Cache(
            chain.client,
            limits,
            metrics=metrics.cache,
            causes=causes,
            rng=random.Random(),  # noqa: S311 - spreads requests, guards nothing
            store=ValueStore(ipc.VALUES_FD, max_cache),
            matches=shown.by_name,
            shows=shown.by_tags,
            prefetch=globs(settings.prefetch) if settings.prefetch else lambda _: False,
            prefetch_names=_names(settings.prefetch),
            pages_wanted=self._pages_wanted,
            listed=self._on_listed,
            held=lambda: self.files.editions.secrets(self.table.held()),
            let_go=self._let_go,
            concurrency=max(1, settings.max_requests - _FOR_READERS),
        )

    def settle(self) -> None:
        """Write down for a successor what is only in memory. To be called every moment."""
        self.table.handles.settle()
        self.readers.flush()
        self._settle_audit()

    def _settle_audit(self) -> None:
        if self._audit is not None:
            self._audit.settle()

    def sweep(self) -> None:
        """Let go of what files were made of, where neither they nor the kernel need it any more."""
        self.files.editions.sweep(self.table.held())

    def expire(self) -> None:
        """Have everything checked again before it is served."""
        self.cache.expire()
        self.rotation.forgetting.entries(self.table.entries.of_files())

    def _refresh(self) -> dict[str, int]:
        dropped = self.cache.forget()
        self.files.editions.forget()
        self.rotation.forgetting.entries(self.table.entries.of_files())
        return dropped

    def _on_listed(self, items: Sequence[ListItem]) -> None:
        files = self.files
        for file in self.rotation.folder.listed(files.listed(items), files.follows, files.is_listed):
            files.verify(file)
        self.rotation.stir()

    def _pages_wanted(self) -> float:
        """How many pages of the listing are read each `ttl` though nobody asks."""
        settings = self._settings
        if len(_names(settings.prefetch)) < len(settings.prefetch) or settings.announce == "yes":
            return math.inf
        lists = any(directory.lists for directory in self.tree.directories.values())
        short = lists and self.cache.listings.size <= _SHORT_LISTING * PAGE
        return _SHORT_LISTING + 1 if settings.announce == "auto" and short else 0

    def _let_go(self, name: SecretName) -> None:
        self.rotation.forgetting.entries(
            self.table.entries.of_files(file.key for file in self.files.of(name))
        )


def _names(globs: tuple[str, ...]) -> tuple[SecretName, ...]:
    """The secrets that globs name outright."""
    return tuple(SecretName(glob) for glob in globs if NAME_PATTERN.fullmatch(glob))


def _audit(charge: Charge, settings: Settings, metrics: Metrics, causes: Causes) -> Audit | None:
    if ipc.AUDIT_FD not in charge.descriptors:
        return None
    form = JournalEntry() if settings.audit == locations.JOURNAL else JsonLine()
    written = Tallies(ipc.TALLIES_FD) if ipc.TALLIES_FD in charge.descriptors else None
    return Audit(ipc.AUDIT_FD, form, metrics.audit, causes, written)
