"""The libraries that only some files need: whether they are there, and what to install."""

from __future__ import annotations

import importlib.util

from keyvaultfs.errors import UsageError

_PACKAGES = {
    "cryptography": ("python3-cryptography", "certificates"),
    "jinja2": ("python3-jinja2", "templates"),
}
"""By what Python imports: Debian's and Fedora's package, and the extra of ours."""


class MissingLibrary(UsageError):
    """A file needs a library that is not installed.

    Args:
        what: needs it, such as "part".
        library: its name in Python.
    """

    def __init__(self, what: str, library: str) -> None:
        package, extra = _PACKAGES[library]
        super().__init__(
            f"{what} needs {library}: apt install {package}, or: pip install 'keyvaultfs[{extra}]'"
        )
        self.package = package


def need(what: str, library: str) -> None:
    """Look whether "cryptography" or "jinja2" is there, without importing it.

    Raises:
        MissingLibrary: it is not.
    """
    try:
        found = importlib.util.find_spec(library)
    except (ImportError, ValueError):  # a broken or half-loaded module
        found = None
    if found is None:
        raise MissingLibrary(what, library)
