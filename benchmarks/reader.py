"""A reader in a process of its own: does what a JSON line on standard input says, and answers how long it took.

A job is {"do": kind, "count": n, "at": when to begin (time.monotonic()), …}; the answer is {"each": seconds}, or
{"times": [seconds, …]} where the job has a list of "names".
"""

from __future__ import annotations

import gc
import http.client
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_kept: dict[str, Any] = {}


def read_file(path: str) -> bytes:
    """Open, read, close, and nothing that Python adds of its own."""
    descriptor = os.open(path, os.O_RDONLY)
    data = os.read(descriptor, 65_536)
    os.close(descriptor)
    return data


def spawn(argv: list[str], environment: dict[str, str]) -> None:
    """Run a program to its end; its output goes nowhere."""
    actions = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    child = os.posix_spawnp(argv[0], argv, environment, file_actions=actions)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise RuntimeError(f"{argv[0]} ended with {status}")


def _file(job: dict[str, Any]) -> Callable[[str], object]:
    folder = job.get("folder", "")
    return lambda name: read_file(folder + name)


def _stat(job: dict[str, Any]) -> Callable[[str], object]:
    folder = job.get("folder", "")
    return lambda name: os.stat(folder + name)  # noqa: PTH116 - no pathlib in what is measured


def _spawn(job: dict[str, Any]) -> Callable[[str], object]:
    argv: list[str] = job["argv"]
    environment = {**os.environ, **job.get("env", {})}
    return lambda name: spawn([word.replace("{}", name) for word in argv], environment)


def _http(job: dict[str, Any]) -> Callable[[str], object]:
    port = job["port"]
    if port not in _kept:
        _kept[port] = http.client.HTTPConnection("127.0.0.1", port)
    connection = _kept[port]

    def ask(name: str) -> bytes:
        connection.request("GET", f"/secrets/{name}")
        answer = connection.getresponse()
        data: bytes = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"the agent answered {answer.status}")
        return data

    return ask


def _requests(job: dict[str, Any]) -> Callable[[str], object]:
    import requests  # not in the other readers

    if "session" not in _kept:
        _kept["session"] = requests.Session()
        _kept["session"].trust_env = False
    session, port = _kept["session"], job["port"]
    return lambda name: session.get(f"http://127.0.0.1:{port}/secrets/{name}", timeout=10).content


def _get(job: dict[str, Any]) -> Callable[[str], object]:
    import requests  # not in the other readers

    if "vault" not in _kept:
        _kept["vault"] = requests.Session()
        _kept["vault"].trust_env = False
        _kept["vault"].verify = job["ca_file"]
        _kept["vault"].headers["Authorization"] = f"Bearer {job['token']}"
    session, where = _kept["vault"], job["url"]
    return lambda name: session.get(f"{where}/secrets/{name}?api-version=7.4", timeout=10).json()["value"]


def _sdk(job: dict[str, Any]) -> Callable[[str], object]:
    os.environ.update(job["env"])
    from benchmarks.sdk_read import client  # half a second of imports

    if "client" not in _kept:
        _kept["client"] = client(job["url"])
    made = _kept["client"]
    return lambda name: made.get_secret(name).value


KINDS = {
    "read": _file,
    "stat": _stat,
    "spawn": _spawn,
    "http": _http,
    "requests": _requests,
    "get": _get,
    "sdk": _sdk,
}


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job."""
    do = KINDS[job["do"]](job)
    clock = time.perf_counter
    if (wait := job.get("at", 0.0) - time.monotonic()) > 0:
        time.sleep(wait)
    gc.disable()
    try:
        if "names" in job:
            times = []
            for name in job["names"]:
                begin = clock()
                do(name)
                times.append(clock() - begin)
            return {"times": times}
        name, count = job.get("name", ""), job["count"]
        begin = clock()
        for _ in range(count):
            do(name)
        return {"each": (clock() - begin) / count}
    finally:
        gc.enable()


class Reader:
    """A reader as a child; a context manager."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.reader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()
        assert self._child.stdout is not None
        self._child.stdout.close()

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._child.pid

    def begin(self, job: dict[str, Any]) -> None:
        """Hand a job over."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(job) + "\n")
        self._child.stdin.flush()

    def end(self) -> dict[str, Any]:
        """Wait for its answer."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the reader died"}
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def each(self, job: dict[str, Any]) -> float:
        """Seconds for one operation."""
        self.begin(job)
        return float(self.end()["each"])

    def times(self, job: dict[str, Any]) -> list[float]:
        """Seconds for each of the job's names."""
        self.begin(job)
        times: list[float] = self.end()["times"]
        return times


def main() -> None:
    """Serve jobs until standard input ends."""
    for line in sys.stdin:
        try:
            answer = work(json.loads(line))
        except (OSError, RuntimeError, ValueError, LookupError, http.client.HTTPException) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
