"""Completion for bash, zsh and fish: shtab makes it from the parser; what shtab lacks is here.

python packaging/completion/build.py [FOLDER]

What it makes is committed beside it: a build has no shtab that knows all three shells.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import shtab

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "src"))

from keyvaultfs.cli.arguments import parser as command_line  # noqa: E402 - of this tree, whatever is installed
from keyvaultfs.settings.options import OPTIONS, Option, described  # noqa: E402

if TYPE_CHECKING:
    import argparse

LIST = "OPTION[,OPTION…]"
COMPLETE = {
    LIST: {
        "bash": "_keyvaultfs_options",
        "zsh": "_keyvaultfs_options",
        "fish": "(_keyvaultfs_options)",
    },
    "MOUNTPOINT": shtab.DIRECTORY,
    "FILE": shtab.FILE,
    "FILE|DIR": shtab.FILE,
}
"""What completes an argument, by the metavariable that ``--help`` shows."""
NOTHING = {"zsh": "()"}
"""For all others. Without an action zsh shows a message, and after one it inserts no option's name."""

SHOWN = [option for option in OPTIONS if not option.hidden]
OFFERED = {
    "files": ("-f", "_files", '(__fish_complete_path "$last")'),
    "folders": ("-d", "_files -/", '(__fish_complete_directories "$last")'),
    "users": ("-u", "_users", "(__fish_complete_users)"),
    "groups": ("-g", "_groups", "(__fish_complete_groups)"),
}
"""What completes a value behind ``-o``: arguments of compgen, an action of zsh, words of fish."""


def offered(offers: str | tuple[str, ...]) -> tuple[str, str, str]:
    """What completes values of a kind, in each shell."""
    if isinstance(offers, str):
        return OFFERED[offers]
    return f"-W {quote(' '.join(offers))}", f"({' '.join(offers)})", " ".join(sorted(offers))


OFFERS = dict.fromkeys(option.kind.offers for option in SHOWN if option.kind.offers)
"""In the order of the table."""

BASH = """\
_keyvaultfs_options() {
  local last=${1##*[,=]}
  local head=${1%"$last"}
  case ,${head//-/_} in
@CASES@
    *=) return ;;
    *) set -- -W @NAMES@ ;;
  esac
  compgen -P "$head" "$@" -- "$last"
}

# bash cuts words at the = of an option and at the : of a URL, and shtab counts them.
_keyvaultfs() {
  local IFS=$' \\t\\n' line=${COMP_LINE:0:COMP_POINT}
  local -a COMP_WORDS
  read -ra COMP_WORDS <<<"$line"
  [[ $line == *[[:space:]] ]] && COMP_WORDS+=('')
  local COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  ((COMP_CWORD > 0)) || return  # shtab counts up to it from 1
  local word=${COMP_WORDS[-1]}
  _shtab_keyvaultfs
  # bash replaces what stands behind the cut alone.
  COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*[$COMP_WORDBREAKS]}"}"}")
  # What shtab calls for a value runs in a subshell, and cannot say these.
  local head=${word%"${word##*[,=]}"}
  case ,${head//-/_} in @FILES@) compopt -o filenames ;; esac
  [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
  return 0
}
"""
ZSH = """\
_keyvaultfs_options() {
  _values -s , -S = option \\
@NAMES@
}
"""
FISH = """\
function _keyvaultfs_options
  set -l last (string replace -r '.*[,=]' '' -- (commandline -ct))
  set -l head (string replace -r '[^,=]*$' '' -- (commandline -ct))
  set -l found
  switch ,(string replace -a - _ -- $head)
@CASES@
    case '*='
    case '*'
      set found \\
@NAMES@
  end
  string join -- \\n $head$found
end
"""


def bash() -> str:
    """The list behind ``-o``, and words as the shell counts them."""
    cases = [f"    {'|'.join(heads(offers))}) set -- {offered(offers)[0]} ;;" for offers in OFFERS]
    names = " ".join(option.name + ("=" if option.unit else "") for option in SHOWN)
    paths = "|".join(heads("files") + heads("folders"))
    return filled(BASH, CASES="\n".join(cases), NAMES=quote(names), FILES=paths)


def zsh() -> str:
    """The list behind ``-o``."""
    return filled(ZSH, NAMES=" \\\n".join(f"    {quote(zsh_value(option))}" for option in SHOWN))


def zsh_value(option: Option) -> str:
    """An option as _values wants it."""
    words = re.sub(r"([][:\\])", r"\\\1", described(option))
    action = offered(option.kind.offers)[1] if option.kind.offers else "()"
    return f"{option.name}[{words}]" + (f":{option.unit}:{action}" if option.unit else "")


def fish() -> str:
    """The list behind ``-o``."""
    cases = [
        f"    case {' '.join(map(quote, heads(offers)))}\n      set found {offered(offers)[2]}"
        for offers in OFFERS
    ]
    names = [
        f"        {quote(option.name + ('=' if option.unit else ''))}\\t{quote(described(option))}"
        for option in SHOWN
    ]
    return filled(FISH, CASES="\n".join(cases), NAMES=" \\\n".join(names))


def heads(offers: str | tuple[str, ...]) -> list[str]:
    """Patterns of what stands before a value that these complete."""
    return [f"*,{option.name}=" for option in SHOWN if option.kind.offers == offers]


def filled(text: str, **parts: str) -> str:
    """With each ``@PART@`` in its place."""
    for part, filling in parts.items():
        text = text.replace(f"@{part}@", filling)
    return text


def completed(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser, and those of its commands, with what shtab asks of their arguments."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way, and shtab goes this one as well
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                completed(command)
        elif action.nargs != 0:
            action.complete = COMPLETE.get(str(action.metavar), NOTHING)  # type: ignore[attr-defined]
        if action.metavar == LIST:  # its help is "see below", and there is nothing below here
            action.help = "options, with commas between them"
    return parser


SCRIPTS = {"bash": ("keyvaultfs.bash", bash), "zsh": ("_keyvaultfs", zsh), "fish": ("keyvaultfs.fish", fish)}
"""By the names that zsh and fish look for; bash's loses its suffix where it is installed."""


def build(folder: Path) -> None:
    """Write all scripts."""
    parser = completed(command_line())
    for shell, (name, preamble) in SCRIPTS.items():
        script = shtab.complete(parser, shell, preamble=preamble())
        script = script.replace("-F _shtab_keyvaultfs keyvaultfs", "-F _keyvaultfs keyvaultfs")  # bash's
        (folder / name).write_text(script.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    build(Path(sys.argv[1]) if sys.argv[1:] else HERE)
