"""``keyvaultfs metrics``: of all mounts, in the older text format, which node_exporter's textfile collector reads.

That collector takes counters of OpenMetrics for ``untyped``, since their families lack the ``_total`` of their samples.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keyvaultfs.cli import reading
from keyvaultfs.errors import KeyVaultFSError
from keyvaultfs.keeper import mountinfo
from keyvaultfs.metrics import GAUGES, PREFIX

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

_SECONDS = 10.0
_MOST_LINKS = 40
"""MAXSYMLINKS of the kernel."""
_SUFFIXES = {"counter": "_total", "info": "_info", "gauge": ""}
_FAMILY = re.compile(rf"# (HELP|TYPE) ({PREFIX}_[a-z_]+) ([^\n]+)")
_SAMPLE = re.compile(
    rf'({PREFIX}_[a-z_]+)(?:\{{((?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)*)\}})? (-?[0-9][0-9.e+-]*)'
)
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


Parsed = dict[str, tuple[str, str, list[tuple[str, str, str]]]]
"""By family: kind, help, and samples of name, labels and value."""


@dataclass(slots=True)
class _Family:
    kind: str = "untyped"
    help: str = ""
    samples: list[str] = field(default_factory=list)


def run(args: argparse.Namespace) -> int:
    """Print or write them; 1 if a mount did not answer, which is said, and shown as ``keyvaultfs_up 0``.

    Raises:
        KeyVaultFSError: the file cannot be written.
    """
    code = 0
    answers: dict[str, Parsed | None] = {}
    for mountpoint in args.mountpoints or ours():
        try:
            answers[mountpoint] = parse(reading.control(mountpoint, "metrics", _SECONDS))
        except KeyVaultFSError as exc:
            answers[mountpoint], code = None, 1
            sys.stderr.write(f"keyvaultfs: {exc}\n")
        except ValueError as exc:
            answers[mountpoint], code = None, 1
            sys.stderr.write(
                f"keyvaultfs: {mountpoint}: what it shows are no metrics of this version: {exc}\n"
            )
    whole = joined(answers)
    if args.output is None:
        sys.stdout.write(whole)
    else:
        write(args.output, whole)
    return code


def ours() -> list[str]:
    """Where this user, or root for root, has mounted a vault; once each, whatever is bound elsewhere."""
    found: dict[int, str] = {}
    for one in mountinfo.table():
        if one.fstype == "fuse.keyvaultfs" and one.user == os.getuid():
            found.setdefault(one.minor, one.mountpoint)
    return list(found.values())


def parse(text: str) -> Parsed:
    """A mount's OpenMetrics text, taken apart.

    Raises:
        ValueError: it is none; says where.
    """
    lines = text.split("\n")
    if lines[-2:] != ["# EOF", ""]:
        raise ValueError("the end is missing")
    found: Parsed = {}
    name = kind = help_text = ""
    for number, line in enumerate(lines[:-2], 1):
        family, sample = _FAMILY.fullmatch(line), _SAMPLE.fullmatch(line)
        if family is not None and family[1] == "HELP":
            name, help_text = family[2], family[3]
        elif family is not None and family[2] == name and family[3] in _SUFFIXES and name not in found:
            kind = family[3]
            found[name] = kind, help_text, []
        elif sample is not None and name in found and sample[1] == name + _SUFFIXES[kind]:
            found[name][2].append((sample[1], sample[2] or "", sample[3]))
        else:
            raise ValueError(f"line {number}")
    return found


def joined(answers: dict[str, Parsed | None]) -> str:
    """What mounts told -> one text, with the label ``mountpoint``; None where a mount did not answer."""
    families: dict[str, _Family] = {}
    for mountpoint, found in answers.items():
        label = f'mountpoint="{mountpoint.translate(_ESCAPES)}"'
        up = families.setdefault(f"{PREFIX}_up", _Family("gauge", GAUGES["up"]))
        up.samples.append(f"{PREFIX}_up{{{label}}} {int(found is not None)}")
        for name, (kind, help_text, samples) in (found or {}).items():
            full = name + _SUFFIXES[kind]
            family = families.setdefault(full, _Family("gauge" if kind == "info" else kind, help_text))
            for _, more, value in samples:
                family.samples.append(f"{full}{{{label}{',' * bool(more)}{more}}} {value}")
    return "".join(_lines(families.items()))


def _lines(families: Iterable[tuple[str, _Family]]) -> Iterable[str]:
    for name, family in families:
        yield f"# HELP {name} {family.help}\n# TYPE {name} {family.kind}\n"
        yield from (f"{sample}\n" for sample in family.samples)


def _behind_links(path: str) -> str:
    """The path of the file itself, if links lead to it that root or this user has made.

    Others may put a link into a folder such as /tmp, and what is behind it would be replaced. The folders on the way
    are the kernel's to judge (fs.protected_symlinks).

    Raises:
        OSError: ELOOP: another user's link, or too many of them; or it cannot be looked at.
    """
    for _ in range(_MOST_LINKS):
        try:
            fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return path
        try:
            found = os.fstat(fd)
            if not stat.S_ISLNK(found.st_mode):
                return path
            if found.st_uid not in {0, os.geteuid()}:
                raise OSError(errno.ELOOP, "it is another user's link, and is left as it is")
            path = os.path.join(os.path.dirname(path), os.readlink("", dir_fd=fd))  # noqa: PTH118, PTH120
        finally:
            os.close(fd)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def write(path: str, text: str) -> None:
    """Replace a file by a whole new one, which every user may read, as node_exporter does.

    Raises:
        KeyVaultFSError: it cannot be; what was there stays.
    """
    try:
        target = _behind_links(path)
    except OSError as exc:
        raise KeyVaultFSError("", f"{path}: {exc.strerror}") from None
    folder, name = os.path.split(target)
    beside = os.path.join(folder, f".{name}.{os.getpid()}.new")  # noqa: PTH118 - not *.prom: that would be read
    try:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(os.lstat(target).st_mode):
                raise KeyVaultFSError("", f"{path}: it is no regular file, and is left as it is")
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            with open(fd, "w", encoding="utf-8", errors="backslashreplace") as file:  # noqa: PTH123 - a descriptor
                os.fchmod(fd, 0o644)
                file.write(text)
            os.replace(beside, target)  # noqa: PTH105
        except OSError:
            os.unlink(beside)  # noqa: PTH108
            raise
    except OSError as exc:
        raise KeyVaultFSError("", f"{path}: {exc.strerror}") from None
