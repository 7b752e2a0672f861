"""Inodes and handles in a memfd, for a successor: a slot for each."""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass

from keyvaultfs.content.decode import Decoding
from keyvaultfs.filesystem.nodes import Handle, Node, State
from keyvaultfs.model import SecretName, Version

# kind, state, decoding, length of name, lookups; inode, size, created, updated, shown; version; name
_NODE = struct.Struct("<BBBBI QQqqQ 16s 127s")
_NODE_BODY = struct.Struct("<BBBIQQqqQ16s127s")  # the same without the kind
_HANDLE = struct.Struct("<BBxxxxxx QQQ")  # kind, settled; fh, inode, content
_HANDLE_BODY = struct.Struct("<BxxxxxxQQQ")  # the same without the kind
_SETTLED = 1  # where it stands
_LOOKUPS = struct.Struct("<I")
_LOOKUPS_AT = 4
_SLOT = 256
_FREE, _IS_NODE, _IS_HANDLE = 0, 1, 2
_DECODINGS = tuple(Decoding)
_GROW = 256
_UNKNOWN_TIME = -(1 << 63)


@dataclass(frozen=True, slots=True)
class HandleRecord:
    """What a predecessor wrote of an open file: numbers of inodes, which may be gone."""

    slot: int
    settled: bool
    fh: int
    inode: int
    content: int


class Slots:
    """The memory, and which of its slots are free. A record is whole or it is not there.

    Args:
        fd: a memfd, which a predecessor may have filled; it is mapped.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._free: list[int] = []
        size = os.fstat(fd).st_size
        if size == 0:
            size = _GROW * _SLOT
            os.ftruncate(fd, size)
        self._map = mmap.mmap(fd, size)

    def load(self) -> tuple[list[Node], list[HandleRecord]]:
        """What a predecessor left. To be called once, before any slot is taken."""
        nodes, handles = [], []
        for slot in range(len(self._map) // _SLOT):
            record = self._map[slot * _SLOT : (slot + 1) * _SLOT]
            if record[0] == _IS_NODE:
                nodes.append(_node(slot, record))
            elif record[0] == _IS_HANDLE:
                _, settled, fh, inode, content = _HANDLE.unpack_from(record)
                handles.append(HandleRecord(slot, bool(settled), fh, inode, content))
            else:
                self._free.append(slot)
        self._free.reverse()
        return nodes, handles

    def take(self) -> int:
        """A free slot; there is always one."""
        if not self._free:
            before = len(self._map) // _SLOT
            os.ftruncate(self._fd, (before * 2) * _SLOT)
            self._map.resize(before * 2 * _SLOT)
            self._free = list(range(before * 2 - 1, before - 1, -1))
        return self._free.pop()

    def give_back(self, slot: int) -> None:
        """Its record is gone."""
        self._map[slot * _SLOT] = _FREE
        self._free.append(slot)

    def write_node(self, node: Node) -> None:
        """Write an inode into its slot."""
        name = node.name.spelling.encode()
        created = _UNKNOWN_TIME if node.created is None else node.created
        updated = _UNKNOWN_TIME if node.updated is None else node.updated
        body = _NODE_BODY.pack(
            node.state,
            _DECODINGS.index(node.decoding),
            len(name),
            min(node.lookups, 0xFFFFFFFF),
            node.inode,
            node.size,
            created,
            updated,
            node.shown,
            bytes.fromhex(node.version),
            name,
        )
        self._put(node.slot, _IS_NODE, body)

    def write_lookups(self, node: Node) -> None:
        """Write how many references the kernel has to an inode that was written before."""
        _LOOKUPS.pack_into(self._map, node.slot * _SLOT + _LOOKUPS_AT, min(node.lookups, 0xFFFFFFFF))

    def write_handle(self, handle: Handle) -> None:
        """Write an open file into its slot."""
        self._put(
            handle.slot,
            _IS_HANDLE,
            _HANDLE_BODY.pack(handle.settled, handle.fh, handle.node.inode, handle.content.inode),
        )

    def write_settled(self, handle: Handle) -> None:
        """Write that the kernel has had the answer which made a handle that was written before."""
        self._map[handle.slot * _SLOT + _SETTLED] = 1

    def _put(self, slot: int, kind: int, body: bytes) -> None:
        # The kind goes last: a record that was half written when the worker died is not read.
        start = slot * _SLOT
        self._map[start + 1 : start + 1 + len(body)] = body
        self._map[start] = kind


def _node(slot: int, record: bytes) -> Node:
    _, state, decoding, length, lookups, inode, size, created, updated, shown, version, name = (
        _NODE.unpack_from(record)
    )
    return Node(
        inode,
        SecretName(name[:length].decode()),
        Version(version.hex()),
        _DECODINGS[decoding],
        State(state),
        size,
        None if created == _UNKNOWN_TIME else created,
        None if updated == _UNKNOWN_TIME else updated,
        slot,
        lookups,
        shown,
    )
