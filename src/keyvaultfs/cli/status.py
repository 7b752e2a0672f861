"""``keyvaultfs status``: how a mount is, in words, problems and their cure first."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from keyvaultfs.cli import reading, words
from keyvaultfs.cli.words import count, duration, line, size

if TYPE_CHECKING:
    import argparse

_MOST_BROKEN = 20
_FENCES = {
    "in-force": "other users cannot reach the token endpoint",
    "absent": "every user of this machine can ask the token endpoint for the identity (see the README: the fence)",
    "lost": "THE FENCE IS NOT IN FORCE: every user may reach the token endpoint",
}


def run(args: argparse.Namespace) -> int:
    """Print it: 0, whatever the problems.

    Raises:
        KeyVaultFSError: the mount does not answer.
    """
    text = reading.control(args.mountpoint, "status")
    if not args.json:
        with reading.understood(args.mountpoint):
            text = for_people(json.loads(text), time.time())
    sys.stdout.write(words.lines(text))
    return 0


def for_people(facts: dict[str, Any], now: float) -> str:
    """The facts of the file ``status`` in words. A fact that an earlier version does not tell is left out."""
    lines = [f"{line(facts.get('mountpoint', '?'))} shows {line(facts.get('vault', '?'))}", ""]
    lines += _problems(facts.get("problems", []), facts.get("broken", []))
    rows = {
        "values": _values(facts.get("cache", {})),
        "vault": _vault(facts.get("cache", {})),
        "listing": _listing(facts.get("cache", {})),
        "token": _token(facts.get("token", {})),
        "fence": _FENCES.get(facts.get("fence", ""), ""),
        "audit": _audit(facts.get("audit")),
        "readers": _readers(facts),
        "open": f"{count(facts.get('open_files', 0), 'open file')}, {count(facts.get('inodes', 0), 'inode')}",
        "worker": _worker(facts, now),
        "memory": "locked" if facts.get("privileges", {}).get("memory_locked") else "not locked",
        "notes": "; ".join(map(line, facts.get("privileges", {}).get("notes", ()))),
    }
    lines += [f"{name:<9}{text}" for name, text in rows.items() if text]
    return "\n".join([*lines, ""])


def _problems(met: list[dict[str, Any]], broken: list[dict[str, Any]]) -> list[str]:
    # Those that speak of files that cannot be made name the first few of them, and not why.
    problems = [one for one in met if not (broken and one["sentence"].startswith("file "))]
    problems = _of_the_token(problems)
    problems += map(_broken, broken[:_MOST_BROKEN])
    if len(broken) > _MOST_BROKEN:
        more = f"and {count(len(broken) - _MOST_BROKEN, 'file')} more, which status --json names"
        problems.append(_problem(more, min(one["seconds"] for one in broken)))
    if not problems:
        return ["no problems", ""]
    lines = [f"{count(len(problems), 'problem')}:"]
    for one in sorted(problems, key=lambda one: (one["severity"] != "FAIL", not one["cure"], one["seconds"])):
        times = f", met {count(one['times'], 'time')}" if one["times"] > 1 else ""
        lines.append(
            f"  {one['severity']:<4}  {line(one['sentence'])} (for {duration(one['seconds'])}{times})"
        )
        if one["cure"]:
            lines.append(f"        {line(one['cure'])}")
    return [*lines, ""]


def _of_the_token(problems: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """That the vault is out of reach without a token is no second problem with a cure of its own."""
    if not any(one["sentence"].startswith("no token ") for one in problems):
        return problems
    return [
        one | {"sentence": "vault unreachable: without a token it is not asked", "cure": ""}
        if one["sentence"].startswith("vault unreachable")
        else one
        for one in problems
    ]


def _broken(file: dict[str, Any]) -> dict[str, Any]:
    cure = "mend the secret, or what the configuration says of the file"
    return _problem(f"{file['path']} cannot be made: {file['reason']}", file["seconds"], cure)


def _problem(sentence: str, seconds: float, cure: str = "") -> dict[str, Any]:
    return {"severity": "FAIL", "sentence": sentence, "cure": cure, "seconds": seconds, "times": 1}


def _values(cache: dict[str, Any]) -> str:
    if "names" not in cache:
        return ""
    text = f"{cache['fresh']} of {count(cache['names'], 'value')} fresh"
    if cache["stale"]:
        text += f", {cache['stale']} stale"
    return f"{text}; {cache['values']} in memory ({size(cache['bytes'])})"


def _vault(cache: dict[str, Any]) -> str:
    if "answered" not in cache:
        return ""
    when = (
        "has not answered yet" if cache["answered"] is None else f"answered {duration(cache['answered'])} ago"
    )
    return f"{when}, and nobody answers now" if cache.get("outage") else when


def _listing(cache: dict[str, Any]) -> str:
    if cache.get("listed") is None:
        return ""
    return f"{count(cache['listed'], 'name')}, read {duration(cache['listing_age'])} ago"


def _token(token: dict[str, Any]) -> str:
    if token.get("state") == "valid":
        return f"good for {duration(token['seconds_left'])}"
    if token.get("state") == "ended":
        return f"ended {duration(-token['seconds_left'])} ago"
    return "none yet" + (f" ({line(token['error'])})" if token.get("error") else "")


def _audit(audit: dict[str, Any] | None) -> str:
    if not audit:
        return ""
    lost = f"{audit['lost']} LOST" if audit["lost"] else "none lost"
    return f"{count(audit['records'], 'open')} recorded by this worker, {lost}"


def _readers(facts: dict[str, Any]) -> str:
    behind = facts.get("readers_behind", 0)
    if not behind:
        return ""
    return f"{behind} still on an earlier version: keyvaultfs readers {line(facts.get('mountpoint', ''))}"


def _worker(facts: dict[str, Any], now: float) -> str:
    up = duration(now - facts.get("since", now))
    user = line(facts.get("privileges", {}).get("user", "?"))
    text = f"pid {facts.get('worker', '?')} as {user}, version {line(facts.get('version', '?'))}, up {up}"
    if facts.get("workers", 1) > 1:
        text += f", number {facts['workers']} of this mount"
    return f"{text}; keeper pid {facts.get('keeper', '?')}"
