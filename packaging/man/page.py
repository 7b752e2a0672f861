"""A man page from its reStructuredText; ``.. options::`` becomes the table of `keyvaultfs.options`."""

from __future__ import annotations

import sys
from pathlib import Path

from docutils.core import publish_string
from docutils.writers import manpage

from keyvaultfs.options import OPTIONS, described

_MARK = ".. options::\n"


def table() -> str:
    """Each option, its unit, help and default, as a definition list."""
    return "\n".join(
        f"**{option.name}{f'={option.unit}' if option.unit else ''}**\n    {described(option)}\n"
        for option in OPTIONS
        if not option.hidden
    )


def main() -> None:
    """``page.py SOURCE TARGET``."""
    source, target = (Path(word) for word in sys.argv[1:])
    text = source.read_text(encoding="utf-8").replace(_MARK, table())
    made = publish_string(
        text, writer=manpage.Writer(), settings_overrides={"report_level": 2, "halt_level": 2}
    )
    target.write_bytes(made)


if __name__ == "__main__":
    main()
