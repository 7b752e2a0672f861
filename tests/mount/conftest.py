"""Fixtures of tests on a real mount."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.inotify import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def thorough(request: pytest.FixtureRequest) -> bool:
    """Whether this run has the slow tests too: one run of all has, and those with other packages repeat less."""
    return "not slow" not in request.config.getoption("markexpr")


@pytest.fixture
def events() -> Iterator[Callable[..., Watch]]:
    """Starts watches, and ends them."""
    started: list[Watch] = []

    def start(path: Path, which: str = "moved_to,delete,create", **kwargs: Any) -> Watch:
        started.append(Watch(path, which, **kwargs))
        return started[-1]

    yield start
    for one in started:
        one.close()
