"""The man pages are made from the option table, and docutils finds nothing wrong with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from keyvaultfs.settings.options import OPTIONS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("page", ["keyvaultfs.1", "mount.keyvaultfs.8", "keyvaultfs.toml.5"])
def test_a_man_page_names_every_option(page: str, tmp_path: Path) -> None:
    command: list[str | Path] = [sys.executable, ROOT / "packaging/man/build.py", tmp_path]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT / "src")}
    )
    assert (done.returncode, done.stderr) == (0, "")
    text = (tmp_path / page).read_text().replace("\\", "")
    missing = [option.name for option in OPTIONS if not option.hidden and option.name not in text]
    assert missing == []
