"""When the worker imports the libraries that speak HTTP: after readers are served, or before, where it could not then.

They take a quarter of a start. By the time that readers are served the worker has become another user, and code may
lie where root alone can read it.
"""

from __future__ import annotations

import os
import stat
from importlib.util import find_spec

_PACKAGES = ("email", "urllib3", "requests", "keyvaultfs.transport")


def load_what_only_we_can_read() -> None:
    """Import them now unless any user could do it later. To be called before the user changes, if it does."""
    if not all(_is_open(name) for name in _PACKAGES):
        import keyvaultfs.transport.client  # noqa: F401


def _is_open(name: str) -> bool:
    found = find_spec(name)
    return found is not None and found.origin is not None and _readable_by_all(found.origin)


def _readable_by_all(path: str) -> bool:
    """Whether anybody may read a file, and a folder on the way to it may be listed; links followed."""
    path = os.path.realpath(path)
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except OSError:
        return False
    wanted = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0)
    return mode & wanted == wanted and (path == "/" or _readable_by_all(os.path.dirname(path)))  # noqa: PTH120
