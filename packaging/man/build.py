"""Man pages from their sources beside this file; the table of options comes from the code, so that it cannot drift.

python packaging/man/build.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1] / "src"
PAGES = ("keyvaultfs.1", "mount.keyvaultfs.8", "keyvaultfs.toml.5")
EXAMPLE = HERE.parent / "config/files.toml"
_MARK, _EXAMPLE_MARK = ".. options::\n", ".. example::\n"


def option_list() -> str:
    """The options as a definition list of reStructuredText."""
    if str(SOURCE) not in sys.path:
        sys.path.insert(0, str(SOURCE))
    from keyvaultfs.settings import options

    lines = []
    for option in options.OPTIONS:
        if not option.hidden:
            value = f"\\ =\\ *{option.unit}*" if option.unit else ""
            lines.append(f"**{option.name}**{value}\n    {options.described(option)}\n")
    return "\n".join(lines)


def render(page: str) -> str:
    """One page as roff.

    Raises:
        docutils.utils.SystemMessage: its source has a mistake.
    """
    from docutils.core import publish_string
    from docutils.writers import manpage

    text = (HERE / f"{page}.rst").read_text(encoding="utf-8")
    if text.count(_MARK) != 1:
        raise ValueError(f"{page}.rst: one line {_MARK!r} is wanted")
    text = text.replace(_MARK, option_list())
    example = EXAMPLE.read_text(encoding="utf-8")
    text = text.replace(_EXAMPLE_MARK, "".join(f"    {line}" for line in example.splitlines(keepends=True)))
    settings = {"output_encoding": "unicode", "halt_level": 2, "report_level": 2, "datestamp": None}
    settings |= {"_disable_config": True, "smart_quotes": False}
    roff: str = publish_string(text, writer=manpage.Writer(), settings_overrides=settings)
    return roff


def build(folder: Path) -> dict[str, Path]:
    """Write all pages; returns where each one is."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for page in PAGES:
        found[page] = folder / page
        found[page].write_text(render(page), encoding="utf-8")
    return found


if __name__ == "__main__":
    build(Path(sys.argv[1]))
