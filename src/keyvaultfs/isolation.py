"""What a process of ours starts with: nothing of who started it but what is named here.

Keeper and worker run for months, and whoever types ``keyvaultfs mount`` has a shell with open files, locks, a keyring,
limits, and an environment in which Python, OpenSSL and requests look for orders: PYTHONPATH, SSLKEYLOGFILE (a file with
the keys of every TLS connection), LD_PRELOAD, a proxy with its password. So both are started anew, by exec, isolated.
"""

from __future__ import annotations

import contextlib
import os
import resource
import site
import sys

_PASS = (
    "LANG",
    "LANGUAGE",
    "TZ",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
)
_PASS_PREFIXES = ("LC_",)
_OF_AZURE = ("AZURE_", "IDENTITY_", "MSI_", "IMDS_")
"""What azure-identity takes its orders from; HOME besides, where the tools that it calls keep their log-in."""

_FOR_DEVELOPERS = ("COVERAGE_",)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_KEYCTL = {
    "x86_64": 250,
    "i686": 288,
    "i586": 288,
    "armv7l": 311,
    "armv6l": 311,
    "ppc64le": 271,
    "s390x": 280,
}
_KEYCTL_GENERIC = 219  # aarch64, riscv64, loongarch64
_JOIN_SESSION_KEYRING = 1

_FILES = 65536
_MOST_FILES = 1 << 20
"""Unless somebody has raised /proc/sys/fs/nr_open, no descriptor has a higher number."""
_UNLIMITED = (
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_CPU,
    resource.RLIMIT_AS,
    resource.RLIMIT_DATA,
    resource.RLIMIT_NPROC,
)
_LEAST = (
    (resource.RLIMIT_FSIZE, 1 << 28, "a limit on the size of files is in force (ulimit -f); raise it"),
    (resource.RLIMIT_NOFILE, 64, "too few files may be open (ulimit -n); raise that limit"),
)
"""What is shared with a successor has a file's size; connections are files, and so is what is read of who asks."""


def environment(*, azure: bool, developer: bool = False) -> dict[str, str]:
    """The environment of a keeper or worker, from that of this process.

    Args:
        azure: whether ``auth=azure-identity`` is used, which is configured by variables.
        developer: whether the code runs from a source tree, under tools that measure it.
    """
    prefixes = _PASS_PREFIXES + (_OF_AZURE if azure else ()) + (_FOR_DEVELOPERS if developer else ())
    names = _PASS + (("HOME",) if azure else ())
    kept = {name: value for name, value in os.environ.items() if name in names or name.startswith(prefixes)}
    return kept | {"PATH": PATH}


def command(module: str, *arguments: str) -> list[str]:
    """How a module of ours is run by the same interpreter, isolated: from the folder from which we were loaded.

    An isolated interpreter takes no folder from the environment, the user's own ones or the current one. Code that lies
    elsewhere than in its site-packages, as in a source tree, has its folder named. It writes no compiled code.
    """
    root = _root()
    return [
        sys.executable,
        "-I",
        "-B",
        "-c",
        _RUN,
        "" if root in site.getsitepackages() else root,
        module,
        *arguments,
    ]


# Not by "-m": to find out how a module is to be run takes as long as the rest of an interpreter's start.
_RUN = (
    "import sys; root, module = sys.argv[1:3]; "
    "root and sys.path.insert(3, root); "  # after the standard library, before site-packages
    "sys.argv[:3] = [module]; sys.exit(__import__(f'{module}.__main__', fromlist=['main']).main())"
)


def _root() -> str:
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120


def from_source() -> bool:
    """Whether this code lies elsewhere than where an installation has it."""
    return _root() not in site.getsitepackages()


def close_descriptors(above: int) -> None:
    """Close all descriptors from `above` on, whoever opened them."""
    os.closerange(above, _MOST_FILES)  # close_range(2), one call, since Linux 5.9


def standard_streams() -> None:
    """Open those of the descriptors 0 to 2 that who started us has closed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free: this one


def new_keyring() -> None:
    """A session keyring of our own, with nothing in it: the inherited one may hold keys of root's.

    A kernel or a service manager that forbids it has to be asked for nothing: keyrings are out of reach there.
    """
    import ctypes  # the command itself need not have it

    number = _KEYCTL.get(os.uname().machine, _KEYCTL_GENERIC)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).syscall(number, _JOIN_SESSION_KEYRING, None)


def lift_limits() -> None:
    """Raise the limits of who started us, as far as we may."""
    for kind in _UNLIMITED:
        _raise(kind, resource.RLIM_INFINITY)
    _raise(resource.RLIMIT_NOFILE, _FILES)


def too_narrow() -> str:
    """Which limit leaves a mount no room though it was raised as far as we may; "" if none does."""
    for kind, least, words in _LEAST:
        if not _enough(resource.getrlimit(kind)[0], least):
            return words
    return ""


def settle() -> None:
    """Leave the folder, the file mode mask, the keyring and the limits of who started us."""
    os.chdir("/")
    os.umask(0o077)
    new_keyring()
    lift_limits()
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _raise(kind: int, wanted: int) -> None:
    """Raise a limit to what is wanted where we may, and to its hard limit where we may not."""
    soft, hard = resource.getrlimit(kind)
    if _enough(soft, wanted):
        return
    for limits in ((wanted, hard if _enough(hard, wanted) else wanted), (hard, hard)):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, limits)
            return


def _enough(limit: int, wanted: int) -> bool:
    return limit == resource.RLIM_INFINITY or (wanted != resource.RLIM_INFINITY and limit >= wanted)
