"""The man pages are made from the option table, and docutils finds nothing wrong with them."""

from __future__ import annotations

import pwd
import re
import subprocess
import sys
from pathlib import Path

import pytest

from keyvaultfs.content.certificate import PARTS
from keyvaultfs.content.formats import FORMATS
from keyvaultfs.content.language import FUNCTIONS
from keyvaultfs.content.quoting import FILTERS
from keyvaultfs.settings import file, layout
from keyvaultfs.settings.options import OPTIONS
from keyvaultfs.settings.recipes import DECODINGS, RECIPE_KEYS

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


def test_the_page_of_the_file_has_every_key_and_an_example_without_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (ROOT / "packaging/man/keyvaultfs.toml.5.rst").read_text()
    keys = {
        *layout.RULE_KEYS,
        *RECIPE_KEYS,
        *file.LAYOUT_KEYS,
        *PARTS,
        *DECODINGS,
        *FILTERS,
        "secrets",
    }
    assert [key for key in sorted(keys) if not re.search(rf"[*\[]{key}[*\].]", source)] == []
    formats = re.search(r"(?s)\n\*\*format\*\*\n(.*?)\n\n", source)
    assert formats is not None
    assert [name for name in FORMATS if f"*{name}*" not in formats[1]] == []
    assert [name for name in FUNCTIONS if f"*{{{{ {name}('" not in source] == []
    example = (ROOT / "packaging/config/files.toml").read_text()
    monkeypatch.setattr("pwd.getpwnam", lambda name: pwd.getpwuid(0) if name == "postgres" else None)
    written = tmp_path / "kv.toml"
    written.write_text(example)
    tree = layout.load(str(written))
    assert sorted(tree.root.children) == ["app", "postgres", "tomcat"]
    assert not tree.root.flat
