"""Hatch's hook: man pages and completion are made before the wheel is, from the code that goes into it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MADE = ".build/wheel"
"""Where ``shared-data`` of pyproject.toml expects them."""


class Hook(BuildHookInterface):  # type: ignore[type-arg]  # hatchling 1.12 has no argument for it
    """Runs the two programs beside this one."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's
        """Before the wheel is built, be it ``standard`` or ``editable``."""
        root = Path(self.root)
        for what in ("man", "completion"):
            # In processes of their own: what they import is this tree's, whatever the builder has installed.
            subprocess.run(  # noqa: S603 - programs of this tree
                [sys.executable, root / "packaging" / what / "build.py", root / MADE / what], check=True
            )
