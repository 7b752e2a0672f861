"""Group 7: files that are made of secrets."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

from benchmarks import peers, processes
from benchmarks.model import OURS, Group
from benchmarks.reader import Reader
from benchmarks.svg import bars
from benchmarks.warm import measure
from tests.support.vault import VaultProcess

if TYPE_CHECKING:
    from pathlib import Path

_SECRETS = 200
_FILES = 1_000
_OF_ONE = 100
_TTL = 2.0
PLAIN = f"{OURS}, a plain secret"
ABOUT = """
A mount with 1,000 named files of 200 secrets: fields of JSON, `env` files of two secrets, templates, values with a
newline, each fifth one a plain secret in a folder. What a file is made of is told at its first look-up; an open
of one whose bytes are known asks nobody, and makes nothing. Then one secret that is in 100 files is rotated.
"""


def _configuration(names: list[str]) -> str:
    """A file of each kind in turn."""
    lines = ["only_files = false"]
    for number in range(_FILES):
        name, other = names[number % _SECRETS], names[(number + 1) % _SECRETS]
        lines.append(f'[files."made/{number:04}"]')
        lines += (
            [f'secret = "{name}"', 'field = "user"'],
            ['format = "env"', f'values = {{ A = "{name}", B = "{other}" }}'],
            [
                f"template = \"{{{{ secret('{name}', 'user') | sh }}}}:{{{{ secret('{other}') | pgpass }}}}\\n\""
            ],
            [f'secret = "{name}"', "newline = true"],
            [f'secret = "{name}"'],
        )[number % 5]
    return "\n".join(lines) + "\n"


def _fill(vault: VaultProcess) -> list[str]:
    names = [f"s{number:03}" for number in range(_SECRETS)]
    vault.bulk([{"name": name, "value": json.dumps({"user": name, "n": 1})} for name in names])
    return names


def _warm(group: Group, below: Path, rounds: int, seconds: float) -> None:
    kinds = {"field": 0, "env of two": 1, "template of two": 2, "newline": 3, "plain, in a folder": 4}
    with contextlib.ExitStack() as stack:
        vault = stack.enter_context(VaultProcess())
        (below / "kv.toml").write_text(_configuration(_fill(vault)))
        begin = time.monotonic()
        mount = stack.enter_context(
            peers.ours(vault, below / "kv", f"config={below / 'kv.toml'}", *peers.LONG)
        )
        started = time.monotonic() - begin
        for number in range(_FILES):
            (mount / f"made/{number:04}").read_bytes()
        jobs: dict[str, dict[str, Any]] = {PLAIN: {"do": "read", "name": str(mount / "s000")}}
        for kind, number in kinds.items():
            jobs[kind] = {"do": "read", "name": str(mount / f"made/{number:04}")}
        case = group.case("open+read+close of a file whose bytes are known")
        case.versus = PLAIN
        measure(case, jobs, [stack.enter_context(Reader())], rounds, seconds)
        for kind in kinds:
            group.at_most(
                f"warm open of a composed file ({kind}): of a plain one", case.ratio(kind, PLAIN), 1.1
            )
        size = processes.resident_mib(mount.worker())
        group.notes.append(
            f"Mounting with {_FILES:,} named files took {started:.2f} s; its worker has {size:.0f} MiB resident,"
            " with Jinja2."
        )


def _rotated(group: Group, below: Path, rounds: int) -> None:
    text = "".join(
        f'[files."set/{number:03}"]\nsecret = "pw"\nfield = "f{number}"\n' for number in range(_OF_ONE)
    )
    case = group.case(f"a rotation of a secret that is in {_OF_ONE} files, until all show it", "ms")
    gets = 0
    with contextlib.ExitStack() as stack:
        vault = stack.enter_context(VaultProcess())
        (below / "set.toml").write_text("only_files = true\n" + text)

        def rotate(value: int) -> None:
            document = {f"f{number}": value for number in range(_OF_ONE)}
            vault.set("pw", json.dumps(document), updated=int(time.time()) - 60)

        rotate(0)
        mount = stack.enter_context(
            peers.ours(
                vault, below / "set", f"config={below / 'set.toml'}", f"ttl={_TTL}", f"list_ttl={_TTL}"
            )
        )
        files = [mount / f"set/{number:03}" for number in range(_OF_ONE)]
        for value in range(1, rounds + 1):
            for file in files:
                file.read_bytes()
            rotate(value)
            while files[0].read_bytes() != str(value).encode():
                time.sleep(0.001)
            begin = time.monotonic()
            vault.reset_requests()
            if any(file.read_bytes() != str(value).encode() for file in files):
                raise RuntimeError("a set shows two versions at once")
            case.add(OURS, (time.monotonic() - begin) * 1e3)
            gets = max(gets, len(vault.requests(op="get")))
    group.at_most(
        f"a rotation of a secret in {_OF_ONE} files: further gets, once one shows it", gets, 0, "gets"
    )


def run(quick: bool) -> Group:
    """Measure."""
    group = Group("composed", "Files that are made of secrets", ABOUT)
    rounds, seconds = (6, 0.02) if quick else (31, 0.06)
    with peers.folder() as below:
        _warm(group, below, rounds, seconds)
        _rotated(group, below, 3 if quick else 10)
    panels = [
        (case.title, case.unit, {who: case.median(who) for who in case.samples}) for case in group.cases
    ]
    group.plot = bars(group.title, panels)
    return group
