"""The handlers on a fake vault, for tests that turn the clock and ask as libfuse would."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import trio

from keyvaultfs.files.files import Files
from keyvaultfs.files.shown import Shown
from keyvaultfs.filesystem.askers import Asker, Askers
from keyvaultfs.filesystem.attributes import Appearance
from keyvaultfs.filesystem.control import Control
from keyvaultfs.filesystem.inodes.table import InodeTable
from keyvaultfs.filesystem.opener import Opener
from keyvaultfs.filesystem.opens import Opens
from keyvaultfs.filesystem.operations import Operations
from keyvaultfs.filesystem.readers import Readers
from keyvaultfs.filesystem.resolver import Resolver
from keyvaultfs.filesystem.rotation import Rotation
from keyvaultfs.log import Causes
from keyvaultfs.metrics import FilesystemMetrics, Metrics
from tests.support.world import TREE, World, world

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

URL = "https://v.vault.azure.net"
APPEARANCE = Appearance(uid=0, gid=0, mode=0o400, dir_mode=0o755, started=0)
OTHERS = SimpleNamespace(pid=4711, uid=0, gid=0, umask=0)
"""Who asks, where it is not PID 1."""


@asynccontextmanager
async def handlers(**kwargs: Any) -> AsyncGenerator[tuple[World, Any]]:
    """A world, and the `Operations` on it.

    Args:
        kwargs: as for `world`.
    """
    fd = os.memfd_create("table")
    async with world(**kwargs) as w:
        table = InodeTable(fd, URL, TREE)
        rotation = Rotation(table, FilesystemMetrics(), ask=lambda *_: False, names=lambda: resolver)
        files = Files(TREE, w.cache, Causes(trio.current_time), Shown())
        resolver = Resolver(files.editions, table, rotation, APPEARANCE)
        control = Control(
            APPEARANCE, Metrics(), status=dict, refresh=w.cache.forget, gauges=dict, readers=dict
        )
        operations = Operations(
            files=files,
            causes=Causes(trio.current_time),
            table=table,
            resolver=resolver,
            opener=Opener(files.editions, table, rotation, resolver),
            announcements=rotation.announcements,
            control=control,
            appearance=APPEARANCE,
            metrics=FilesystemMetrics(),
            timeout=10.0,
            base_url=URL,
            opens=Opens(
                table,
                files.editions,
                Askers(),
                Readers(None, Asker, table.handles.by_number.__contains__),
                mountpoint="/mnt/kv",
                audit=None,
            ),
        )
        yield w, operations
    os.close(fd)
