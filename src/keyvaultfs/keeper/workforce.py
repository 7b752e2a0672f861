"""Starts, kills and buries workers as `succession` says, and holds what goes from one to the next, unread."""

from __future__ import annotations

import os
import select
import signal
import time
from typing import TYPE_CHECKING

from keyvaultfs import ipc
from keyvaultfs.errors import KeyVaultFSError
from keyvaultfs.keeper.inheritance import Inheritance
from keyvaultfs.keeper.memory import OutOfMemory
from keyvaultfs.keeper.process import WorkerProcess
from keyvaultfs.keeper.spawn import spawn
from keyvaultfs.keeper.succession import Act, Succession
from keyvaultfs.keeper.supervisor import Step, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keyvaultfs.ipc import Launch
    from keyvaultfs.keeper.audit import AuditTarget
    from keyvaultfs.keeper.children import Children
    from keyvaultfs.keeper.notify import Notifier
    from keyvaultfs.keeper.sink import Sink
    from keyvaultfs.keeper.spawn import Begun

_INIT_SECONDS = 5.0
_DROPPED = {3: ("values", (ipc.VALUES_FD, ipc.READERS_FD)), 4: ("inodes", (ipc.TABLE_FD,))}
"""What the next worker begins without, by how many before it could not serve."""

_STOP_SECONDS = 1.0
_ERR, _WARNING, _INFO = 3, 4, 6


class Workforce:
    """The workers of one mount.

    Args:
        launch: what each of them is told to mount.
        device: the FUSE device, from which the kernel's INIT is still to be read.
        renames: whether announcements can be made by rename(2).
        max_cache: bytes that a worker's cached values may take.
        audit: where records of opens go.
        sink: takes log lines.
        notifier: speaks to systemd.
        children: reaps those that are dead.
        hear: reads what a worker still has to say.
        begun: the first worker, if it has been started ahead.

    Raises:
        OSError: there is no memory, or the kernel is silent.
    """

    def __init__(
        self,
        launch: Launch,
        device: int,
        *,
        renames: bool,
        max_cache: int,
        audit: AuditTarget,
        sink: Sink,
        notifier: Notifier,
        children: Children,
        hear: Callable[[WorkerProcess], None],
        begun: Begun | None = None,
    ) -> None:
        self._begun = begun
        self.supervisor = Supervisor(ipc.HEARTBEAT_SECONDS)
        self.succession: Succession[WorkerProcess] = Succession(self.supervisor)
        self.served = False
        self._launch = launch
        self._device = device
        self._renames = renames
        self._audit = audit
        self._sink = sink
        self._notifier = notifier
        self._children = children
        self._hear = hear
        self._memory = OutOfMemory()
        self._init_answer = ""
        self._started = 0
        self._lean = 0
        self._last_words = "it could not be started"
        self._inheritance = Inheritance(max_cache)
        self._init = _read_init(device)

    def init_answered(self, answer: str) -> None:
        """Keep what a worker has answered to INIT, as hex: the kernel has had one answer, whatever a later one says."""
        if not self._init_answer and len(bytes.fromhex(answer)) >= ipc.SHORTEST_INIT_ANSWER:
            self._init_answer = answer

    def given_up(self, now: float) -> str:
        """Why no more workers are started; "" while they are."""
        if self.supervisor.step(now) is not Step.GIVE_UP:
            return ""
        times = self.supervisor.failures
        return f"{times} workers in a row could not serve; the last said: {self._last_words}"

    def reload(self) -> None:
        """Start a successor beside the worker that serves."""
        self._notifier.reloading()
        try:
            self._audit.reopen(self._children.bury)
        except KeyVaultFSError as exc:
            self._sink.say(_ERR, f"{exc}; records go where they went")
        self._sink.say(_INFO, "reload: a new worker starts; the old one serves until it is ready")
        try:
            self._start()
        except OSError:
            self._notifier.send("READY=1")
            raise

    def act(self, act: Act, process: WorkerProcess | None, *, quiet: bool) -> None:
        """Do what `Succession.turn` says.

        Args:
            quiet: whether a worker's death is expected, since the mount is gone.
        """
        if process is None:
            self._drop_what_may_kill()
            self._start()
        elif act is Act.GO:
            process.channel.send("go")
        elif act is Act.RETIRE:
            process.channel.send("retire")
        elif act in {Act.KILL, Act.KILL_HANGING}:
            if act is Act.KILL_HANGING:
                self._sink.say(_ERR, f"worker {process.pid} hangs: it missed its heartbeats and is killed")
            process.kill()
        elif act is Act.BURY:
            self._bury(process, quiet=quiet)
        else:
            words = self._last_words_of(process)
            self._sink.say(_ERR, f"reload: the new worker cannot start, the old one stays: {words}")
            self._notifier.send("READY=1")

    def _start(self) -> None:
        self._started += 1
        audit = self._audit.descriptors()
        handed = {ipc.DEVICE_FD: self._device, **self._inheritance.descriptors(), **audit}
        charge = ipc.Charge(
            launch=self._launch,
            init=self._init.hex(),
            init_answer=self._init_answer,
            successor=self.served,
            keeper=os.getpid(),
            renames=self._renames,
            workers=self._started,
            lean=self._lean,
            descriptors=(ipc.READERS_FD, *audit),
        )
        now = time.monotonic()
        self._memory.note()
        try:
            process = self._process(charge, handed)
        except OSError:
            self.supervisor.not_started(now)
            raise
        self.succession.began(process, now)

    def _process(self, charge: ipc.Charge, handed: Mapping[int, int]) -> WorkerProcess:
        begun, self._begun = self._begun, None
        if begun is not None:
            return WorkerProcess(begun, charge, handed)
        return WorkerProcess(spawn(handed, charge.launch.mountpoint, os.environ), charge)

    def _drop_what_may_kill(self) -> None:
        """Workers that never serve may die of what an earlier one left, broken or taken over: it goes in the end.

        Values first, which are fetched again; then the table, without which the kernel's inodes are stale.
        """
        times = self.supervisor.unserved
        if self.served and times in _DROPPED:
            name, numbers = _DROPPED[times]
            self._inheritance.drop(*numbers)
            self._sink.say(_ERR, f"{times} workers could not serve: the next one begins without {name}")

    def _bury(self, process: WorkerProcess, *, quiet: bool) -> None:
        life = self.succession.life(process)
        words = self._last_words_of(process)
        struck = self._memory.struck()
        has_it = self.succession.successor is not None
        for name in self._inheritance.drop_what_is_too_large(in_need=struck, handed=has_it):
            self._sink.say(
                _ERR, f"worker {process.pid} left too much: the next one begins without its {name}"
            )
        if struck:
            # What is cached lies in memory of this control group too, and the next worker keeps less of it.
            self._inheritance.drop(ipc.VALUES_FD, handed=has_it)
            self._lean = self.supervisor.out_of_memory(time.monotonic())
            words = "the kernel killed it for lack of memory: cached values are dropped, and fewer are kept"
        elif process.killed_by == signal.SIGKILL and life is not None and life.killed is None:
            self.supervisor.excuse()
        if (life is None or life.retire_by is None) and not quiet:
            self._sink.say(_WARNING, f"worker {process.pid} died: {words}")
        self._last_words = words

    def _last_words_of(self, process: WorkerProcess) -> str:
        """Hear a dead worker out, forget it, and have it reaped later."""
        self._hear(process)
        lines = [line[3:] if line.startswith("<") else line for line in process.last_lines]
        self._children.bury(process.pid)
        process.close()
        return process.words or " | ".join(lines[-2:]) or "it said nothing"

    def dismiss(self) -> None:
        """See that all end, whatever their threads wait for; the mount is gone."""
        end = time.monotonic() + _STOP_SECONDS
        for life in self.succession.lives():
            process = life.process
            while not process.dead() and time.monotonic() < end - _STOP_SECONDS / 2:
                select.select([process.log_fd] if process.log_open else [], [], [], 0.02)
                self._hear(process)
            process.channel.sock.close()
            while not process.dead() and time.monotonic() < end:
                time.sleep(0.01)
            process.kill()


def _read_init(device: int) -> bytes:
    ready, _, _ = select.select([device], [], [], _INIT_SECONDS)
    if not ready:
        raise TimeoutError("the kernel sent no INIT")
    return os.read(device, 1 << 21)
