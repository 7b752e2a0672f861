"""What comments and pages refer to is there: sections of docs/design.md and docs/protocol.md, and files by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"DESIGN": ROOT / "docs/design.md", "PROTOCOL": ROOT / "docs/protocol.md"}
CITED = re.compile(r"\b(DESIGN|PROTOCOL) §(\d+)(?:(?: to |, )§(\d+))?")
FOLDERS = (ROOT, ROOT / "src", ROOT / "src/keyvaultfs", ROOT / "tests")


@pytest.mark.parametrize("page", list(PAGES))
def test_each_section_that_a_comment_cites_is_on_its_page(page: str) -> None:
    sections = set(re.findall(r"^## (\d+)\. ", PAGES[page].read_text(), re.MULTILINE))
    texts = {file: file.read_text() for folder in ("src", "tests") for file in (ROOT / folder).rglob("*.py")}
    cited = {
        (str(file.relative_to(ROOT)), number)
        for file, text in texts.items()
        for name, *numbers in CITED.findall(text)
        for number in numbers
        if name == page and number
    }
    assert len(cited) > 5
    assert [where for where in sorted(cited) if where[1] not in sections] == []


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "README.md", "SECURITY.md", "docs/design.md"])
def test_each_file_that_a_page_names_by_its_folder_is_there(page: str) -> None:
    named = re.findall(r"`((?:[\w-]+/)+[\w.-]+\.(?:py|md|toml|yml|nft|macros))`", (ROOT / page).read_text())
    assert [path for path in named if not any((folder / path).exists() for folder in FOLDERS)] == []


def test_each_name_that_the_table_of_changes_points_at_is_in_its_file() -> None:
    """As in: `FORMATS` in `content/formats.py`."""
    table = (
        (ROOT / "CONTRIBUTING.md")
        .read_text()
        .partition("### Where a change goes")[2]
        .partition("\n\nBlock")[0]
    )
    pointers = re.findall(r"((?:`\w+`(?:,? and |, )?)+)(?: \([^)]*\))?,? (?:of|in) `([\w/]+\.py)`", table)
    wanted = [(name, path) for names, path in pointers for name in re.findall(r"\w+", names) if name != "and"]
    assert len(wanted) > 10
    missing = [
        (name, path)
        for name, path in wanted
        if not any(
            re.search(rf"\b{name}\b", (folder / path).read_text())
            for folder in FOLDERS
            if (folder / path).exists()
        )
    ]
    assert missing == []
