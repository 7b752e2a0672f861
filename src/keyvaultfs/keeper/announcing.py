"""Between workers that ask for announcements and the child that makes them: who may ask, and who is answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyvaultfs import ipc

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keyvaultfs.ipc import Message
    from keyvaultfs.keeper.announce import Announcer
    from keyvaultfs.keeper.children import Children
    from keyvaultfs.keeper.process import WorkerProcess
    from keyvaultfs.keeper.succession import Succession


class Announcing:
    """What the announcer is asked for and what comes of it.

    Args:
        announcer: has it done.
        succession: knows which worker serves.
        children: reaps the announcer's child.
    """

    def __init__(
        self, announcer: Announcer, succession: Succession[WorkerProcess], children: Children
    ) -> None:
        self._announcer = announcer
        self._succession = succession
        self._children = children

    def asked(self, process: WorkerProcess, message: Message, now: float) -> None:
        """A worker asks for one at `now`, in seconds of the monotonic clock; only the one that serves may.

        Raises:
            ipc.Noise, ValueError: what it asks for is none.
        """
        if not self._succession.serves(process):
            return
        facts = message.facts
        # Not as printable lines: a name may have any character, and is shown to nobody.
        token, do, name, inode = (
            facts.get("token"),
            facts.get("do"),
            facts.get("name", ""),
            facts.get("inode", 0),
        )
        if not (isinstance(token, str) and isinstance(do, str) and isinstance(name, str)):
            raise ipc.Noise
        if not isinstance(inode, int):
            raise ipc.Noise
        code = self._announcer.ask(token, do, name, inode, now)
        if code is not None:
            process.channel.send("announced", token=token, code=code)

    def made(self) -> None:
        """Tell the worker that serves what the child has done."""
        worker = self._succession.worker
        self._tell(self._announcer.answers(self._children.bury), () if worker is None else (worker.process,))

    def mind(self, now: float) -> None:
        """Replace a child that hangs; every worker is told what was lost with it, since one may take over just now."""
        lives = self._succession.lives()
        self._tell(self._announcer.mind(now, self._children.bury), [life.process for life in lives])

    def _tell(self, answers: Iterable[tuple[str, int]], processes: Iterable[WorkerProcess]) -> None:
        for token, code in answers:
            for process in processes:
                process.channel.send("announced", token=token, code=code)
