"""The keeper: holds the mount, starts workers, and outlives them. One poll loop, standard library only.

Nothing that a worker sends, no name in the mount table and no failed system call ends the loop: each step runs under
`Guard`. What is decided lies in `succession` (who serves), `readiness` (when it counts as mounted) and `supervisor`
(when to start, to kill, to give up); `workforce` does it, and here is the loop.
"""

from __future__ import annotations

import select
import signal
import time
from functools import partial
from typing import TYPE_CHECKING

from keyvaultfs import ipc
from keyvaultfs.keeper import announce, mounting, unmounting
from keyvaultfs.keeper.announce import Announcer
from keyvaultfs.keeper.announcing import Announcing
from keyvaultfs.keeper.audit import AuditTarget
from keyvaultfs.keeper.children import Children
from keyvaultfs.keeper.guard import Guard
from keyvaultfs.keeper.mail import Mail
from keyvaultfs.keeper.notify import Notifier
from keyvaultfs.keeper.presence import Presence
from keyvaultfs.keeper.process import WorkerProcess
from keyvaultfs.keeper.readiness import Readiness
from keyvaultfs.keeper.signals import STOPS, Signals
from keyvaultfs.keeper.sink import Sink
from keyvaultfs.keeper.spawn import high
from keyvaultfs.keeper.supervisor import Step
from keyvaultfs.keeper.workforce import Workforce

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyvaultfs.ipc import Launch, Message
    from keyvaultfs.keeper.spawn import Begun
    from keyvaultfs.settings.options import Settings

_TICK_SECONDS = 0.2
"""How often the worker's state is read: SIGCHLD waits for its last thread, and a thread may be stuck."""

_ANNOUNCE_SECONDS = 5.0
"""Beyond the time of one request of the kernel, since a rename waits for a look-up in the same folder."""

_ERR, _WARNING, _INFO = 3, 4, 6


class Keeper:
    """One mount, from its begin to its end.

    Args:
        launch: what to mount.
        settings: its options.
        mounted: called once with an exit code and a line for people: when the mount answers, or cannot.
        begun: the first worker, if it has been started ahead.
    """

    def __init__(
        self,
        launch: Launch,
        settings: Settings,
        mounted: Callable[[int, str], None],
        begun: Begun | None = None,
    ) -> None:
        self.launch = launch
        self._begun = begun
        self.settings = settings
        self._mounted: Callable[[int, str], None] | None = mounted
        self.sink = Sink(foreground=launch.foreground)
        self.notifier = Notifier()
        self.readiness = Readiness(
            strict=settings.strict, foreground=launch.foreground, timeout=settings.timeout
        )
        self.children = Children()
        self.guard = Guard(lambda text: self.sink.say(_ERR, text))
        self.mail = Mail(self.sink)
        self._asking: int | None = None
        self._stop: str | None = None
        self._exit = 0
        self._next_watchdog = 0.0
        self._on: dict[str, Callable[[WorkerProcess, Message], None]] = {
            "heartbeat": self._on_heartbeat,
            "standby": self._on_standby,
            "ready": self._on_ready,
            "probed": self._on_probed,
            "failed": self._on_failed,
            "announce": lambda process, message: self.announcing.asked(process, message, time.monotonic()),
            "poke": self._on_poke,
            "ended": lambda *_: self.presence.reread(),
        }

    def run(self) -> int:
        """Mount, serve, unmount.

        Returns:
            The exit code: 0 after an unmount from anywhere, 1 when the mount could not be held.
        """
        self.audit = AuditTarget(self.settings.audit)
        made = mounting.mount(self.launch, self.settings)
        self.device = high(made.device)
        self.announcer = Announcer(
            made.clone if made.clone < 0 else high(made.clone),
            self.launch.mountpoint,
            self.settings.timeout + _ANNOUNCE_SECONDS,
            self.children.crowded,
        )
        self.presence = Presence(mounting.connection(self.launch.mountpoint), self.device)
        try:
            self.workforce = Workforce(
                self.launch,
                self.device,
                renames=made.writable,
                max_cache=self.settings.max_cache,
                audit=self.audit,
                sink=self.sink,
                notifier=self.notifier,
                children=self.children,
                hear=self._hear,
                begun=self._begun,
            )
            self.succession = self.workforce.succession
            self.supervisor = self.workforce.supervisor
            self.announcing = Announcing(self.announcer, self.succession, self.children)
            self.signals = Signals()
        except Exception:
            self._unmount(abort=True)
            raise
        self.guard.run(self._mind_workers)  # the first one starts now, and not after a tick
        while self._stop is None:
            self._turn()
        self.notifier.send("STOPPING=1")
        self.guard.run(self._unmount)
        self.guard.run(self.workforce.dismiss)
        self.guard.run(self.audit.end)
        if self._mounted is None:
            self.sink.say(_ERR if self._exit else _INFO, self._stop)
        self._tell_mounted(self._exit, self._stop)
        return self._exit

    def _turn(self) -> None:
        """Wait for something to happen, at most a tick, and do what follows from it."""
        events: set[int] = set()
        self.guard.run(self._wait, events)
        if self.signals.fileno() in events:
            self.guard.run(self._on_signals)
        for life in self.succession.lives():
            if life.process.log_fd in events:
                self.guard.run(self.mail.pass_log, life.process)
            if life.process.channel.sock.fileno() in events:
                self.guard.run(self._on_messages, life.process)
        if self.announcer.fileno() in events:
            self.guard.run(self.announcing.made)
        self.guard.run(self._reap)
        self.guard.run(self._mind_presence, self.presence.fd in events)
        self.guard.run(self._mind_workers)
        self.guard.run(self._mind_readiness)
        self.guard.run(self._tick)
        self.guard.pause()

    def _wait(self, events: set[int]) -> None:
        poll = select.poll()
        poll.register(self.signals, select.POLLIN)
        if not self.presence.gone:
            poll.register(self.presence.fd, select.POLLPRI)
        for life in self.succession.lives():
            for fd in self.mail.wanted(life.process, time.monotonic()):
                poll.register(fd, select.POLLIN)
        announcing = self.announcer.fileno()
        if announcing is not None:
            poll.register(announcing, select.POLLIN)
        events.update(fd for fd, _ in poll.poll(int(_TICK_SECONDS * 1000)))

    def _on_signals(self) -> None:
        for number in self.signals.received():
            if number in STOPS:
                self._stop = f"unmounted {self.launch.mountpoint} on {signal.Signals(number).name}"
            elif number == signal.SIGHUP and self.succession.may_reload():
                self.workforce.reload()

    def _on_messages(self, process: WorkerProcess) -> None:
        for message in self.mail.messages(process, time.monotonic()):
            act = self._on.get(message.kind)
            if act is not None:
                self.guard.run(self.mail.heed, act, process, message)

    def _hear(self, process: WorkerProcess) -> None:
        """Read what a worker still has to say."""
        self.guard.run(self._on_messages, process)
        self.guard.run(self.mail.pass_log, process)

    def _on_heartbeat(self, process: WorkerProcess, message: Message) -> None:
        if self.succession.serves(process):
            self.supervisor.beat(time.monotonic())
            causes = message.text("causes", 300)
            self.notifier.status(f"worker {process.pid} serves" + (f"; {causes}" if causes else ""))

    def _on_standby(self, process: WorkerProcess, _: Message) -> None:
        life = self.succession.life(process)
        if life is not None:
            life.standby = True

    def _on_ready(self, process: WorkerProcess, message: Message) -> None:
        if process.ready or not self.succession.serves(process):
            return
        process.ready = True
        self.workforce.init_answered(message.text(ipc.INIT_ANSWER, 4096))
        if self.workforce.served:
            self.sink.say(_INFO, f"worker {process.pid} has taken over")
            self.notifier.send("READY=1")
            return
        self.workforce.served = True
        for note in message.texts("notes"):
            self.sink.say(_WARNING, note)
        self.readiness.serving(time.monotonic())

    def _on_probed(self, process: WorkerProcess, message: Message) -> None:
        warning = self.readiness.probed(message.text("words")) if self.succession.serves(process) else ""
        if warning:
            self.sink.say(_WARNING, warning)

    def _on_failed(self, process: WorkerProcess, message: Message) -> None:
        process.words = message.text("words")

    def _on_poke(self, *_: object) -> None:
        self._ask_mount()

    def _ask_mount(self) -> int | None:
        if not self.children.admit(time.monotonic()):
            return None
        pid = announce.poke(self.launch.mountpoint)
        self.children.add(pid)
        return pid

    def _reap(self) -> None:
        if self._asking in self.children.reap():
            self._asking = None
            self.readiness.answered()

    def _mind_presence(self, changed: bool) -> None:
        was = self.presence.gone
        end = self.presence.check(time.monotonic(), changed=changed)
        if self.presence.gone and not was:
            self.announcer.end(self.children.bury)
            for life in self.succession.lives():
                life.process.channel.send("unmounted")
        if end is not None and self._stop is None:
            self._exit, self._stop = int(end.failed), end.message

    def _mind_workers(self) -> None:
        now = time.monotonic()
        for act, process in self.succession.turn(now, WorkerProcess.dead, self.presence.connection_ended):
            self.guard.run(partial(self.workforce.act, quiet=self.presence.gone), act, process)
        words = self.workforce.given_up(time.monotonic())
        if words and self._stop is None:
            self._exit, self._stop = 1, words

    def _mind_readiness(self) -> None:
        if self.readiness.open and self._asking is None:
            self._asking = self._ask_mount()
        verdict = self.readiness.verdict(time.monotonic()) if self._stop is None else None
        if verdict is None:
            return
        if not verdict.mounted:
            self._exit, self._stop = 1, verdict.words
            return
        self.notifier.send("READY=1")
        self._tell_mounted(0, "" if self.sink.on_stderr else verdict.words)

    def _tick(self) -> None:
        now = time.monotonic()
        self.mail.tell_what_is_lost(now)
        self.announcing.mind(now)
        self.audit.mind(now, self.children.bury)
        self.sink.flush()
        period = self.notifier.watchdog_seconds
        if period is not None and now >= self._next_watchdog and self.supervisor.step(now) is not Step.KILL:
            self._next_watchdog = now + period / 2
            self.notifier.send("WATCHDOG=1")

    def _tell_mounted(self, code: int, words: str) -> None:
        if self._mounted is not None:
            self._mounted(code, words)
            self._mounted = None
            if not self.launch.foreground:
                self.sink.let_stderr_go()

    def _unmount(self, *, abort: bool = False) -> None:
        self.announcer.end(self.children.bury)
        if abort or self._exit:
            unmounting.abort(self.presence.ours)
        if not unmounting.unmount(self.presence.ours):
            self._exit = 1
            where = self.presence.ours.mountpoint
            self._stop = f"{where} cannot be unmounted: another mount lies on it; it stays, dead"
