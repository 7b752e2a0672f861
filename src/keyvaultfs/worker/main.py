"""The only place that builds the chain: identity, client, cache, file system."""

from __future__ import annotations

# Python would look for these codecs when files can no longer be read: name resolution wants the first.
import encodings.idna
import encodings.utf_8_sig
import encodings.utf_16_be  # noqa: F401
import math
import os
import platform
import random
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pyfuse3
import trio

from keyvaultfs import ipc
from keyvaultfs.cache import values
from keyvaultfs.cache.cache import Cache, Limits
from keyvaultfs.cache.freshness import PAGE
from keyvaultfs.cache.values import ValueStore
from keyvaultfs.errors import KeyVaultFSError
from keyvaultfs.fence import fence
from keyvaultfs.files.files import Files
from keyvaultfs.files.shown import Shown, globs
from keyvaultfs.filesystem.askers import Asker, Askers
from keyvaultfs.filesystem.attributes import Appearance
from keyvaultfs.filesystem.audit import Audit, JsonLine, journal_entry
from keyvaultfs.filesystem.control import Control
from keyvaultfs.filesystem.inodes import slots
from keyvaultfs.filesystem.inodes.table import InodeTable
from keyvaultfs.filesystem.opener import Opener
from keyvaultfs.filesystem.opens import Opens
from keyvaultfs.filesystem.operations import Operations
from keyvaultfs.filesystem.readers import Current, Readers
from keyvaultfs.filesystem.resolver import Resolver
from keyvaultfs.filesystem.rotation import Rotation
from keyvaultfs.log import LOG, Causes
from keyvaultfs.metrics import Metrics
from keyvaultfs.model import NAME_PATTERN, SecretName
from keyvaultfs.settings import locations
from keyvaultfs.tallies import Tallies
from keyvaultfs.version import package_version
from keyvaultfs.worker import pump, takeover
from keyvaultfs.worker.chain import Chain
from keyvaultfs.worker.gauges import gauges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyvaultfs.files.changes import Changed
    from keyvaultfs.files.tree import Tree
    from keyvaultfs.filesystem.exposition import Gauges
    from keyvaultfs.ipc import Channel, Charge
    from keyvaultfs.model import ListItem
    from keyvaultfs.settings.options import Settings
    from keyvaultfs.worker.privileges import InForce

_MAX_TASKS = 4096
"""pyfuse3's default of 99 stops everything at the 99th hanging look-up; thousands cost nothing (tried)."""

_VERSION = package_version()
_SHORT_LISTING = 10
"""Pages. To read more each `ttl` for watchers who may not be there would spend a fleet's share of requests."""

_LENIENT_SECONDS = 2.0
"""After a take-over; see `Resolver.be_lenient`."""

_FOR_READERS = 2
"""Requests that background work leaves to programs that wait."""

_LEAN_BITS = 2
"""Each time that the kernel killed a worker for lack of memory, the next one keeps a quarter of the values."""

_CAUSES = 1000
"""Characters of a heartbeat that tell of causes: one that does not fit into a message is lost, and counts as missed."""

_FAREWELL_SECONDS = 0.2
_SWEEP_SECONDS = 60.0
_SUSPEND_CHECK_SECONDS = 2.0
_SUSPEND_GAP_SECONDS = 1.0


def serve(charge: Charge, settings: Settings, tree: Tree, in_force: InForce, channel: Channel) -> int:
    """Serve the mount until it ends.

    Returns:
        The process's exit code.

    Raises:
        KeyVaultFSError, takeover.TakeoverError, OSError: the worker could not start.
    """
    return trio.run(Worker(charge, settings, tree, in_force, channel).run)


class Worker:
    """One life of the serving process."""

    def __init__(
        self, charge: Charge, settings: Settings, tree: Tree, in_force: InForce, channel: Channel
    ) -> None:
        self.charge = charge
        self.settings = settings
        self.tree = tree
        self.in_force = in_force
        self.channel = channel
        self.metrics = Metrics()
        self.causes = Causes(trio.current_time)
        self.started = time.time()
        self._go = trio.Event()
        self._retired = trio.Event()
        self._fd = -1

    async def run(self) -> int:
        """Build the chain, wait for the keeper's word, attach, serve."""
        self.chain = Chain.build(self.charge.launch.vault, self.settings, self.metrics, self.causes)
        # Before it says that it is ready: what it cannot read, the worker that serves goes on with.
        slots.check(ipc.TABLE_FD)
        values.check(ipc.VALUES_FD)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            self.channel.send("standby")
            await self._go.wait()
            self._build()
            # Before the kernel is attached: a take-over without RESEND serves a request on its way.
            await nursery.start(self.cache.run)
            nursery.start_soon(self.chain.run)
            attached = await takeover.attach(
                self.operations,
                ipc.DEVICE_FD,
                init=bytes.fromhex(self.charge.init),
                init_answer=bytes.fromhex(self.charge.init_answer),
                resend=self.settings.resend,
                successor=self.charge.successor,
                poke=self._poke,
                hurry=self._fail_waiting,
            )
            self._fd = attached.fd
            if self.charge.successor:
                self.resolver.be_lenient(_LENIENT_SECONDS)
            nursery.start_soon(self.rotation.run)
            sender, receiver = trio.open_memory_channel[tuple["Changed", ...]](math.inf)
            nursery.start_soon(self.files.changes.follow, self.cache.rotated, sender)
            nursery.start_soon(self.rotation.follow, receiver)
            nursery.start_soon(self._watch_suspend)
            nursery.start_soon(self._sweep)
            nursery.start_soon(self._heartbeat)
            self.channel.send(
                "ready", **{ipc.INIT_ANSWER: attached.init_answer.hex()}, notes=self.in_force.notes
            )
            if not self.charge.successor:
                nursery.start_soon(self._probe)
            elif self.tree.written:
                self.rotation.reload()
            await pyfuse3.main(max_tasks=_MAX_TASKS)
            if not self._retired.is_set():
                self.channel.send("ended")
            # Threads may still wait for a name server or for the kernel: nobody waits for them.
            os._exit(0)

    def _build(self) -> None:
        pump.install()
        settings, chain = self.settings, self.chain
        owner, group = self.in_force.mounted_by
        self.table = InodeTable(ipc.TABLE_FD, chain.origin.base_url, self.tree)
        appearance = Appearance(
            uid=owner if settings.uid is None else settings.uid,
            gid=group if settings.gid is None else settings.gid,
            mode=settings.mode,
            dir_mode=settings.dir_mode,
            started=self.table.began // 10**9,
        )
        self.rotation = Rotation(
            self.table,
            self.metrics.filesystem,
            ask=self._ask_keeper,
            names=lambda: self.resolver,
            renames=self.charge.renames and settings.rename,
            refreshes=owner == 0,  # open_by_handle_at(2) is for root
            put_off=settings.timeout + 1,
        )
        max_cache = settings.max_cache >> (_LEAN_BITS * min(self.charge.lean, 8))
        limits = Limits(
            ttl=settings.ttl,
            list_ttl=settings.list_ttl,
            negative_ttl=settings.negative_ttl,
            max_stale=settings.max_stale,
            max_cache=max_cache,
            timeout=settings.timeout,
        )
        shown = Shown(settings.include, settings.exclude, settings.tags)
        self.cache = Cache(
            chain.client,
            limits,
            metrics=self.metrics.cache,
            causes=self.causes,
            rng=random.Random(),  # noqa: S311 - spreads requests, guards nothing
            store=ValueStore(ipc.VALUES_FD, max_cache),
            matches=shown.by_name,
            shows=shown.by_tags,
            prefetch=globs(settings.prefetch) if settings.prefetch else lambda _: False,
            prefetch_names=tuple(
                SecretName(glob) for glob in settings.prefetch if NAME_PATTERN.fullmatch(glob)
            ),
            pages_wanted=self._pages_wanted,
            listed=self._on_listed,
            held=lambda: self.files.editions.secrets(self.table.held()),
            let_go=self._let_go,
            concurrency=max(1, settings.max_requests - _FOR_READERS),
        )
        self.files = Files(self.tree, self.cache, self.causes, shown, decode=settings.decode)
        self.resolver = Resolver(self.files.editions, self.table, self.rotation, appearance)
        kept = ipc.READERS_FD if ipc.READERS_FD in self.charge.descriptors else None
        self.readers = Readers(kept, Asker, self.table.handles.by_number.__contains__)
        self.control = Control(
            appearance,
            self.metrics,
            status=self.status,
            refresh=self._refresh,
            gauges=self.gauges,
            readers=self._readers,
        )
        self.audit = self._audit()
        self.operations = Operations(
            files=self.files,
            causes=self.causes,
            table=self.table,
            resolver=self.resolver,
            opener=Opener(self.files.editions, self.table, self.rotation, self.resolver),
            announcements=self.rotation.announcements,
            control=self.control,
            appearance=appearance,
            metrics=self.metrics.filesystem,
            timeout=settings.timeout,
            base_url=chain.origin.base_url,
            opens=Opens(
                self.table,
                self.files.editions,
                Askers(),
                self.readers,
                mountpoint=self.charge.launch.mountpoint,
                audit=self.audit,
            ),
        )

    def _audit(self) -> Audit | None:
        if ipc.AUDIT_FD not in self.charge.descriptors:
            return None
        form = journal_entry if self.settings.audit == locations.JOURNAL else JsonLine()
        written = Tallies(ipc.TALLIES_FD) if ipc.TALLIES_FD in self.charge.descriptors else None
        return Audit(ipc.AUDIT_FD, form, self.metrics.audit, self.causes, written)

    def _settle_audit(self) -> None:
        if self.audit is not None:
            self.audit.settle()

    def status(self) -> dict[str, Any]:
        """What the file ``status`` shows; never a value."""
        self._settle_audit()
        return {
            "version": _VERSION,
            "vault": self.chain.origin.base_url,
            "mountpoint": self.charge.launch.mountpoint,
            "keeper": self.charge.keeper,
            "worker": os.getpid(),
            "since": int(self.started),
            "cache": self.cache.snapshot(),
            "files": len(self.tree.named),
            "broken": self.files.broken.snapshot(),
            "token": self.chain.token_status(),
            "causes": self.causes.open(),
            "problems": self.causes.problems(**self.chain.facts()),
            "fence": fence().fence.value,
            "audit": asdict(self.metrics.audit) if ipc.AUDIT_FD in self.charge.descriptors else None,
            "readers_behind": self.readers.behind(self._current),
            "workers": max(1, self.charge.workers),
            "privileges": asdict(self.in_force),
            "inodes": len(self.table.nodes),
            "open_files": len(self.table.handles.by_number),
            "threads": len(os.listdir("/proc/self/task")),  # noqa: PTH208 - names only, and cheap
            "python": platform.python_version(),
        }

    def gauges(self) -> Gauges:
        """What the file ``metrics`` shows beside the counters; never a value."""
        self._settle_audit()
        workers, broken = max(1, self.charge.workers), len(self.files.broken)
        found = gauges(self.chain, self.cache, version=_VERSION, workers=workers, broken=broken)
        return {**found, "readers_behind": self.readers.behind(self._current)}

    def _readers(self) -> dict[str, Any]:
        """What the file ``readers`` shows."""

        def edition_of(handle: int) -> str | None:
            found = self.table.handles.by_number.get(handle)
            return None if found is None else found.content.version

        return self.readers.snapshot(self._current, edition_of)

    def _current(self, path: str) -> Current | None:
        known = self.files.current(path)
        return None if known is None else Current(*known)

    def _poke(self) -> None:
        self.channel.send("poke")

    def _ask_keeper(self, token: str, do: str, name: str, inode: int) -> bool:
        return self.channel.send("announce", token=token, do=do, name=name, inode=inode)

    def _on_announced(self, message: ipc.Message) -> None:
        code = message.facts.get("code")
        if isinstance(code, int):
            self.rotation.announcements.ended(message.text("token"), code)

    def _on_listed(self, items: Sequence[ListItem]) -> None:
        files = self.files
        for file in self.rotation.folder.listed(files.listed(items), files.follows, files.is_listed):
            files.verify(file)
        self.rotation.stir()

    def _pages_wanted(self) -> float:
        """How many pages of the listing are read each `ttl` though nobody asks."""
        globs = not all(NAME_PATTERN.fullmatch(glob) for glob in self.settings.prefetch)
        if globs or self.settings.announce == "yes":
            return math.inf
        lists = any(directory.lists for directory in self.tree.directories.values())
        short = lists and self.cache.listings.size <= _SHORT_LISTING * PAGE
        return _SHORT_LISTING + 1 if self.settings.announce == "auto" and short else 0

    def _let_go(self, name: SecretName) -> None:
        self.rotation.forgetting.entries(
            self.table.entries.of_files(file.key for file in self.files.of(name))
        )

    def _refresh(self) -> dict[str, int]:
        dropped = self.cache.forget()
        self.files.editions.forget()
        self.rotation.forgetting.entries(self.table.entries.of_files())
        return dropped

    async def _listen(self) -> None:
        """The keeper's words. Its end is ours: what waits is answered first, so that nothing hangs in the kernel."""
        while True:
            try:
                message = self.channel.receive()
            except EOFError:
                break
            except ipc.Noise:
                continue
            if message is None:
                await trio.lowlevel.wait_readable(self.channel.sock)
            elif message.kind == "unmounted":
                self._fail_waiting()
            elif message.kind == "announced" and self._go.is_set():
                self._on_announced(message)
            elif message.kind == "go":
                self._go.set()
            elif message.kind == "retire":
                self._retired.set()
                break
        await self._farewell()
        os._exit(0)

    async def _farewell(self) -> None:
        """Take no more requests; a successor has those that are not answered sent again, so they are left alone."""
        if self._go.is_set():
            self.readers.flush()
        with trio.move_on_after(_FAREWELL_SECONDS):
            if not self._retired.is_set() and self._go.is_set():
                self._fail_waiting()
            while self._fd >= 0 and self.operations.in_flight:
                trio.lowlevel.notify_closing(self._fd)
                await trio.sleep(0.01)

    def _fail_waiting(self) -> None:
        """Answer what waits for the network with EIO: a process that waits on FUSE cannot be killed."""
        for scope in tuple(self.operations.in_flight):
            scope.cancel()

    async def _heartbeat(self) -> None:
        while True:
            self.table.handles.settle()
            self.readers.flush()
            self._settle_audit()
            self.channel.send("heartbeat", causes=",".join(sorted(self.causes.open()))[:_CAUSES])
            await trio.sleep(ipc.HEARTBEAT_SECONDS)

    async def _sweep(self) -> None:
        """What files were made of goes when neither they nor the kernel need it any more."""
        while True:
            await trio.sleep(_SWEEP_SECONDS)
            self.files.editions.sweep(self.table.held())

    async def _watch_suspend(self) -> None:
        """Trio's clock and the kernel's entry timeouts stand still while a machine is suspended: the gap is age."""
        gap = _boottime_gap()
        while True:
            await trio.sleep(_SUSPEND_CHECK_SECONDS)
            now = _boottime_gap()
            if now - gap > _SUSPEND_GAP_SECONDS:
                LOG.info("the machine was suspended for %.0f s: everything is checked again", now - gap)
                self.cache.expire()
                self.chain.renew()
                self.rotation.forgetting.entries(self.table.entries.of_files())
            gap = now

    async def _probe(self) -> None:
        try:
            with trio.fail_after(self.settings.timeout):
                await self.chain.client.probe()
        except (KeyVaultFSError, trio.TooSlowError) as exc:
            words = str(exc) if isinstance(exc, KeyVaultFSError) else "no answer within the timeout"
            self.channel.send("probed", words=words)
        else:
            self.channel.send("probed", words="")


def _boottime_gap() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
