"""``make demo``: an embedded vault, a mount of it, and what a user does with both."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
OPTIONS = {"imds_endpoint": "imds", "ca_file": "ca_file", "resource": "resource"}
KEYVAULTFS = Path(sys.executable).with_name("keyvaultfs")


def show(command: str, where: Path) -> None:
    """Print a command line and what it prints."""
    print(f"$ {command}", flush=True)
    done = subprocess.run(command, shell=True, cwd=where, check=False)
    if done.returncode:
        raise SystemExit(f"demo: exit status {done.returncode}: {command}")
    print(flush=True)


@contextlib.contextmanager
def vault() -> Iterator[dict[str, str]]:
    """The embedded vault, until the end."""
    command = [str(KEYVAULTFS), "dev", "--json", "--until-eof", "--seed", str(HERE / "demo-secrets.toml")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise SystemExit("demo: the embedded vault did not start")
        yield json.loads(line)
        assert child.stdin is not None
        child.stdin.close()


def store(addresses: dict[str, str], name: str, value: str) -> None:
    """Set a secret, as somebody else would by the portal or `az`."""
    body = json.dumps({"name": name, "value": value}).encode()
    request = urllib.request.Request(f"{addresses['admin']}/_dev/secrets", data=body, method="POST")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request):
        pass


def wait(where: Path, text: str) -> float:
    """Seconds until the file reads as `text`."""
    begin = time.monotonic()
    while (where / "MyTestSecret").read_text() != text:
        if time.monotonic() - begin > 30:
            raise SystemExit("demo: the rotation was not seen")
        time.sleep(0.1)
    return time.monotonic() - begin


def main() -> int:
    """Run it; ``KEEP=1`` leaves the mount until Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="keyvaultfs-demo-") as folder, vault() as addresses:
        store(addresses, "big", "0123456789abcde\n" * 1562 + "00000000")
        where = Path(folder) / "kv"
        where.mkdir()
        options = ",".join(
            [
                f"ttl=2,config={HERE / 'demo-files.toml'}",
                *(f"{key}={addresses[field]}" for key, field in OPTIONS.items()),
            ]
        )
        print(f"The vault {addresses['url']} holds a few secrets. Mount it:\n")
        show(f"{shlex.quote(str(KEYVAULTFS))} mount {addresses['url']} {where} -o {options}", Path(folder))
        try:
            tour(addresses, where)
            if os.environ.get("KEEP"):
                keep(where)
        finally:
            subprocess.run(
                ["umount", str(where)] if os.geteuid() == 0 else ["fusermount3", "-u", str(where)], check=True
            )
        print(f"$ umount {where}\n\nIt is gone: {os.listdir(where)}")
    return 0


def tour(addresses: dict[str, Any], where: Path) -> None:
    """What a user sees."""
    show("ls -l", where)
    show("cat MyTestSecret; echo", where)
    show("cat motd greeting; echo; wc -c big", where)
    print("Files that are made of secrets, as docs/demo-files.toml says:")
    show("find app nginx -type f -exec ls -l {} +", where)
    show("cat app/database app/.pgpass", where)
    show("head -n 1 nginx/site.key; openssl x509 -in nginx/site.crt -noout -subject -issuer || true", where)
    print("Somebody rotates MyTestSecret in the vault; a program that watches the file hears of it:")
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context((where / "MyTestSecret").open())
        store(addresses, "MyTestSecret", "correct horse battery staple")
        seconds = wait(where, "correct horse battery staple")
        print(f"  after {seconds:.1f} s the file reads: {(where / 'MyTestSecret').read_text()}")
        print(f"  who had it open still reads:  {reader.read()}\n")
    show(f"{shlex.quote(str(KEYVAULTFS))} status . | head -n 16", where)


def keep(where: Path) -> None:
    """Wait for Ctrl-C."""
    print(f"Mounted on {where} until Ctrl-C.", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
