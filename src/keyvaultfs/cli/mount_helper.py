"""``mount.keyvaultfs``: what mount(8) calls for the types keyvaultfs and fuse.keyvaultfs."""

from __future__ import annotations

import os
import sys

from keyvaultfs.cli import ahead

# Not typing's: to import that is a fifth of all that comes before the first worker starts.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``mount.keyvaultfs``."""
    begun = ahead.of_helper(sys.argv[1:]) if argv is None else None
    try:
        from keyvaultfs.cli import helper  # with all that the words need, while the first worker starts

        code = helper.run(argv, begun)
        if begun is not None:
            begun.abandon()
            os._exit(code)  # somebody waits, and nothing is left to be flushed
        return code
    finally:
        if begun is not None:
            begun.abandon()


if __name__ == "__main__":
    sys.exit(main())
