"""Whether a command line will mount, told at a glance: what mounting needs is then begun before the line is read.

Where there is doubt nothing is begun ahead, and what is begun for a line that turns out to be wrong is given up.
"""

from __future__ import annotations

# Not typing's: to import that is a fifth of all that comes before the first worker starts.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyvaultfs.keeper.start import Start

_WITH_A_WORD = frozenset({"-o"})
_STAYS = frozenset({"-f", "--foreground"})
_KNOWN = frozenset({"-d", "--debug"}) | _STAYS
_KNOWN_TO_MOUNT = frozenset({"-s", "-n", "-v"})


def _plain(words: Sequence[str], known: frozenset[str]) -> tuple[list[str], set[str]] | None:
    """The words that are no options, and the options; None where there is doubt."""
    rest, found, given = iter(words), set(), []
    for word in rest:
        if word in _WITH_A_WORD:
            if "remount" in next(rest, "remount"):
                return None
        elif word in known:
            found.add(word)
        elif word.startswith("-"):
            return None
        else:
            given.append(word)
    return given, found


def _begin(given: Sequence[str], *, foreground: bool) -> Start | None:
    from keyvaultfs.keeper.start import Start

    try:
        return Start(foreground=foreground, name=given[1] if len(given) == 2 else "-")
    except OSError:  # no process is to be had now: it is tried again, and said, when the line is read
        return None


def of_mount(words: Sequence[str]) -> Start | None:
    """Begin what ``keyvaultfs`` with these words will mount, if it does."""
    plain = _plain(words[1:], _KNOWN) if words[:1] == ["mount"] else None
    return None if plain is None else _begin(plain[0], foreground=bool(plain[1] & _STAYS))


def of_helper(words: Sequence[str]) -> Start | None:
    """Begin what ``mount.keyvaultfs`` with these words will mount, if it does."""
    plain = _plain(words, _KNOWN_TO_MOUNT)
    return None if plain is None or len(plain[0]) != 2 else _begin(plain[0], foreground=False)
