"""Messages on standard error, and the exit status that a mistake or a failure ends a command with."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from keyvaultfs.errors import KeyVaultFSError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable


def say(message: str, program: str = "keyvaultfs") -> None:
    """A line on standard error for each line of `message`; lost if that is closed or full, which fails no mount."""
    text = "".join(f"{program}: {line}\n" for line in message.splitlines())
    with contextlib.suppress(OSError, AttributeError):
        # Not by way of sys.stderr's buffer: what stays in it turns the exit status into 120.
        os.write(sys.stderr.fileno(), text.encode(errors="backslashreplace"))


def guarded(run: Callable[[], int], *, usage: int, failed: int, program: str) -> int:
    """Run a command; a mistake of the user's is a line on standard error and never a traceback.

    Args:
        usage: the exit code for what the user wrote wrong.
        failed: for everything else that is foreseen.
    """
    try:
        return run()
    except UsageError as exc:
        say(str(exc), program)
        return usage
    except KeyVaultFSError as exc:
        say(str(exc), program)
        return failed
    except BrokenPipeError:
        return failed
    except KeyboardInterrupt:
        return 130
