"""What stat(2) and getfattr(1) show of an inode."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import pyfuse3
import trio

from keyvaultfs.files.rules import AS_MOUNTED
from keyvaultfs.model import UNREADABLE

if TYPE_CHECKING:
    from keyvaultfs.files.edition import Edition
    from keyvaultfs.files.rules import Access
    from keyvaultfs.files.sources import Part
    from keyvaultfs.filesystem.inodes.nodes import Node
    from keyvaultfs.model import SecretName

FOREVER = 86400.0 * 365
"""Seconds. Attributes of a version never change; the kernel is told when the inode loses its name."""

PREFIX = b"user.keyvault."


class Appearance(NamedTuple):
    """Owner and modes of what the mount shows; `started` is in Unix seconds."""

    uid: int
    gid: int
    mode: int
    dir_mode: int
    started: int

    def of(self, access: Access) -> Appearance:
        """The same with what the configuration says of access to one path."""
        if access is AS_MOUNTED:
            return self
        return Appearance(
            uid=self.uid if access.owner is None else access.owner,
            gid=self.gid if access.group is None else access.group,
            mode=self.mode if access.mode is None else access.mode,
            dir_mode=self.dir_mode if access.dir_mode is None else access.dir_mode,
            started=self.started,
        )


def base(access: Appearance, inode: int, mode: int) -> pyfuse3.EntryAttributes:
    """Attributes that every inode has, with timeouts of zero."""
    attributes = _owned(access, inode, mode)
    attributes.entry_timeout = attributes.attr_timeout = 0
    attributes.st_atime_ns = attributes.st_mtime_ns = attributes.st_ctime_ns = access.started * 10**9
    return attributes


def _owned(access: Appearance, inode: int, mode: int) -> pyfuse3.EntryAttributes:
    """New ones, in which generation, link count and block size are as pyfuse3 makes them: 0, 1 and 4096."""
    attributes = pyfuse3.EntryAttributes()
    attributes.st_ino = inode
    attributes.st_mode = mode
    attributes.st_uid, attributes.st_gid = access.uid, access.gid
    return attributes


def directory(
    access: Appearance, inode: int, mode: int, changed: int | None = None
) -> pyfuse3.EntryAttributes:
    """A directory. Its link count is 1, which tells find(1) that it says nothing of subdirectories.

    Args:
        changed: when what it shows last changed, in nanoseconds of Unix time; None if that never changes.
    """
    attributes = base(access, inode, stat.S_IFDIR | mode)
    if changed is not None:
        attributes.st_mtime_ns = attributes.st_ctime_ns = changed
    attributes.attr_timeout = FOREVER
    return attributes


def secret(
    access: Appearance, node: Node, content: Node, *, entry_timeout: float = 0
) -> pyfuse3.EntryAttributes:
    """An inode of a secret that shows the bytes of `content`; `entry_timeout` in seconds.

    To be given to the kernel before the next call: an inode's are made once, since a long listing wants thousands.
    """
    seen = node.attributes
    if seen is not None and content is node:
        seen.entry_timeout = max(0.0, entry_timeout)
        return seen
    superseded = node.superseded
    access = access.of(node.name.access)
    attributes = _owned(access, node.inode, stat.S_IFREG | access.mode)
    if superseded and (content is node or not node.bound):
        # With 1 the kernel would lose an inotify event that waits for the last close (DESIGN §2). One that is bound
        # elsewhere and shows the new bytes is no deleted file, and does not look like one.
        attributes.st_nlink = 0
    attributes.entry_timeout = max(0.0, entry_timeout)
    attributes.attr_timeout = 0 if superseded else FOREVER
    attributes.st_size = content.size
    attributes.st_blocks = -(-content.size // 512)
    created = access.started if content.created is None else content.created
    updated = created if content.updated is None else content.updated
    attributes.st_mtime_ns = attributes.st_atime_ns = created * 10**9
    attributes.st_ctime_ns = updated * 10**9
    if content is node:
        node.attributes = attributes
    return attributes


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def extended(base_url: str, content: Node, edition: Edition | None) -> dict[bytes, bytes]:
    """``user.keyvault.*`` of an inode.

    Args:
        content: the inode whose bytes it shows.
        edition: what is known of its file.
    """
    current = edition is not None and edition.id == content.version
    facts: dict[str, str] = {}
    if content.version == UNREADABLE:
        facts["state"] = "refused"
    elif edition is not None and current:
        facts["sources"] = json.dumps(
            [
                {
                    "secret": str(part.name),
                    "version": part.version,
                    "state": "stale" if part.stale else "fresh",
                }
                for part in edition.parts
            ]
        )
        # Of constant width: getfattr(1) asks for the length first, and must not find another one then.
        age = max(0.0, trio.current_time() - edition.checked)
        facts["state"], facts["age"] = "stale" if edition.stale else "fresh", f"{age:10.0f}"
    sources = content.name.recipe.sources
    if len(sources) == 1:
        part = edition.parts[0] if edition is not None and current and edition.parts else None
        facts |= _of_secret(base_url, content, sources[0].name, part)
    return {PREFIX + key.encode(): text.encode("utf-8", "backslashreplace") for key, text in facts.items()}


def _of_secret(base_url: str, content: Node, name: SecretName, part: Part | None) -> dict[str, str]:
    """What has one value where there is one secret."""
    if content.version == UNREADABLE:
        return {"id": f"{base_url}/secrets/{name}"}
    properties = content.properties() if part is None else part.properties
    version = part.version if part is not None else content.version if content.name.recipe.plain else None
    facts = {
        "enabled": str(properties.enabled).lower(),
        "tags": json.dumps(dict(properties.tags), ensure_ascii=False),
    }
    if version is not None:
        facts |= {"version": version, "id": f"{base_url}/secrets/{name}/{version}"}
    if properties.content_type is not None:
        facts["content-type"] = properties.content_type
    times = {"created": properties.created, "updated": properties.updated}
    times |= {"expires": properties.expires, "not-before": properties.not_before}
    return facts | {key: _time(seconds) for key, seconds in times.items() if seconds is not None}
