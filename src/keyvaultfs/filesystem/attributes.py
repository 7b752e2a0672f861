"""What stat(2) and getfattr(1) show of an inode."""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyfuse3

from keyvaultfs.model import UNREADABLE

if TYPE_CHECKING:
    from keyvaultfs.filesystem.inodes.nodes import Node
    from keyvaultfs.model import Properties, SecretName, Version

FOREVER = 86400.0 * 365
"""Seconds. Attributes of a version never change; the kernel is told when the inode loses its name."""

PREFIX = b"user.keyvault."


@dataclass(frozen=True, slots=True)
class Appearance:
    """Owner and modes of what the mount shows; `started` is in Unix seconds."""

    uid: int
    gid: int
    mode: int
    dir_mode: int
    started: int


def base(look: Appearance, inode: int, mode: int) -> pyfuse3.EntryAttributes:
    """Attributes that every inode has, with timeouts of zero."""
    attributes = _owned(look, inode, mode)
    attributes.entry_timeout = attributes.attr_timeout = 0
    attributes.st_atime_ns = attributes.st_mtime_ns = attributes.st_ctime_ns = look.started * 10**9
    return attributes


def _owned(look: Appearance, inode: int, mode: int) -> pyfuse3.EntryAttributes:
    """New ones, in which generation, link count and block size are as pyfuse3 makes them: 0, 1 and 4096."""
    attributes = pyfuse3.EntryAttributes()
    attributes.st_ino = inode
    attributes.st_mode = mode
    attributes.st_uid, attributes.st_gid = look.uid, look.gid
    return attributes


def directory(look: Appearance, inode: int, mode: int) -> pyfuse3.EntryAttributes:
    """A directory. Its link count is 1, which tells find(1) that it says nothing of subdirectories."""
    attributes = base(look, inode, stat.S_IFDIR | mode)
    attributes.attr_timeout = FOREVER
    return attributes


def secret(
    look: Appearance, node: Node, content: Node, *, entry_timeout: float = 0
) -> pyfuse3.EntryAttributes:
    """An inode of a secret that shows the bytes of `content`; `entry_timeout` in seconds.

    To be given to the kernel before the next call: an inode's are made once, since a long listing wants thousands.
    """
    seen = node.seen
    if seen is not None and content is node:
        seen.entry_timeout = max(0.0, entry_timeout)
        return seen
    superseded = node.superseded
    attributes = _owned(look, node.inode, stat.S_IFREG | look.mode)
    if superseded:  # with 1 the kernel would lose an inotify event that waits for the last close (DESIGN §2)
        attributes.st_nlink = 0
    attributes.entry_timeout = max(0.0, entry_timeout)
    attributes.attr_timeout = 0 if superseded else FOREVER
    attributes.st_size = content.size
    attributes.st_blocks = -(-content.size // 512)
    created = look.started if content.created is None else content.created
    updated = created if content.updated is None else content.updated
    attributes.st_mtime_ns = attributes.st_atime_ns = created * 10**9
    attributes.st_ctime_ns = updated * 10**9
    if content is node:
        node.seen = attributes
    return attributes


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def extended(
    base_url: str,
    name: SecretName,
    version: Version,
    properties: Properties,
    cached: tuple[str, float] | None,
) -> dict[bytes, bytes]:
    """``user.keyvault.*`` of a version.

    Args:
        cached: its state and its age in seconds; None for one that is not current.
    """
    if version == UNREADABLE:
        return {PREFIX + b"state": b"refused", PREFIX + b"id": f"{base_url}/secrets/{name}".encode()}
    facts = {
        "version": version,
        "id": f"{base_url}/secrets/{name}/{version}",
        "enabled": str(properties.enabled).lower(),
        "tags": json.dumps(dict(properties.tags), ensure_ascii=False),
    }
    if properties.content_type is not None:
        facts["content-type"] = properties.content_type
    times = {"created": properties.created, "updated": properties.updated}
    times |= {"expires": properties.expires, "not-before": properties.not_before}
    facts |= {key: _time(seconds) for key, seconds in times.items() if seconds is not None}
    if cached is not None:
        # Of constant width: getfattr(1) asks for the length first, and must not find another one then.
        facts["state"], facts["age"] = cached[0], f"{cached[1]:10.0f}"
    return {PREFIX + key.encode(): text.encode("utf-8", "backslashreplace") for key, text in facts.items()}
