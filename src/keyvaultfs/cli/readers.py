"""``keyvaultfs readers``: who still uses which version of a file."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from keyvaultfs.cli import reading, words
from keyvaultfs.cli.words import ago, at, count, line
from keyvaultfs.errors import KeyVaultFSError

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> int:
    """Print them: 0, whoever is behind.

    Raises:
        KeyVaultFSError: the mount does not answer, or nobody has opened that file.
    """
    text = reading.control(args.mountpoint, "readers")
    with reading.understood(args.mountpoint):
        facts = json.loads(text)
        if args.file is not None:
            facts["files"] = [_only(facts["files"], args.mountpoint, args.file)]
        text = json.dumps(facts, indent=2) + "\n" if args.json else for_people(facts, time.time())
    sys.stdout.write(words.lines(text))
    return 0


def for_people(facts: dict[str, Any], now: float) -> str:
    """The same in words, those who are behind first."""
    lines = []
    for file in facts["files"]:
        lines.append(f"{line(file['path'])}: {_shows(file, now)}")
        groups = (
            {"still on an earlier version": True, "on this version": False}
            if file["known"]
            else {"readers": False}
        )
        for title, behind in groups.items():
            group = [reader for reader in file["readers"] if reader["behind"] is behind]
            lines += [f"  {title}:"] * bool(group)
            lines += [f"    {_reader(reader, now)}" for reader in group]
    if not lines:
        lines = ["nobody has opened a file since the mount"]
    if facts["forgotten"]:
        lines.append(
            f"({count(facts['forgotten'], 'reader')} of longer ago left out: the last 4096 are remembered)"
        )
    return "\n".join([*lines, ""])


def _shows(file: dict[str, Any], now: float) -> str:
    if not file["known"]:
        return "which version it shows now is not known before somebody reads it"
    if not file["edition"]:
        return "it has changed, is gone or refused, and nobody has read it since"
    since = "" if file["since"] is None else f", of {at(file['since'])} ({ago(file['since'], now)})"
    return f"version {line(file['edition'])}{since}"


def _reader(reader: dict[str, Any], now: float) -> str:
    name = reader["unit"] or f"{reader['program'] or 'a program that has ended'} of uid {reader['uid']}"
    text = f"{line(name)}: opened version {line(reader['edition'])} {ago(reader['opened'], now)}"
    if reader["open_now"]:
        text += f", has {count(reader['open_now'], 'handle')} open (pid {reader['pid']}, {line(reader['program'])})"
    return text


def _only(files: list[dict[str, Any]], mountpoint: str, name: str) -> dict[str, Any]:
    path = os.path.normpath(name)
    if os.path.isabs(name):  # noqa: PTH117
        # As it was written, else by where links lead to; that the mount answers has just been seen.
        root, whole = os.path.abspath(mountpoint), path  # noqa: PTH100
        if os.path.commonpath((root, whole)) != root:
            root, whole = os.path.realpath(root), os.path.realpath(whole)
        path = os.path.relpath(whole, root)
    for file in files:
        if file["path"] == path or (file["path"].lower() == path.lower()):
            return file
    raise KeyVaultFSError("", f"{mountpoint}: nobody has opened {line(path)} since the mount")
