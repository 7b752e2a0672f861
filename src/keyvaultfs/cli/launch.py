"""A mount as somebody asks for it, on the command line and in a configuration file -> what the keeper starts with."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from keyvaultfs.errors import UsageError
from keyvaultfs.ipc import Launch
from keyvaultfs.settings import file, options

if TYPE_CHECKING:
    from collections.abc import Sequence


def launch(
    vault: str | None, mountpoint: str | None, texts: Sequence[str], *, foreground: bool, debug: bool
) -> tuple[Launch, tuple[str, ...]]:
    """What a mount is asked to be, checked in full; and notes for the user.

    Raises:
        UsageError: something is wrong with it.
    """
    parsed = options.parse(texts)
    if "remount" in parsed.flags:
        raise UsageError(
            "a remount changes nothing here: unmount and mount again (systemctl reload keeps a mount up)"
        )
    own = dict(parsed.own)
    path = own.pop("config", None)
    written = None if path is None else _written(path)
    vault = vault or (written.vault if written else None)
    mountpoint = mountpoint or (written.mountpoint if written else None)
    if vault is None or mountpoint is None:
        raise UsageError(
            "name the vault and the mount point: keyvaultfs mount VAULT MOUNTPOINT (or both in the file config=)"
        )
    ready = Launch(
        vault=vault,
        mountpoint=os.path.realpath(mountpoint),
        source=vault,
        options=own,
        config=path,
        generic=parsed.generic,
        foreground=foreground,
        debug=debug,
    )
    found = file.settings(ready)
    _check_vault(vault, found)
    return ready, parsed.notes + file.exposed(ready, found)


def _written(path: str) -> file.Configuration:
    if file.Document(path).laid_out:
        from keyvaultfs.settings import layout

        layout.check(path)
    return file.load(path)


def _check_vault(vault: str, settings: options.Settings) -> None:
    from keyvaultfs.keyvault.origin import Origin

    Origin.parse(vault, allow_http_loopback=settings.allow_http_loopback, resource=settings.resource)
