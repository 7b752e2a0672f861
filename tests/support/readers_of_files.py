"""The programs and libraries that read credential files, as functions from a file's text to what they read in it."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import http.server
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

HERE = Path(__file__).resolve().parent


@contextlib.contextmanager
def file_of(text: str) -> Iterator[Path]:
    """A file of mode 0600, since some readers take no other."""
    with tempfile.NamedTemporaryFile(prefix="keyvaultfs-test-") as file:
        file.write(text.encode())
        file.flush()
        yield Path(file.name)


class Libpq:
    """libpq's reader of password files, by which psql and all its kin find theirs. No server is asked."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libpq.so.5")
        self._library.PQconnectStart.restype = ctypes.c_void_p
        self._library.PQpass.restype = ctypes.c_char_p

    def password(self, text: str, user: str = "app") -> bytes:
        with file_of(text) as file:
            wish = f"host=/nonexistent port=5432 dbname=db user={user} passfile={file}"
            connection = ctypes.c_void_p(self._library.PQconnectStart(wish.encode()))
            try:
                found: bytes = self._library.PQpass(connection)
                return found
            finally:
                self._library.PQfinish(connection)


def mysql_option(text: str, group: str, option: str) -> bytes:
    """What MySQL's and MariaDB's clients take for ``option`` of ``[group]``."""
    with file_of(text) as file:
        done = subprocess.run(
            ["my_print_defaults", f"--defaults-file={file}", group],
            capture_output=True,
            check=True,
            env={"PATH": "/usr/bin"},
        )
    return done.stdout.removeprefix(f"--{option}=".encode()).removesuffix(b"\n")


def shell_variables(text: str, names: list[str], shell: str = "dash") -> list[bytes]:
    """What a shell has in its variables after ``.`` of the file."""
    words = " ".join(f'"${name}"' for name in names)
    with file_of(text) as file:
        done = subprocess.run(
            [shell, "-c", f'. "$0"; printf "%s\\0" {words}', str(file)],
            capture_output=True,
            check=True,
            env={},
        )
    assert done.stderr == b""
    return done.stdout.split(b"\0")[:-1]


def shell_words(text: str, shell: str = "dash") -> list[bytes]:
    """The words of a command line."""
    with file_of(f'printf "%s\\0" {text}\n') as file:
        done = subprocess.run([shell, str(file)], capture_output=True, check=True, env={})
    return done.stdout.split(b"\0")[:-1]


class Systemd:
    """The function by which the manager reads ``EnvironmentFile=``, out of systemd's own library."""

    def __init__(self) -> None:
        (path,) = Path("/usr/lib").glob("*/systemd/libsystemd-shared-*.so")
        self._library = ctypes.CDLL(str(path))
        self._libc = ctypes.CDLL(None)
        self._libc.fopen.restype = ctypes.c_void_p

    def environment(self, text: str) -> list[bytes]:
        """The assignments."""
        with file_of(text) as path:
            file = ctypes.c_void_p(self._libc.fopen(str(path).encode(), b"re"))
            found = ctypes.POINTER(ctypes.c_char_p)()
            code = self._library.load_env_file(file, str(path).encode(), ctypes.byref(found))
            self._libc.fclose(file)
        assert code >= 0, f"systemd refuses it: errno {-code}"
        taken: list[bytes] = []
        while (one := found[len(taken)]) is not None:
            taken.append(one)
        return taken


class Java:
    """java.util.Properties, in one process for many files."""

    def __enter__(self) -> Self:
        self._child = subprocess.Popen(
            ["java", "-XX:TieredStopAtLevel=1", "-Xshare:auto", str(HERE / "ReadProperties.java")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.communicate()

    def properties(self, text: str) -> dict[str, str]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(base64.b64encode(text.encode()) + b"\n")
        self._child.stdin.flush()
        words = [base64.b64decode(word[1:]).decode() for word in self._child.stdout.readline().split()]
        return dict(zip(words[::2], words[1::2], strict=True))


class Curl:
    """What curl sends after it has read a .netrc."""

    def __enter__(self) -> Self:
        seen: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append(self.headers.get("Authorization", ""))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's
                """Nothing."""

        self._seen = seen
        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def login(self, text: str) -> bytes:
        """User and password, with a colon between."""
        with file_of(text) as file:
            subprocess.run(
                ["curl", "--silent", "--show-error", "--noproxy", "*", "--netrc-file", str(file),
                 f"http://127.0.0.1:{self._server.server_port}/"],
                check=True,
            )  # fmt: skip
        scheme, _, word = self._seen.pop().partition(" ")
        assert scheme == "Basic"
        return base64.b64decode(word)
