"""A child that asks this mount for one thing and is never waited for.

A thread of the serving process that touched its own mount would survive SIGKILL in state D (DESIGN §2).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def is_name(name: str) -> bool:
    """Whether it is one name of a file of ours, and no path: root looks it up, and a worker asks for it."""
    return re.fullmatch(r"[0-9A-Za-z-][0-9A-Za-z._-]{0,254}", name) is not None


def lookup(mountpoint: str, name: str, close: Iterable[int]) -> int:
    """Look a name up in the root of the mount, from a child without the descriptors `close`.

    Args:
        name: a secret's name; "" asks for the file system's statistics instead.

    Returns:
        The child's process id, to be reaped when it ends.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        for fd in close:
            os.close(fd)
        if name:
            os.stat(os.path.join(mountpoint, name), follow_symlinks=False)  # noqa: PTH116, PTH118 - a small child
        else:
            os.statvfs(mountpoint)
    except OSError:
        pass
    finally:
        os._exit(0)
