"""The keeper: holds the mount, starts workers, and outlives them. One select loop, standard library only."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING

from keyvaultfs import ipc
from keyvaultfs.keeper import lookup, mountinfo, mounting
from keyvaultfs.keeper.notify import Notifier
from keyvaultfs.keeper.process import WorkerProcess, high
from keyvaultfs.keeper.sink import Sink
from keyvaultfs.keeper.supervisor import START_SECONDS, Step, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyvaultfs.ipc import Launch
    from keyvaultfs.settings.options import Settings

_TICK_SECONDS = 0.2
"""How often the worker's state is read: SIGCHLD waits for its last thread, and a thread may be stuck."""

_RETIRE_SECONDS = 2.0
_STOP_SECONDS = 1.0
_PROBE_SECONDS = 2.0
_INIT_SECONDS = 5.0
_ERR, _WARNING, _NOTICE, _INFO = 3, 4, 5, 6


class Keeper:
    """One mount, from its begin to its end.

    Args:
        launch: what to mount.
        settings: its options.
        mounted: called once with an exit code and a line for people: when the mount answers, or cannot.
    """

    def __init__(self, launch: Launch, settings: Settings, mounted: Callable[[int, str], None]) -> None:
        self.launch = launch
        self.settings = settings
        self._mounted: Callable[[int, str], None] | None = mounted
        self.sink = Sink(foreground=launch.foreground)
        self.notifier = Notifier()
        self.supervisor = Supervisor(ipc.HEARTBEAT_SECONDS)
        self.worker: WorkerProcess | None = None
        self.successor: WorkerProcess | None = None
        self.told = ""
        self._successor_due = 0.0
        self._children: set[int] = set()
        self._answering = -1
        self._probe_due: float | None = None
        self._warning = ""
        self._served = False
        self._gone = False
        self._stop: str | None = None
        self._exit = 0
        self._next_watchdog = 0.0

    def run(self) -> int:
        """Mount, serve, unmount.

        Returns:
            The exit code: 0 after an unmount from anywhere, 1 when the mount could not be held.
        """
        self.device = high(mounting.mount(self.launch, self.settings))
        self._connection = mounting.connection(self.launch.mountpoint)
        try:
            self.table = high(os.memfd_create("keyvaultfs-table", os.MFD_CLOEXEC))
            self.values = high(os.memfd_create("keyvaultfs-values", os.MFD_CLOEXEC))
            self.init = self._read_init()
            self._listen_to_signals()
            self._mountinfo = high(os.open(mountinfo.PATH, os.O_RDONLY))
            self._check_workers()  # the first one starts now, and not after a tick
            while self._stop is None:
                self._turn()
        except Exception:
            self._end_mount(abort=True)
            raise
        self.notifier.send("STOPPING=1")
        self._end_mount(abort=self._exit != 0)
        if self._mounted is None:
            self.sink.say(_ERR if self._exit else _INFO, self._stop)
        self._tell_mounted(self._exit, self._stop)
        return self._exit

    def _read_init(self) -> bytes:
        ready, _, _ = select.select([self.device], [], [], _INIT_SECONDS)
        if not ready:
            raise TimeoutError("the kernel sent no INIT")
        return os.read(self.device, 1 << 21)

    def _listen_to_signals(self) -> None:
        reading, writing = socket.socketpair()
        reading.setblocking(False)
        writing.setblocking(False)
        self._signals = socket.socket(fileno=high(reading.detach()))
        self._signals_end = socket.socket(fileno=high(writing.detach()))
        signal.set_wakeup_fd(self._signals_end.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)

    def _turn(self) -> None:
        """Wait for something to happen, at most a tick, and do what follows from it."""
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        if not self._gone:
            poll.register(self._mountinfo, select.POLLPRI)
        workers = [process for process in (self.worker, self.successor) if process is not None]
        for process in workers:
            poll.register(process.channel.sock, select.POLLIN)
            poll.register(process.log_fd, select.POLLIN)
        events = {fd for fd, _ in poll.poll(int(_TICK_SECONDS * 1000))}
        if self._signals.fileno() in events:
            self._on_signals()
        for process in workers:
            if process.log_fd in events:
                self._pass_log(process)
            if process.channel.sock.fileno() in events:
                self._on_messages(process)
        self._reap()
        self._check_mount(changed=self._mountinfo in events)
        self._check_workers()
        self._check_times()

    def _on_signals(self) -> None:
        for number in self._signals.recv(4096):
            if number in {signal.SIGTERM, signal.SIGINT}:
                self._stop = f"unmounted {self.launch.mountpoint} on {signal.Signals(number).name}"
            elif number == signal.SIGHUP:
                self._reload()

    def _reload(self) -> None:
        if self.successor is not None or self.worker is None:
            return
        self.notifier.reloading()
        self.sink.say(_INFO, "reload: a new worker starts; the old one serves until it is ready")
        self.successor = self._spawn()
        self._successor_due = time.monotonic() + START_SECONDS

    def _spawn(self) -> WorkerProcess:
        charge = ipc.Charge(
            launch=self.launch,
            init=self.init.hex(),
            told=self.told,
            successor=self._served,
            keeper=os.getpid(),
        )
        return WorkerProcess(self.device, self.table, self.values, charge)

    def _pass_log(self, process: WorkerProcess) -> None:
        for line in process.log_lines():
            self.sink.line(line)

    def _on_messages(self, process: WorkerProcess) -> None:
        while True:
            try:
                message = process.channel.receive()
            except EOFError:
                return  # its death is seen by its state
            if message is None:
                return
            self._on_message(process, message["kind"], message)

    def _on_message(self, process: WorkerProcess, kind: str, message: dict[str, object]) -> None:
        if kind == "heartbeat" and process is self.worker:
            self.supervisor.beat(time.monotonic())
            causes = str(message.get("causes") or "")
            self.notifier.status(f"worker {process.pid} serves" + (f"; {causes}" if causes else ""))
        elif kind == "standby":
            process.standby = True
            self._promote()
        elif kind == "ready":
            self._on_ready(process, message)
        elif kind == "probed":
            self._on_probed(str(message.get("words") or ""))
        elif kind == "failed":
            process.words = str(message.get("words") or "")
        elif kind in {"lookup", "poke"}:
            name = str(message.get("name") or "")
            self._ask_mount(name)
        elif kind == "ended":
            self._check_mount(changed=True)

    def _ask_mount(self, name: str) -> int:
        close = [self.device, self.table, self.values, self._signals.fileno()]
        close += [p.channel.sock.fileno() for p in (self.worker, self.successor) if p is not None]
        pid = lookup.lookup(self.launch.mountpoint, name, close)
        self._children.add(pid)
        return pid

    def _on_ready(self, process: WorkerProcess, message: dict[str, object]) -> None:
        process.ready = True
        self.told = str(message["told"])
        if self._served:
            self.sink.say(_INFO, f"worker {process.pid} has taken over")
            self.notifier.send("READY=1")
            return
        self._served = True
        notes = message.get("notes")
        for note in notes if isinstance(notes, list) else []:
            self.sink.say(_WARNING, str(note))
        self._answering = self._ask_mount("")
        self._probe_due = time.monotonic() + (
            _PROBE_SECONDS if not self.settings.strict else self.settings.timeout + 2
        )

    def _on_probed(self, words: str) -> None:
        if words and not self.settings.strict:
            self._warning = f"mounted, but the vault cannot be read yet: {words}"
            self.sink.say(_WARNING, self._warning)
        if self._probe_due is None:
            return
        self._probe_due = 0.0
        if words and self.settings.strict:
            self._exit, self._stop = (
                1,
                f"not mounted, since the option strict asks for a vault that answers: {words}",
            )

    def _promote(self) -> None:
        """Give the mount to a worker that is ready for it, when no other serves."""
        if self.worker is not None and self.worker.standby and not self.worker.going:
            self.worker.go()
        if self.successor is None or not self.successor.standby:
            return
        if self.worker is not None:
            if self.worker.retire_by is None:
                self.worker.channel.send("retire")
                self.worker.retire_by = time.monotonic() + _RETIRE_SECONDS
            return
        self.worker, self.successor = self.successor, None
        self.supervisor.started(time.monotonic())
        self.worker.go()

    def _reap(self) -> None:
        for pid in tuple(self._children):
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                self._children.discard(pid)
                if pid == self._answering:
                    self._answering = 0

    def _check_workers(self) -> None:
        now = time.monotonic()
        if self.worker is not None:
            if self.worker.retire_by is not None and now > self.worker.retire_by:
                self.worker.kill()
            if self.worker.dead():
                self._bury(self.worker)
                self.worker = None
                self._promote()
        if self.successor is not None and (self.successor.dead() or now > self._successor_due):
            self.successor.kill()
            words = self._bury(self.successor)
            self.successor = None
            self.sink.say(_ERR, f"reload: the new worker cannot start, the old one stays: {words}")
            self.notifier.send("READY=1")
        if self.worker is None and self.successor is not None:
            return
        step = self.supervisor.step(now)
        if step is Step.START:
            self.worker = self._spawn()
            self.supervisor.started(now)
        elif step is Step.KILL and self.worker is not None:
            self.sink.say(_ERR, f"worker {self.worker.pid} hangs: it missed its heartbeats and is killed")
            self.worker.kill()

    def _bury(self, process: WorkerProcess) -> str:
        """Forget a dead worker, reap it later, and return its last words."""
        self._on_messages(process)
        self._pass_log(process)
        lines = [line[3:] if line.startswith("<") else line for line in process.last_lines]
        words = process.words or " | ".join(lines[-2:]) or "it said nothing"
        if process is self.worker:
            self.supervisor.ended(time.monotonic())
            if process.retire_by is None and not self._gone:
                self.sink.say(_WARNING, f"worker {process.pid} died: {words}")
            self._last_words = words
        process.close()
        self._children.add(process.pid)
        return words

    def _check_mount(self, *, changed: bool) -> None:
        """The mount table changed: was it this mount? A lazy unmount lets the connection live until the last close."""
        if changed and not self._gone:
            self._gone = mountinfo.now(self._connection) is None
            if self._gone and self.worker is not None:
                self.worker.channel.send("unmounted")
        if self._gone or changed:
            poll = select.poll()
            poll.register(self.device, 0)
            if any(event & select.POLLERR for _, event in poll.poll(0)):
                self._stop = f"{self.launch.mountpoint} was unmounted"

    def _check_times(self) -> None:
        now = time.monotonic()
        if self._stop is None and self.supervisor.step(now) is Step.GIVE_UP:
            times = self.supervisor.failures
            self._exit, self._stop = (
                1,
                f"{times} workers in a row could not serve; the last said: {self._last_words}",
            )
        answered = self._answering == 0 and self._probe_due is not None
        # In the foreground the log says what the probe found; a service manager's boot need not wait for it.
        waits = self.settings.strict or not self.launch.foreground
        due = self._probe_due is not None and (now >= self._probe_due or not waits)
        if answered and due and self._stop is None:
            if self.settings.strict and self._probe_due:
                self._exit, self._stop = (
                    1,
                    "not mounted: the vault did not answer, and the option strict is set",
                )
                return
            self._answering, self._probe_due = -1, None
            self.notifier.send("READY=1")
            self._tell_mounted(0, "" if self.sink.on_stderr else self._warning)
        period = self.notifier.watchdog_seconds
        if period is not None and now >= self._next_watchdog and self.supervisor.step(now) is not Step.KILL:
            self._next_watchdog = now + period / 2
            self.notifier.send("WATCHDOG=1")

    def _tell_mounted(self, code: int, words: str) -> None:
        if self._mounted is not None:
            self._mounted(code, words)
            self._mounted = None

    def _end_mount(self, *, abort: bool) -> None:
        """Unmount, and see that both processes end, whatever their threads wait for."""
        if abort:
            mounting.abort(self._connection)
        if not self._gone:
            mounting.unmount(self.launch.mountpoint)
        end = time.monotonic() + _STOP_SECONDS
        processes = [process for process in (self.worker, self.successor) if process is not None]
        for process in processes:
            while not process.dead() and time.monotonic() < end - _STOP_SECONDS / 2:
                select.select([process.log_fd], [], [], 0.02)
                self._pass_log(process)
            process.channel.sock.close()
            while not process.dead() and time.monotonic() < end:
                time.sleep(0.01)
            process.kill()
