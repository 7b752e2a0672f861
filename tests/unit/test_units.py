"""Which unit a process is of."""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvaultfs.files import units


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/postgresql@15-main.service\n", "postgresql@15-main.service"),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/postgresql.service\n",
            "user@1000.service",
        ),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope"),
        ("0::/system.slice/docker-abc.scope/init.service\n", "docker-abc.scope"),
        ("0::/lxc.payload.web/system.slice/postgresql.service\n", None),
        ("0::/../../lxc/web/postgresql.service\n", None),
        ("0::/kubepods/pod1/abc/postgresql.service\n", None),
        ("0::/\n", None),
        ("", None),
        ("12:cpu:/a.service\n1:name=systemd:/system.slice/b.service\n", "b.service"),
        ("1:name=systemd:/system.slice/b.service\n0::/system.slice/c.service\n", "c.service"),
        ("0::/system.slice/x\x85.service\n", "x\x85.service"),
    ],
)
def test_the_unit_is_the_first_service_or_scope(text: str, unit: str | None) -> None:
    assert units.of_cgroups(text) == unit


@given(st.text())
def test_any_text_has_a_unit_or_none(text: str) -> None:
    found = units.of_cgroups(text)
    assert found is None or found in text


@pytest.mark.parametrize(
    ("unit", "pattern", "wanted"),
    [
        ("postgresql@15.service", "postgresql@*.service", True),
        ("postgresql.service", "postgresql@*.service", False),
        ("xpostgresql@1.service", "postgresql@*.service", False),
        ("a.service.scope", "a.service", False),
        ("a+b.service", "a+b.service", True),
        ("axb.service", "a.b.service", False),
        ("axb.service", "a?b.service", True),
    ],
)
def test_a_pattern_over_units(unit: str, pattern: str, *, wanted: bool) -> None:
    assert units.matches(unit, [pattern]) is wanted


def test_pid_1_may_and_who_cannot_be_seen_may_not() -> None:
    assert units.allowed(1, ("a.service",))
    assert units.allowed(os.getpid(), None)
    assert not units.allowed(0, ("*",))
    assert not units.allowed(2**22 + 1, ("*",))
    with subprocess.Popen(["sleep", "60"]) as other:
        assert not units.allowed(other.pid, ("no-such-unit.service",))
        other.kill()
