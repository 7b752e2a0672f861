"""How libfuse comes to serve a connection whose INIT is long past: replay, check, dup2, resend (DESIGN §4)."""

from __future__ import annotations

import errno
import itertools
import os
import select
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

import pyfuse3
import trio

from keyvaultfs.log import LOG

if TYPE_CHECKING:
    from collections.abc import Callable

# linux/fuse.h: fuse_in_header (len, opcode, unique, nodeid, …) and fuse_out_header (len, error, unique).
_OUT = struct.Struct("<IiQ")
_IN = struct.Struct("<IIQQ")
_LOOKUP, _FORGET, _OPEN, _BATCH_FORGET = 1, 2, 14, 42
_NOTIFY_RESEND = 7
_FLAGS_OFFSET = _OUT.size + 12  # fuse_init_out: major, minor, max_readahead, flags
_PARALLEL_DIROPS = 1 << 18
_INIT_EXT = 1 << 30
_HAS_RESEND = 1 << 39
_INIT_IN_FLAGS = 40 + 12
_LARGEST = 1 << 21

_INIT_SECONDS = 10.0
_FIRST_REQUEST_SECONDS = 2.0
_QUICK_TURNS = 200
"""They end within a few rounds of the scheduler, and readers wait for it."""

_OUTSTANDING = 20_000
"""Requests that a dead worker may have read and not answered, at most; a few thousand is what max_tasks allows."""


class TakeoverError(Exception):
    """This worker cannot serve the connection; the keeper decides what comes next."""


class Attached(NamedTuple):
    """The answer that the kernel has for its INIT, and the descriptor that libfuse reads."""

    init_answer: bytes
    fd: int


async def attach(
    operations: pyfuse3.Operations,
    device: int,
    *,
    init: bytes,
    init_answer: bytes,
    resend: bool,
    successor: bool,
    poke: Callable[[], None],
    hurry: Callable[[], None],
) -> Attached:
    """Let libfuse answer the saved INIT, put the device in the place of its socket, and have lost requests repeated.

    Args:
        operations: for `pyfuse3.init`.
        device: the FUSE device, in blocking mode.
        init: the kernel's INIT request.
        init_answer: the answer that the kernel was given, b"" if none.
        resend: whether FUSE_NOTIFY_RESEND may be used where the kernel has it.
        successor: whether an earlier worker may have left requests unanswered.
        poke: has another process send one request to this mount.
        hurry: has handlers that wait answer at once.

    Raises:
        TakeoverError: libfuse refused, or the kernel was told what this libfuse cannot do.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LARGEST)
    fd = theirs.detach()
    pyfuse3.init(operations, f"/dev/fd/{fd}", set())
    relay = trio.socket.from_stdlib_socket(ours)
    try:
        await relay.send(init)
        async with trio.open_nursery() as nursery:
            ended = trio.Event()
            nursery.start_soon(_serve_until_closing, ended)
            reply = b""
            with trio.move_on_after(_INIT_SECONDS):
                reply = await relay.recv(_LARGEST)
            try:
                init_answer = _answer(device, reply, init_answer)
                if successor and not resends(init, wanted=resend):
                    await _fail_lost(device, relay, poke, hurry)
            finally:
                # Nobody may wait on the descriptor during dup2, and main has several waiting tasks.
                for turn in itertools.count():
                    if ended.is_set():
                        break
                    trio.lowlevel.notify_closing(fd)
                    await trio.sleep(0 if turn < _QUICK_TURNS else 0.005)
        os.dup2(device, fd, inheritable=False)
    finally:
        relay.close()
    if successor and resends(init, wanted=resend):
        os.write(device, _OUT.pack(_OUT.size, _NOTIFY_RESEND, 0))
    return Attached(init_answer, fd)


async def _serve_until_closing(ended: trio.Event) -> None:
    try:
        await pyfuse3.main()
    finally:
        ended.set()


def resends(init: bytes, *, wanted: bool) -> bool:
    """Whether the kernel will send unanswered requests again.

    Args:
        init: the kernel's INIT request.
        wanted: whether FUSE_NOTIFY_RESEND may be used where the kernel has it.
    """
    flags, flags2 = struct.unpack_from("<I", init, _INIT_IN_FLAGS)[0], 0
    if flags & _INIT_EXT and len(init) >= _INIT_IN_FLAGS + 8:
        flags2 = struct.unpack_from("<I", init, _INIT_IN_FLAGS + 4)[0]
    return wanted and bool((flags | flags2 << 32) & _HAS_RESEND)


def _answer(device: int, reply: bytes, init_answer: bytes) -> bytes:
    """Give libfuse's answer to the kernel, or check it against what the kernel was told."""
    if len(reply) < _FLAGS_OFFSET + 4 or _OUT.unpack_from(reply)[1] != 0:
        raise TakeoverError("libfuse did not accept the kernel's INIT")
    answer = bytearray(reply)
    (flags,) = struct.unpack_from("<I", answer, _FLAGS_OFFSET)
    struct.pack_into("<I", answer, _FLAGS_OFFSET, flags | _PARALLEL_DIROPS)
    if init_answer:
        (promised,) = struct.unpack_from("<I", init_answer, _FLAGS_OFFSET)
        missing = promised & ~(flags | _PARALLEL_DIROPS)
        if missing:
            raise TakeoverError(f"the kernel was told of abilities that this libfuse lacks: {missing:#x}")
        return init_answer
    try:
        os.write(device, answer)
    except OSError as exc:
        if exc.errno != errno.ENOENT:  # a predecessor died just after it had answered
            raise TakeoverError(f"the kernel refused the answer to INIT: {exc.strerror}") from exc
    return bytes(answer)


async def _fail_lost(
    device: int, relay: trio.socket.SocketType, poke: Callable[[], None], hurry: Callable[[], None]
) -> None:
    """Answer the requests that a predecessor had read with ESTALE, on which the kernel repeats look-ups and opens.

    The queue is first in, first out: whatever is older than the first request in it was read by the predecessor.
    """
    poke()
    request, length, opcode, newest = b"", 0, 0, 0
    with trio.move_on_after(_FIRST_REQUEST_SECONDS):
        while not newest:
            if not select.select([device], [], [], 0)[0]:
                await trio.sleep(0.002)
                continue
            try:
                request = os.read(device, _LARGEST)
            except OSError as exc:
                raise TakeoverError(f"cannot read the device: {exc.strerror}") from exc
            length, opcode, newest, _ = _IN.unpack_from(request)
    if not newest:
        LOG.warning("requests that the last worker had read may wait for ever: nothing came from the kernel")
        return
    if opcode in {_LOOKUP, _OPEN}:
        # Not served here: an OPEN may depend on a notification, and none can be sent through the relay.
        os.write(device, _OUT.pack(_OUT.size, -errno.ESTALE, newest))
    else:
        await relay.send(request[:length])
        if opcode not in {_FORGET, _BATCH_FORGET}:
            await _relay_answer(device, relay, hurry)
    found = 0
    newest &= (1 << 63) - 1
    for unique in range(newest - newest % 2 - 2, max(0, newest - 2 * _OUTSTANDING), -2):
        try:
            os.write(device, _OUT.pack(_OUT.size, -errno.ESTALE, unique))
        except OSError:  # ENOENT: no such request
            continue
        found += 1
    LOG.info("the kernel repeats %d requests", found)


async def _relay_answer(device: int, relay: trio.socket.SocketType, hurry: Callable[[], None]) -> None:
    reply = b""
    with trio.move_on_after(_FIRST_REQUEST_SECONDS):
        reply = await relay.recv(_LARGEST)
    if not reply:
        # A READ or READDIR that waits for the network: everybody else waits behind it.
        hurry()
        reply = await relay.recv(_LARGEST)
    os.write(device, reply)
