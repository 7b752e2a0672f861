"""Log lines for journald: priorities as sd-daemon(3) prefixes, and each cause said once."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keyvaultfs import causes

if TYPE_CHECKING:
    from collections.abc import Callable

LOG = logging.getLogger("keyvaultfs")

_MOST_NAMED = 16
_MOST_SHOWN = 3
_FORGOTTEN_SECONDS = 3600.0

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class PriorityFormatter(logging.Formatter):
    """``<4>text``: what sd-daemon(3) reads as a priority. A record is one line, whatever it holds."""

    def format(self, record: logging.LogRecord) -> str:
        """Format without exception text: an exception may quote what it was given."""
        text = record.getMessage().encode("utf-8", "backslashreplace").decode()
        return f"<{_PRIORITY.get(record.levelno, 6)}>" + text.replace("\n", " | ")


class DescriptorHandler(logging.Handler):
    """Writes lines to a descriptor, be it a full or broken pipe: a line is lost rather than waited for."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.fd = fd
        self.lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, or count it as lost."""
        try:
            os.write(self.fd, self.format(record).encode() + b"\n")
        except OSError:
            self.lost += 1


@dataclass(slots=True, eq=False)
class _Meeting:
    """How often something was met, since when and when last."""

    since: float
    last: float
    times: int = 0


@dataclass(slots=True, eq=False)
class _Kind:
    """The causes of one kind that have begun and not ended. `code`, of the table of causes, is the latest."""

    code: str
    subjects: dict[str, _Meeting]
    others: int = 0


class Causes:
    """Says each cause at its beginning and at its end, not once for each read that meets it.

    A kind of cause may be about many subjects, such as the secrets that are refused. The first of them are named, once
    each; the rest are counted and said once. So neither the log nor memory grows with names that somebody makes up.

    Args:
        clock: seconds, such as `trio.current_time`.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open: dict[str, _Kind] = {}

    def begin(self, kind: str, subject: str = "", **facts: object) -> None:
        """Count a cause; the first time it is logged with `facts`: names and numbers, never bodies.

        Args:
            kind: a sentence, with braces for the subject if it has one.
            subject: such as a secret's name.
            facts: `error` is a code of the table of causes.
        """
        now = self._clock()
        found = self._open.setdefault(kind, _Kind("", {}))
        found.code = str(facts.get("error") or found.code)
        met = found.subjects.get(subject)
        if met is None:
            met = self._name(found, subject, now)
            facts_text = "".join(f" {key}={value}" for key, value in facts.items())
            if met is not None:
                LOG.warning("%s%s", kind.format(subject), facts_text)
            elif found.others == 1:
                LOG.warning("%s%s", kind.format("others too, which are counted from now on"), facts_text)
        if met is not None:
            met.last = now
            met.times += 1

    def end(self, kind: str, subject: str = "") -> None:
        """Log that a cause ended, if it had begun and was named."""
        found = self._open.get(kind)
        met = None if found is None else found.subjects.pop(subject, None)
        if found is None or met is None:
            return
        if not found.subjects:
            del self._open[kind]
        seconds = self._clock() - met.since
        LOG.info("%s ended times=%d seconds=%.0f", kind.format(subject), met.times, seconds)

    def open(self) -> dict[str, int]:
        """The causes that have begun and not ended, one for each kind, and how often each was met."""
        return {
            _sentence(kind, found): sum(met.times for met in found.subjects.values()) + found.others
            for kind, found in self._open.items()
        }

    def problems(self, **facts: str) -> list[dict[str, object]]:
        """The same with all that is known of them: code, severity, sentence, cure, seconds and times.

        Args:
            facts: what cures speak of, such as ``vault``.
        """
        now = self._clock()
        rows: list[dict[str, object]] = []
        for kind, found in self._open.items():
            row = causes.find(found.code)
            sentence = _sentence(kind, found)
            rows.append(
                {
                    "code": found.code,
                    "severity": row.severity.value,
                    "sentence": f"{sentence}: {row.sentence or found.code}" if found.code else sentence,
                    "cure": row.mend(name=next(iter(found.subjects)), **facts),
                    "seconds": round(now - min(met.since for met in found.subjects.values())),
                    "times": sum(met.times for met in found.subjects.values()) + found.others,
                }
            )
        return rows

    def _name(self, found: _Kind, subject: str, now: float) -> _Meeting | None:
        """The entry of a subject, in place of one that was not met for long if need be; None if it is only counted."""
        if len(found.subjects) >= _MOST_NAMED:
            oldest = min(found.subjects, key=lambda name: found.subjects[name].last)
            if now - found.subjects[oldest].last < _FORGOTTEN_SECONDS:
                found.others += 1
                return None
            del found.subjects[oldest]
        met = found.subjects[subject] = _Meeting(now, now)
        return met


def _sentence(kind: str, found: _Kind) -> str:
    names = list(found.subjects)
    more = len(names) - _MOST_SHOWN
    text = ", ".join(names[:_MOST_SHOWN])
    if found.others:
        text += " and others"
    elif more > 0:
        text += f" and {more} more"
    return kind.format(text)
