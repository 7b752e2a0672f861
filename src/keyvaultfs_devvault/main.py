"""`keyvaultfs dev`: starts the embedded vault, says how to use it, and optionally mounts it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from keyvaultfs_devvault import seed
from keyvaultfs_devvault.arguments import add_arguments
from keyvaultfs_devvault.certificates import Authority
from keyvaultfs_devvault.errors import VaultError
from keyvaultfs_devvault.imds import PATH
from keyvaultfs_devvault.server import Addresses, check_host, serve
from keyvaultfs_devvault.state import Knobs, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_UNMOUNT = 15.0  # seconds for the mount's own unmounting
_EMPTY = "*.vault.localhost"


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT, SIGTERM, or the end of the mount.

    Returns:
        0, or 1 with one line on standard error.
    """
    arc = None if args.arc is None else str(args.arc)
    state = State(Knobs(latency=args.latency, token_lifetime=args.token_lifetime, arc=arc))
    try:
        check_host(args.host)
        authority = Authority(args.authority)
        if args.seed is not None:
            seed.load(state.store, args.seed, authority)
        with _ca_file(args.ca_out) as ca_file:
            return trio.run(partial(_main, args, state, authority, ca_file))
    except (OSError, ValueError) as error:
        return _fail(str(error))
    except VaultError as error:
        return _fail(error.message)


def _fail(text: str) -> int:
    sys.stderr.write(f"keyvaultfs dev: {text}\n")
    return 1


@contextlib.contextmanager
def _ca_file(wanted: Path | None) -> Iterator[Path]:
    if wanted is not None:
        yield wanted
        return
    with tempfile.TemporaryDirectory(prefix="keyvaultfs-dev-") as folder:
        yield Path(folder) / "ca.pem"


async def _main(args: argparse.Namespace, state: State, authority: Authority, ca_file: Path) -> int:
    serving = partial(
        serve,
        state,
        authority=authority,
        ca_file=ca_file,
        host=args.host,
        port=args.port,
        imds_host=args.imds_host,
        imds_port=args.imds_port,
        admin_port=args.admin_port,
        hosts=tuple(args.name),
    )
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            outcome = 0
            addresses: Addresses = await nursery.start(_plainly, serving)
            sys.stdout.write(as_json(addresses) if args.json else as_text(addresses, args.mount, args.arc))
            sys.stdout.flush()
            if args.until_eof:
                nursery.start_soon(_end_of_input, nursery.cancel_scope)
            nursery.start_soon(_end_by_signal, signals, nursery.cancel_scope)
            if args.mount is not None:
                outcome = await _mounted(addresses, args.mount, args.arc)
                nursery.cancel_scope.cancel()
        return outcome


async def _plainly(serving: Callable[..., Any], *, task_status: trio.TaskStatus[Addresses]) -> None:
    await serving(task_status=task_status)


async def _end_of_input(scope: trio.CancelScope) -> None:
    async with trio.lowlevel.FdStream(os.dup(0)) as stream:
        while await stream.receive_some(4096):
            pass
    scope.cancel()


async def _end_by_signal(signals: Any, scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()


async def _mounted(addresses: Addresses, where: Path, arc: Path | None) -> int:
    """Mount in a child until it ends, or until we are cancelled: SIGTERM makes it unmount."""
    command = [
        sys.executable,
        "-m",
        "keyvaultfs.cli.main",
        "mount",
        "-f",
        addresses.url,
        str(where),
        "-o",
        mount_options(addresses, arc),
    ]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603, ASYNC220 - ourselves
    try:
        while child.poll() is None:  # noqa: ASYNC110 - the end of a process is no event
            await trio.sleep(0.1)
    finally:
        with trio.CancelScope(shield=True):
            child.terminate()
            await _ended(child)
    return 0 if child.returncode == 0 else 1


async def _ended(child: subprocess.Popen[bytes]) -> None:
    """Wait for the child; the vault must go on answering meanwhile, since an unmount may wait for a read."""
    with trio.move_on_after(_UNMOUNT):
        while child.poll() is None:  # noqa: ASYNC110 - as above
            await trio.sleep(0.05)
        return
    child.kill()
    child.wait()


def mount_options(addresses: Addresses, arc: Path | None = None) -> str:
    """What `keyvaultfs mount -o` needs to know; `arc` is the folder of Azure Arc's key files."""
    identity = "" if arc is None else f",auth=arc,arc_tokens={arc}"
    return (
        f"imds_endpoint={addresses.imds},ca_file={addresses.ca_file},resource={addresses.resource}{identity}"
    )


def as_json(addresses: Addresses) -> str:
    """One line for programs."""
    return json.dumps(dataclasses.asdict(addresses)) + "\n"


def as_text(addresses: Addresses, mount: Path | None = None, arc: Path | None = None) -> str:
    """Some lines for people."""
    target = "MOUNTPOINT" if mount is None else str(mount)
    where = [f"  export AZURE_POD_IDENTITY_AUTHORITY_HOST={addresses.imds}"]
    if arc is not None:
        where = [
            f"  export IDENTITY_ENDPOINT={addresses.imds}{PATH}",
            f"  export IMDS_ENDPOINT={addresses.imds}",
        ]
    return "\n".join(
        [
            f"Vault:     {addresses.url}",
            f"Tokens:    {addresses.imds}",
            f"Control:   {addresses.admin}/_dev/",
            f"CA file:   {addresses.ca_file}",
            "",
            "Mount it:" if mount is None else "Mounted by:",
            f"  keyvaultfs mount {addresses.url} {target} -o {mount_options(addresses, arc)}",
            "",
            "Microsoft's clients:",
            *where,
            "  export AZURE_TOKEN_CREDENTIALS=ManagedIdentityCredential",
            f"  export REQUESTS_CA_BUNDLE={addresses.ca_file}",
            f"  # vault_url: {addresses.url}",
            "  # for another name, add a line to /etc/hosts: 127.0.0.1 my.vault.localhost",
            "",
            "",
        ]
    )


def main() -> int:
    """`python -m keyvaultfs_devvault.main`, without the rest of the command line."""
    parser = argparse.ArgumentParser(prog="keyvaultfs dev", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
