"""A mount in a network of its own: names and addresses as a test says, packets that vanish, connections forgotten."""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import trustme

from tests.support.mount import PATIENCE, Mount, wait_until
from tests.support.namespace import network_of
from tests.support.peer import Peer

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from tests.support.vault import VaultProcess

VAULT = "127.0.0.2"
"""Where the vault and its token endpoint listen in the network, which has the interface ``lo`` alone."""

OTHER = "127.0.0.1"
"""Another address of theirs, on which nothing listens unless a test makes it. The resolver sorts it first always: it
is the nearest to where packets come from."""

NAME = "vault.test"
NETWORK = (
    "ip link set lo up; nft add table inet test; "
    "nft 'add chain inet test in { type filter hook input priority 0; }'"
)


class NetworkMount(Mount):
    """A mount inside the network and mount namespaces of its own, with a hosts file of its own.

    Args:
        vault: started with `NETWORK`.
        folder: for mount point and hosts file; a test's own.
        options: for ``-o``.
        authority: the file of the vault's ``--authority``.
    """

    def __init__(self, vault: VaultProcess, folder: Path, *options: str, authority: Path) -> None:
        self._inside = folder / "kv"
        self._inside.mkdir()
        self._hosts = folder / "hosts"
        self._authority = authority
        self.names()
        super().__init__(vault, self._inside, options)

    def names(self, **hosts: tuple[str, ...]) -> None:
        """Addresses of names, ``vault`` for `NAME`; from now on."""
        lines = [f"{address} {name}.test\n" for name, given in hosts.items() for address in given]
        with self._hosts.open("w") as file:  # in place: it is bind-mounted
            file.write("".join(lines))

    def command(self) -> list[str]:
        """In the vault's network, with the hosts file in a mount namespace that nobody else sees."""
        words = super().command()
        port = self.vault.url.rpartition(":")[2]
        words[words.index(self.vault.url)] = f"https://{NAME}:{port}"
        script = f'mount --bind {self._hosts} /etc/hosts && exec "$@"'
        enter = ["nsenter", f"--net=/proc/{self.vault.pid}/ns/net", "unshare", "--mount"]
        return [*enter, "--propagation", "private", "sh", "-c", script, "sh", *words]

    def start(self) -> None:
        """See `Mount.start`."""
        super().start()
        self.where = Path(f"/proc/{self.process.pid}/root{self._inside}")

    def answers(self) -> bool:
        """See `Mount.answers`; the mount is in another mount table than ours."""
        table = Path(f"/proc/{self.process.pid}/mountinfo")
        with contextlib.suppress(OSError):
            return f" {self._inside} " in table.read_text()
        return False

    def cat(self, *names: str) -> list[str]:
        """What programs read of files, all at once; one that cannot be read gives what ``cat`` says about it."""
        readers = [
            subprocess.Popen(
                ["cat", str(self.where / name)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            for name in names
        ]
        return [reader.communicate(timeout=60)[0].decode() for reader in readers]

    def stop(self) -> None:
        """See `Mount.stop`."""
        if self._process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0, self.log()

    def destroy(self) -> None:
        """See `Mount.destroy`: what was mounted goes with the namespace."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._log.close()

    # --- the network -------------------------------------------------------------------------------------

    def _inside_the_network(self, *command: str) -> str:
        words = ["nsenter", f"--net=/proc/{self.vault.pid}/ns/net", *command]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    def vanish(self, rule: str) -> None:
        """Drop packets, without a word to anybody; a rule of nft, such as ``ip daddr 127.0.0.2 tcp dport 443``."""
        self._inside_the_network("nft", f"add rule inet test in {rule} drop")

    def connections(self) -> list[str]:
        """Local ports of the worker's connections to the vault."""
        port = self.vault.url.rpartition(":")[2]
        found = self._inside_the_network("ss", "-Htn", "state", "established", f"( dport = :{port} )")
        return [line.split()[2].rpartition(":")[2] for line in found.splitlines()]

    def forget(self) -> int:
        """Forget the connections to the vault as a load balancer does; how many there were."""
        ports = self.connections()
        for _ in range(20):
            if ports:
                break
            # None is kept just now, since the peer has closed it: have another one made.
            self.cat(".keyvaultfs/refresh")
            os.listdir(self.where)
            ports = self.connections()
        if ports:
            both = "{ " + ", ".join(ports) + " }"
            self.vanish(f"tcp sport {both}")
            self.vanish(f"tcp dport {both}")
        return len(ports)

    @contextlib.contextmanager
    def peer(self, behave: Callable[[Peer, socket.socket], None], host: str, port: int) -> Iterator[Peer]:
        """A peer in the network, on an address and port."""
        with contextlib.ExitStack() as stack:
            with network_of(self.vault.pid):
                made = stack.enter_context(Peer(behave, host, port))
            yield made

    def tls(self, name: str = NAME) -> ssl.SSLContext:
        """For a peer that the worker believes to be the vault."""
        text = self._authority.read_bytes()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        trustme.CA.from_pem(text, text).issue_cert(name).configure_cert(context)
        return context

    def wait_until_reads(self, name: str, text: str, seconds: float = 15.0) -> None:
        """Read a file until it says `text`."""
        wait_until(lambda: self.cat(name) == [text], f"{name} to say what it should: {self.log()}", seconds)
