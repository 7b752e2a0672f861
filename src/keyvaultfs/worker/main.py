"""One life of the serving process: start, attach to the kernel, serve, end."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import pyfuse3
import trio

from keyvaultfs import ipc
from keyvaultfs.cache import values
from keyvaultfs.errors import KeyVaultFSError
from keyvaultfs.filesystem.inodes import slots
from keyvaultfs.log import LOG, Causes
from keyvaultfs.metrics import Metrics
from keyvaultfs.worker import pump, suspend, takeover
from keyvaultfs.worker.chain import Chain
from keyvaultfs.worker.parts import Parts

if TYPE_CHECKING:
    from keyvaultfs.files.changes import Changed
    from keyvaultfs.files.tree import Tree
    from keyvaultfs.ipc import Channel, Charge
    from keyvaultfs.settings.options import Settings
    from keyvaultfs.worker.privileges import InForce

_MAX_TASKS = 4096
"""pyfuse3's default of 99 stops everything at the 99th hanging look-up; thousands cost nothing (tried)."""

_LENIENT_SECONDS = 2.0
"""After a take-over; see `Resolver.be_lenient`."""

_CAUSES = 1000
"""Characters of a heartbeat that tell of causes: one that does not fit into a message is lost, and counts as missed."""

_FAREWELL_SECONDS = 0.2
_SWEEP_SECONDS = 60.0


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
            await nursery.start(self.parts.cache.run)
            init, resend = bytes.fromhex(self.charge.init), self.settings.resend
            relays = self.charge.successor and not takeover.resends(init, wanted=resend)
            if relays:  # a request on its way is served before the kernel is attached, and may ask the vault
                nursery.start_soon(self.chain.run)
            attached = await takeover.attach(
                self.parts.operations,
                ipc.DEVICE_FD,
                init=init,
                init_answer=bytes.fromhex(self.charge.init_answer),
                resend=resend,
                successor=self.charge.successor,
                poke=self._poke,
                hurry=self._fail_waiting,
            )
            self._fd = attached.fd
            parts = self.parts
            if self.charge.successor:
                parts.resolver.be_lenient(_LENIENT_SECONDS)
            nursery.start_soon(parts.rotation.run)
            sender, receiver = trio.open_memory_channel[tuple["Changed", ...]](math.inf)
            nursery.start_soon(parts.files.changes.follow, parts.cache.rotated, sender)
            nursery.start_soon(parts.rotation.follow, receiver)
            nursery.start_soon(suspend.watch, self._was_suspended)
            nursery.start_soon(self._sweep)
            nursery.start_soon(self._heartbeat)
            self.channel.send(
                "ready", **{ipc.INIT_ANSWER: attached.init_answer.hex()}, notes=self.in_force.notes
            )
            if not relays:
                nursery.start_soon(self.chain.run)
            if not self.charge.successor:
                nursery.start_soon(self._probe)
            elif self.tree.written:
                parts.rotation.reload()
            await pyfuse3.main(max_tasks=_MAX_TASKS)
            if not self._retired.is_set():
                self.channel.send("ended")
            # Threads may still wait for a name server or for the kernel: nobody waits for them.
            os._exit(0)

    def _build(self) -> None:
        pump.install()
        self.parts = Parts(
            self.charge,
            self.settings,
            self.tree,
            self.in_force,
            self.chain,
            metrics=self.metrics,
            causes=self.causes,
            announce=self._announce,
        )

    def _announce(self, token: str, do: str, name: str, inode: int) -> bool:
        return self.channel.send("announce", token=token, do=do, name=name, inode=inode)

    def _poke(self) -> None:
        self.channel.send("poke")

    def _on_announced(self, message: ipc.Message) -> None:
        code = message.facts.get("code")
        if isinstance(code, int):
            self.parts.rotation.announcements.ended(message.text("token"), code)

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
            self.parts.readers.flush()
        with trio.move_on_after(_FAREWELL_SECONDS):
            if not self._retired.is_set() and self._go.is_set():
                self._fail_waiting()
            while self._fd >= 0 and self.parts.operations.in_flight:
                trio.lowlevel.notify_closing(self._fd)
                await trio.sleep(0.01)

    def _fail_waiting(self) -> None:
        """Answer what waits for the network with EIO: a process that waits on FUSE cannot be killed."""
        for scope in tuple(self.parts.operations.in_flight):
            scope.cancel()

    async def _heartbeat(self) -> None:
        while True:
            self.parts.settle()
            self.channel.send("heartbeat", causes=",".join(sorted(self.causes.open()))[:_CAUSES])
            await trio.sleep(ipc.HEARTBEAT_SECONDS)

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(_SWEEP_SECONDS)
            self.parts.sweep()

    def _was_suspended(self, seconds: float) -> None:
        LOG.info("the machine was suspended for %.0f s: everything is checked again", seconds)
        self.chain.renew()
        self.parts.expire()

    async def _probe(self) -> None:
        try:
            with trio.fail_after(self.settings.timeout):
                await self.chain.client.probe()
        except (KeyVaultFSError, trio.TooSlowError) as exc:
            words = str(exc) if isinstance(exc, KeyVaultFSError) else "no answer within the timeout"
            self.channel.send("probed", words=words)
        else:
            self.channel.send("probed", words="")
