"""A crowd of readers: ``python -m benchmarks.readers FOLDER NAMES READERS READS``; prints JSON.

Forked, so that no interpreter lock stands between them; they begin together, and each read is timed into shared memory.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import struct
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import quantiles
from typing import Any

from benchmarks.reader import read_file

_DOUBLE = struct.Struct("d")


def _reader(paths: list[str], memory: mmap.mmap, place: int, gate: int) -> None:
    """One of the crowd: waits until the gate's other end is closed, then reads."""
    os.read(gate, 1)
    for path in paths:
        begin = time.perf_counter()
        read_file(path)
        _DOUBLE.pack_into(memory, place, time.perf_counter() - begin)
        place += _DOUBLE.size


def crowd(folder: str, names: list[str], readers: int, reads: int) -> dict[str, Any]:
    """Throughput in reads per second, p50 and p99 in milliseconds, and how many readers failed.

    Where any failed, only that and why: the times of the others are those of a smaller crowd.
    """
    memory = mmap.mmap(-1, readers * reads * _DOUBLE.size)
    gate, opener = os.pipe()
    children = []
    for number in range(readers):
        if (child := os.fork()) == 0:
            status = 1
            try:
                os.close(opener)
                paths = [folder + name for name in random.Random(number).choices(names, k=reads)]
                _reader(paths, memory, number * reads * _DOUBLE.size, gate)
                status = 0
            except OSError as error:
                status = error.errno or 1
            finally:
                os._exit(status)
        children.append(child)
    begin = time.perf_counter()
    os.close(opener)
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    took = time.perf_counter() - begin
    os.close(gate)
    failures = [os.strerror(end) if end > 0 else f"signal {-end}" for end in ends if end]
    if failures:  # what a reader that gave up did not measure is no time of 0
        return {"failed": len(failures), "why": Counter(failures).most_common(1)[0][0]}
    times = [one for (one,) in _DOUBLE.iter_unpack(memory)]
    rate = readers * reads / took
    hundredths = quantiles(times, n=100, method="inclusive")
    return {"rate": rate, "p50": hundredths[49] * 1e3, "p99": hundredths[98] * 1e3, "failed": 0}


def run(folder: Path, names: list[str], readers: int, reads: int) -> dict[str, Any]:
    """The crowd in a process of its own: forks of a small one are cheap."""
    words = [str(folder) + "/", str(len(names)), str(readers), str(reads)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.readers", *words], check=True, capture_output=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    _folder, _names, _readers, _reads = sys.argv[1:]
    _width = len(str(int(_names) - 1))
    _all = [f"s{number:0{_width}}" for number in range(int(_names))]
    print(json.dumps(crowd(_folder, _all, int(_readers), int(_reads))))
