"""The embedded vault in a process of its own, for tests that must not serve what they read."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from tests.support.namespace import network_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

SOURCE = Path(__file__).resolve().parents[2] / "src"
_START = 30.0  # seconds
_END = 10.0  # seconds
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class VaultProcess:
    """`keyvaultfs dev` as a child; a context manager that leaves nothing behind.

    Args:
        arguments: further ones for the command line, such as ``("--token-lifetime", "60")``.
        network: shell commands that set up a network namespace of its own, such as ``"ip link set lo up"``.
        knobs: turned before `__enter__` returns (see keyvaultfs_devvault.state.Knobs).

    The child also ends when this process dies, since it reads a pipe that we hold.
    """

    def __init__(self, *arguments: str, network: str | None = None, **knobs: Any) -> None:
        self._arguments = arguments
        self._network = network
        self._knobs = knobs
        self._folder = ""
        self._child: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.imds = ""
        self.ca_file = ""
        self.resource = ""
        self.admin = ""

    def __enter__(self) -> Self:
        self._folder = tempfile.mkdtemp(prefix="keyvaultfs-test-vault-")
        command = [sys.executable, "-m", "keyvaultfs_devvault.main", "--json", "--until-eof"]
        command += ["--ca-out", f"{self._folder}/ca.pem", *self._arguments]
        if self._network is not None:
            script = f'set -e; {self._network}; exec "$@"'
            command = ["unshare", "--net", "sh", "-c", script, "sh", *command]
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
        )
        try:
            ready = json.loads(self._line())
            self.url, self.imds, self.resource = ready["url"], ready["imds"], ready["resource"]
            self.admin, self.ca_file = ready["admin"], ready["ca_file"]
            Path(self.ca_file).chmod(0o644)
            Path(self._folder).chmod(0o755)  # an unprivileged reader must get at the certificate
            if self._knobs:
                self.turn(**self._knobs)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child and remove its files; may be called again."""
        child, self._child = self._child, None
        if child is not None:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.close()
            try:
                child.wait(_END)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            child.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        """Of the child, for a test that stops it (SIGSTOP) or counts its descriptors."""
        assert self._child is not None
        return self._child.pid

    def mount_options(self, *more: str) -> str:
        """The `-o` string that makes keyvaultfs use this vault, with more options behind."""
        mine = (f"imds_endpoint={self.imds}", f"ca_file={self.ca_file}", f"resource={self.resource}")
        return ",".join((*mine, *more))

    # --- secrets -----------------------------------------------------------------------------------------

    def set(self, name: str, value: str | bytes, **attributes: Any) -> str:
        """Make a new version, without token or request log; returns its id.

        Args:
            name: of the secret.
            value: bytes are taken for UTF-8.
            attributes: content_type, tags, enabled, managed, version; nbf, exp, created, updated (seconds).
        """
        text = value.decode() if isinstance(value, bytes) else value
        answer = self._ask("POST", "/_dev/secrets", {"name": name, "value": text, **attributes})
        return str(answer["versions"][0])

    rotate = set  # noqa: A003 - our own `set` is meant

    def certificate(self, name: str, kind: str = "pem", **wish: Any) -> str:
        """Make a new key and certificate of ``NAME.example.com``, issued by `ca_file`; returns the version's id.

        Args:
            name: of the secret.
            kind: "pem" or "pkcs12".
            wish: key ("rsa", "ec"), intermediates, order ("leaf-first", "root-first", "shuffled"), private_key.
        """
        answer = self._ask("POST", "/_dev/secrets", {"name": name, "certificate": {"format": kind, **wish}})
        return str(answer["versions"][0])

    def bulk(self, entries: Iterable[Mapping[str, Any]]) -> list[str]:
        """Make many versions in one request; each entry is what `set` takes."""
        versions: list[str] = self._ask("POST", "/_dev/secrets", [dict(entry) for entry in entries])[
            "versions"
        ]
        return versions

    def made_up(self, count: int, prefix: str = "s", size: int = 16, **attributes: Any) -> list[str]:
        """Make `count` secrets and return their names; a value is its name, filled with dots to `size`."""
        self._ask("POST", "/_dev/secrets", {"count": count, "prefix": prefix, "size": size, **attributes})
        return [f"{prefix}{number:0{len(str(count - 1))}}" for number in range(count)]

    def update(self, name: str, version: str | None = None, **attributes: Any) -> None:
        """Change attributes of the current or a named version; `updated` moves, or is what is given."""
        query = "" if version is None else f"?version={version}"
        self._ask("PATCH", f"/_dev/secrets/{quote(name)}{query}", attributes)

    def disable(self, name: str) -> None:
        """Disable the current version."""
        self.update(name, enabled=False)

    def enable(self, name: str) -> None:
        """Enable the current version."""
        self.update(name, enabled=True)

    def delete(self, name: str, *, erase: bool = False) -> None:
        """Soft-delete; or erase, so that the name is free again."""
        self._ask("DELETE", f"/_dev/secrets/{quote(name)}" + ("?erase=1" if erase else ""))

    def recover(self, name: str) -> None:
        """Undo a soft deletion."""
        self._ask("POST", f"/_dev/secrets/{quote(name)}/recover")

    def describe(self, name: str) -> dict[str, Any]:
        """name, current, and versions with all attributes but no values; in order of their making."""
        return self._ask("GET", f"/_dev/secrets/{quote(name)}")

    def clear_secrets(self) -> None:
        """Forget all secrets, deleted ones too."""
        self._ask("DELETE", "/_dev/secrets")

    # --- misbehaviour ------------------------------------------------------------------------------------

    def fault(self, **rule: Any) -> int:
        """Put a rule in force, return its id: see keyvaultfs_devvault.faults.Rule; the newest match wins."""
        if isinstance(rule.get("body"), bytes):
            rule["body_base64"] = base64.b64encode(rule.pop("body")).decode()
        return int(self._ask("POST", "/_dev/faults", rule)["ids"][0])

    def outage(self, which: str = "vault", how: str = "refuse") -> int:
        """Take a listener down: "refuse", "reset", or "silent"; which may be "both"."""
        return self.fault(which=which, outage=how)

    def clear_faults(self, number: int | None = None) -> None:
        """Lift one rule, or all."""
        self._ask("DELETE", "/_dev/faults" + ("" if number is None else f"/{number}"))

    def faults(self) -> list[dict[str, Any]]:
        """The rules in force, newest first, with `hits`."""
        found: list[dict[str, Any]] = self._ask("GET", "/_dev/faults")["faults"]
        return found

    def turn(self, **knobs: Any) -> None:
        """Turn knobs: latency, delete_delay, page_size, token_lifetime, clock_offset, …"""
        self._ask("PATCH", "/_dev/knobs", knobs)

    def revoke_tokens(self, *, keep: bool = False) -> None:
        """Reject all tokens made so far; with `keep` the token endpoint hands the dead ones out still."""
        self._ask("POST", "/_dev/tokens/revoke", {"keep": keep})

    # --- the log -----------------------------------------------------------------------------------------

    def requests(
        self, op: str | None = None, name: str | None = None, kind: str | None = None
    ) -> list[dict[str, Any]]:
        """The requests since `reset_requests`, oldest first, narrowed down.

        Each has time and end (of time.monotonic(), the same in all processes), kind ("vault", "imds"), op,
        name, version, method, page, api_version, resource, had_token, headers, status (None: not answered) and
        fault.
        """
        found: list[dict[str, Any]] = self.report()["requests"]
        return [
            entry
            for entry in found
            if (op is None or entry["op"] == op)
            and (name is None or (entry["name"] or "").lower() == name.lower())
            and (kind is None or entry["kind"] == kind)
        ]

    def report(self) -> dict[str, Any]:
        """requests, and by kind in_flight, max_in_flight, connections."""
        return self._ask("GET", "/_dev/requests")

    def reset_requests(self) -> None:
        """Empty the log."""
        self._ask("DELETE", "/_dev/requests")

    # --- how ---------------------------------------------------------------------------------------------

    def _ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.admin + path, data=data, method=method)
        try:
            with self._there(), _OPENER.open(request, timeout=30) as answer:
                parsed: dict[str, Any] = json.load(answer)
                return parsed
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(f"{method} {path}: {error.code} {json.load(error)['error']}") from None

    def _there(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._network is None else network_of(self.pid)

    def _line(self) -> bytes:
        assert self._child is not None
        assert self._child.stdout is not None
        end = time.monotonic() + _START
        line = b""
        while not line.endswith(b"\n"):
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._child.stdout], [], [], left)[0]:
                raise TimeoutError("the embedded vault did not start")
            if not (more := os.read(self._child.stdout.fileno(), 65_536)):
                raise RuntimeError(f"the embedded vault ended with status {self._child.wait()}")
            line += more
        return line
