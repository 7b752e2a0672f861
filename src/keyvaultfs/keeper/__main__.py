"""``python -I -m keyvaultfs.keeper MOUNTPOINT``: started by `keeper.start`, which hands over what it is to mount."""

from __future__ import annotations

import os
import sys

from keyvaultfs import ipc, isolation
from keyvaultfs.errors import KeyVaultFSError
from keyvaultfs.keeper.main import Keeper
from keyvaultfs.keeper.spawn import Begun, high
from keyvaultfs.keeper.start import ANSWER_FD, CHANNEL_FD, LAUNCH_FD, LOG_FD
from keyvaultfs.keeper.stderr import Stderr
from keyvaultfs.settings import file


def main() -> int:
    """Hold a mount to its end.

    Returns:
        0 after an unmount, 1 when it could not be mounted or held.
    """
    isolation.settle()
    with open(LAUNCH_FD, "rb") as handed:  # noqa: PTH123 - a descriptor
        worker, _, text = handed.read().decode().partition("\n")
    launch = ipc.Launch.unpack(text)
    begun = Begun(int(worker), high(CHANNEL_FD), high(LOG_FD)) if int(worker) else None
    answer = None if launch.foreground else high(ANSWER_FD)

    def mounted(code: int, words: str) -> None:
        if answer is None:
            if words:
                stderr = Stderr(2)
                stderr.write(f"keyvaultfs: {words}".encode(errors="backslashreplace"))
                stderr.close()
            return
        # Not earlier: while autofs waits for this mount, it lets nobody through to the mount point but systemd's own
        # process group, in which systemd starts mount(8) for that reason.
        os.setsid()
        os.write(answer, f"{code} {words}".encode(errors="backslashreplace"))
        os.close(answer)
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        os.close(null)

    try:
        return Keeper(launch, file.settings(launch), mounted, begun).run()
    except (KeyVaultFSError, OSError) as exc:
        mounted(
            1, str(exc) if isinstance(exc, KeyVaultFSError) else f"{launch.mountpoint}: {exc.strerror or exc}"
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
