"""Hatch's hook: the man pages are made before the wheel is, from the code that goes into it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MADE = ".build/wheel"
"""Where ``shared-data`` of pyproject.toml expects what is made; completion is committed."""


class Hook(BuildHookInterface):  # type: ignore[type-arg]  # hatchling 1.12 has no argument for it
    """Runs the program that makes them."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's
        """Before the wheel is built, be it ``standard`` or ``editable``."""
        root = Path(self.root)
        # In a process of its own: what it imports is this tree's, whatever the builder has installed.
        subprocess.run(  # noqa: S603 - a program of this tree
            [sys.executable, root / "packaging/man/build.py", root / MADE / "man"], check=True
        )
