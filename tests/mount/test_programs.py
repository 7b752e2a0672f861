"""Programs that know nothing of Azure, on files made of secrets: servers, their clients, and what reads keys."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.mount import Mount, run, wait_until
from tests.support.readers_of_files import Systemd, shell_variables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.vault import VaultProcess

pytestmark = pytest.mark.slow

POSTGRES = next(Path("/usr/lib/postgresql").glob("*/bin"))
PASSWORD = "p:a\\ss'\"#$ `x"
HOST = "web-tls.example.com"  # whose certificate the embedded vault makes for the secret web-tls


@pytest.fixture
def described(
    mount: Callable[..., Mount], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Mount]:
    """Mounts what a configuration file says."""

    def start(text: str) -> Mount:
        file = tmp_path_factory.mktemp("config") / "kv.toml"
        file.write_text(text)
        return mount(f"config={file}", "ttl=1")

    return start


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can reach, with a short name: sockets live in it."""
    made = Path(tempfile.mkdtemp(prefix="kvp-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@contextlib.contextmanager
def running(
    command: list[object], user: str | None = None, end: int = signal.SIGTERM
) -> Iterator[subprocess.Popen[bytes]]:
    """A server in the foreground; its output is shown where it ends too soon."""
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            [str(word) for word in command],
            user=user, group=user, extra_groups=[] if user else None,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            yield server
            assert server.poll() is None, os.pread(log.fileno(), 100_000, 0).decode(errors="replace")
        finally:
            server.send_signal(end)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def answers(command: list[object]) -> bool:
    return subprocess.run([str(word) for word in command], capture_output=True, check=False).returncode == 0


def serial(port: int, *more: str) -> str:
    """Of the certificate that a server shows."""
    shown = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", HOST, *more],
        input=b"", capture_output=True, check=False,
    )  # fmt: skip
    done = subprocess.run(
        ["openssl", "x509", "-noout", "-serial"], input=shown.stdout, capture_output=True, check=False
    )
    return done.stdout.decode()


# --- PostgreSQL ----------------------------------------------------------------------------------------------

POSTGRES_FILES = """
[[rules]]
match = ["postgres", "postgres/**"]
owner = "postgres"
group = "postgres"
mode = "0600"
dir_mode = "0750"

[files."postgres/server.key"]
secret = "web-tls"
part = "key"

[files."postgres/server.crt"]
secret = "web-tls"
part = "fullchain"

[files."app/.pgpass"]
template = "*:*:*:app:{{ secret('pg-app-password') | pgpass }}\\n"
mode = "0600"
"""


@pytest.fixture
def cluster(folder: Path) -> Path:
    """A database cluster of the user postgres."""
    data = folder / "data"
    data.mkdir(mode=0o700)
    shutil.chown(data, "postgres", "postgres")
    done = subprocess.run(
        [POSTGRES / "initdb", "--pgdata", data, "--auth=trust", "--no-sync", "--username=postgres"],
        user="postgres", group="postgres", capture_output=True, check=False, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    (data / "pg_hba.conf").write_text(
        "local all postgres trust\nhostssl all app 127.0.0.1/32 scram-sha-256\n"
    )
    return data


def test_postgresql_starts_with_key_and_certificate_and_reloads_them(
    vault: VaultProcess, described: Callable[[str], Mount], cluster: Path, folder: Path, free_port: int
) -> None:
    vault.certificate("web-tls", "pkcs12", intermediates=1, order="shuffled")
    vault.set("pg-app-password", PASSWORD)
    kv = described(POSTGRES_FILES)
    shutil.chown(folder, "postgres")
    settings = {
        "ssl": "on",
        "ssl_key_file": kv / "postgres/server.key",
        "ssl_cert_file": kv / "postgres/server.crt",
        "listen_addresses": "127.0.0.1",
        "port": free_port,
        "unix_socket_directories": folder,
        "fsync": "off",
    }
    command: list[object] = [POSTGRES / "postgres", "-D", cluster]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    admin = [
        "psql",
        "-X",
        "-h",
        folder,
        "-p",
        free_port,
        "-U",
        "postgres",
        "-d",
        "postgres",
        "-q",
        "-A",
        "-t",
        "-c",
    ]
    with running(command, "postgres", signal.SIGINT) as server:
        wait_until(lambda: server.poll() is not None or answers([*admin, "select 1"]), "PostgreSQL to start")
        quoted = PASSWORD.replace("'", "''")
        run(*admin, f"create role app login password '{quoted}'")

        def ask() -> str:
            wish = f"hostaddr=127.0.0.1 host={HOST} port={free_port} user=app dbname=postgres sslmode=verify-full"
            wish += f" sslrootcert={vault.ca_file} passfile={kv / 'app/.pgpass'}"
            return run("psql", "-X", "-w", "-q", "-A", "-t", "-c", "select current_user", wish).strip()

        assert ask() == "app"
        before = serial(free_port, "-starttls", "postgres")
        assert before.startswith("serial=")
        old = (kv / "postgres/server.crt").read_text()
        vault.certificate("web-tls", "pkcs12", key="ec", intermediates=2, order="root-first")
        wait_until(lambda: (kv / "postgres/server.crt").read_text() != old, "the new certificate")
        server.send_signal(signal.SIGHUP)
        wait_until(
            lambda: serial(free_port, "-starttls", "postgres") not in (before, ""), "PostgreSQL to reload"
        )
        assert ask() == "app"


# --- web servers ---------------------------------------------------------------------------------------------

WEB_FILES = """
[files."nginx/site.key"]
secret = "web-tls"
part = "key"
[files."nginx/site.crt"]
secret = "web-tls"
part = "fullchain"
[files."haproxy/site.pem"]
secret = "web-tls"
part = "pem"
[files."tomcat/keystore.p12"]
secret = "web-tls"
part = "pfx"
password = "keystore-password"
"""


def page(vault: VaultProcess, port: int) -> str:
    return run("curl", "--silent", "--show-error", "--noproxy", "*", "--cacert", vault.ca_file,
               "--resolve", f"{HOST}:{port}:127.0.0.1", f"https://{HOST}:{port}/")  # fmt: skip


def listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("key", ["rsa", "ec"])
def test_nginx_and_haproxy_serve_by_parts_of_a_pfx(
    vault: VaultProcess, described: Callable[[str], Mount], folder: Path, free_port: int, key: str
) -> None:
    vault.set("keystore-password", "changeit")
    vault.certificate("web-tls", "pkcs12", key=key, intermediates=2, order="root-first")
    kv = described(WEB_FILES)
    nginx = folder / "nginx.conf"
    nginx.write_text(
        f"daemon off; pid {folder}/pid; error_log stderr; user root; events {{}}\n"
        f"http {{ access_log off; server {{ listen 127.0.0.1:{free_port} ssl; ssl_certificate {kv}/nginx/site.crt;\n"
        f"ssl_certificate_key {kv}/nginx/site.key; location / {{ return 200 'nginx'; }} }} }}\n".replace(
            str(kv), str(kv.where)
        )
    )
    with running(["nginx", "-p", folder, "-c", nginx], end=signal.SIGQUIT) as server:
        wait_until(lambda: server.poll() is not None or listens(free_port), "nginx")
        assert page(vault, free_port) == "nginx"
    haproxy = folder / "haproxy.cfg"
    haproxy.write_text(
        "global\ndefaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 5s\n"
        f"frontend f\n bind 127.0.0.1:{free_port} ssl crt {kv.where}/haproxy/site.pem\n"
        " http-request return status 200 content-type text/plain string haproxy\n"
    )
    with running(["haproxy", "-db", "-f", haproxy]) as server:
        wait_until(lambda: server.poll() is not None or listens(free_port), "HAProxy")
        assert page(vault, free_port) == "haproxy"
    listed = run("keytool", "-list", "-v", "-keystore", kv / "tomcat/keystore.p12", "-storepass", "changeit")
    assert "Certificate chain length: 3" in listed


# --- MySQL ---------------------------------------------------------------------------------------------------


def test_mysqls_client_logs_in_by_its_option_file(
    vault: VaultProcess, described: Callable[[str], Mount], folder: Path
) -> None:
    vault.set("db", PASSWORD)
    kv = described(
        "[files.'root/.my.cnf']\nmode = '0600'\n"
        "template = \"[client]\\nuser = app\\npassword = {{ secret('db') | mycnf }}\\n\"\n"
    )
    data = folder / "data"
    run("mariadb-install-db", "--no-defaults", f"--datadir={data}", "--user=root", "--skip-test-db",
        "--auth-root-authentication-method=normal", "--skip-name-resolve")  # fmt: skip
    place = f"--socket={folder}/s"
    admin: list[object] = [
        "mariadb",
        "--no-defaults",
        place,
        "--user=root",
        "--batch",
        "--skip-column-names",
        "-e",
    ]
    server_command = [
        "mariadbd",
        "--no-defaults",
        f"--datadir={data}",
        place,
        "--user=root",
        "--skip-networking",
    ]
    with running([*server_command, "--innodb-flush-log-at-trx-commit=0"]) as server:
        wait_until(lambda: server.poll() is not None or answers([*admin, "select 1"]), "MariaDB")
        quoted = PASSWORD.replace("\\", "\\\\").replace("'", "\\'")
        run(*admin, f"create user app@localhost identified by '{quoted}'")
        login = [
            "mariadb",
            f"--defaults-file={kv / 'root/.my.cnf'}",
            place,
            "--batch",
            "--skip-column-names",
            "-e",
        ]
        assert run(*login, "select current_user()") == "app@localhost\n"
        refused = subprocess.run(
            ["mariadb", "--no-defaults", place, "--user=app", "--password=wrong", "-e", "select 1"],
            capture_output=True, check=False,
        )  # fmt: skip
        assert refused.returncode != 0


# --- keys and environments -----------------------------------------------------------------------------------


def test_ssh_keygen_reads_a_key_that_ends_with_a_newline(
    vault: VaultProcess, described: Callable[[str], Mount], folder: Path
) -> None:
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "id", "-C", "")
    vault.set("deploy-key", (folder / "id").read_text().rstrip("\n"))
    kv = described(
        '[files."ssh/id"]\nsecret = "deploy-key"\nnewline = true\nmode = "0400"\n'
        '[files."ssh/bare"]\nsecret = "deploy-key"\nmode = "0400"\n'
    )
    public = (folder / "id.pub").read_text().split()[:2]
    assert run("ssh-keygen", "-y", "-f", kv / "ssh/id").split()[:2] == public
    bare = subprocess.run(["ssh-keygen", "-y", "-f", kv / "ssh/bare"], capture_output=True, check=False)
    assert bare.returncode != 0, "a key without a newline is read as well: the option is not needed"


def test_a_shell_and_systemd_read_the_same_environment(
    vault: VaultProcess, described: Callable[[str], Mount]
) -> None:
    vault.set("pg-app-password", PASSWORD + "\nsecond line")
    vault.set("db", '{"user": "app", "port": 5432}')
    kv = described(
        '[files."app/.env"]\nformat = "env"\n'
        'values = { DB_PASSWORD = "pg-app-password", DB_USER = { secret = "db", field = "user" },'
        ' DB_PORT = { secret = "db", field = "/port" } }\n'
    )
    text = (kv / "app/.env").read_text()
    wanted = {"DB_PASSWORD": PASSWORD + "\nsecond line", "DB_USER": "app", "DB_PORT": "5432"}
    assert shell_variables(text, list(wanted)) == [value.encode() for value in wanted.values()]
    assert Systemd().environment(text) == [f"{name}={value}".encode() for name, value in wanted.items()]
