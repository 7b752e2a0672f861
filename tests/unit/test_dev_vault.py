"""What the embedded vault keeps from one start to the next, and by which names it goes."""

from __future__ import annotations

import contextlib
import socket
import ssl
import stat
import subprocess
import sys
from http.client import HTTPSConnection
from typing import TYPE_CHECKING

import pytest

from keyvaultfs_devvault.certificates import Authority
from tests.support.mount import wait_until
from tests.support.vault import VaultProcess

if TYPE_CHECKING:
    from pathlib import Path


def port_of(vault: VaultProcess) -> int:
    return int(vault.url.rpartition(":")[2])


def test_a_kept_authority_vouches_for_the_next_start_and_is_roots_alone(tmp_path: Path) -> None:
    keep = tmp_path / "authority.pem"
    authorities = []
    for _ in range(2):
        with VaultProcess("--authority", str(keep)) as vault:
            authorities.append(
                ssl.create_default_context(cafile=vault.ca_file).get_ca_certs(binary_form=True)
            )
            context = ssl.create_default_context(cadata=authorities[0][0])
            port = port_of(vault)
            connection = HTTPSConnection("127.0.0.1", port, context=context, timeout=30)
            connection.request("GET", "/secrets?api-version=7.4")
            assert connection.getresponse().status == 401
            connection.close()
    assert authorities[0] == authorities[1]
    assert stat.S_IMODE(keep.stat().st_mode) == 0o600


def test_a_file_that_holds_no_authority_is_an_error(tmp_path: Path) -> None:
    keep = tmp_path / "authority.pem"
    keep.write_text("nothing of the kind")
    with pytest.raises(ValueError, match=r"(?i)pem"):
        Authority(keep)


def test_a_name_that_is_certified_is_the_vaults_own_and_its_suffix_is_whom_tokens_are_for() -> None:
    name = "mytestkeyvault.vault.azure.net"
    with VaultProcess("--name", name) as vault:
        port = port_of(vault)
        context = ssl.create_default_context(cafile=vault.ca_file)
        connection = HTTPSConnection("127.0.0.1", port, context=context, timeout=30)
        connection.request("GET", "/secrets?api-version=7.4", headers={"Host": f"{name}:{port}"})
        challenge = connection.getresponse().headers["WWW-Authenticate"]
        connection.close()
    assert f'resource="https://vault.azure.net:{port}"' in challenge


@pytest.mark.parametrize("how", ["refuse", "reset"])
def test_an_outage_cuts_a_connection_that_is_still_being_made(how: str) -> None:
    with VaultProcess() as vault:
        port = port_of(vault)
        context = ssl.create_default_context(cafile=vault.ca_file)
        with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
            wait_until(lambda: vault.report()["connections"]["vault"] == 1, "the connection")
            vault.outage(how=how)
            answer = b""
            with (
                contextlib.suppress(ConnectionError, ssl.SSLEOFError),
                context.wrap_socket(raw, server_hostname="127.0.0.1") as tls,
            ):
                tls.sendall(b"GET /secrets?api-version=7.4 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                answer = tls.recv(1)
            assert answer == b""


@pytest.mark.parametrize("missing", ["keyvaultfs_devvault", "hypercorn", "trustme"])
def test_where_it_is_missing_one_line_says_what_to_install(missing: str) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None; from keyvaultfs.cli.main import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "dev", "--seed", "x"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"keyvaultfs: the embedded vault needs {missing}: install the package keyvaultfs-dev-vault,"
        " or: pip install 'keyvaultfs[dev-vault]'\n"
    )


def test_what_it_prints_for_people_can_be_pasted(tmp_path: Path) -> None:
    program = [
        sys.executable,
        "-m",
        "keyvaultfs_devvault.main",
        "--until-eof",
        "--ca-out",
        str(tmp_path / "ca.pem"),
    ]
    for more in ([], ["--arc", str(tmp_path)]):
        done = subprocess.run(
            [*program, *more], input="", capture_output=True, text=True, check=True, timeout=60
        )
        facts = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[:4])
        options = f"imds_endpoint={facts['Tokens:']},ca_file={tmp_path}/ca.pem,resource=https://0.0.1:"
        assert f"  keyvaultfs mount {facts['Vault:']} MOUNTPOINT -o {options}" in done.stdout
        assert (f",auth=arc,arc_tokens={tmp_path}\n" in done.stdout) == bool(more)
        assert (
            f"  export IDENTITY_ENDPOINT={facts['Tokens:']}/metadata/identity/oauth2/token\n" in done.stdout
        ) == bool(more)
