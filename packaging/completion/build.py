"""Completion for bash, zsh and fish, from the parser of the command line and the table of options.

python packaging/completion/build.py FOLDER
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1] / "src"

KINDS = {
    "OPTION[,OPTION…]": "options",
    "MOUNTPOINT": "directory",
    "FILE": "file",
    "FILE|DIR": "file",
    "USER": "user",
    "GROUP": "group",
}
"""What completes a value, by the metavariable that ``--help`` shows; nothing completes others."""

WORDS = {"auth": ("imds", "azure-identity")}
"""Options of a few words; their parsers know them, but cannot be asked."""


@dataclass(frozen=True)
class Value:
    """An argument, be it of a flag, of ``-o name=`` or of a command: its metavariable and what completes it."""

    metavar: str
    kind: str


@dataclass(frozen=True)
class Named:
    """A flag by all its names, or a name of ``-o``; `value` is None when it takes none."""

    names: tuple[str, ...]
    help: str
    value: Value | None


@dataclass(frozen=True)
class Command:
    """A command of the command line."""

    name: str
    help: str
    flags: tuple[Named, ...]
    positionals: tuple[Value, ...]


def commands() -> tuple[Command, ...]:
    """All commands; the first one, without a name, is the program itself."""
    if str(SOURCE) not in sys.path:
        sys.path.insert(0, str(SOURCE))
    from keyvaultfs.cli.main import parser

    whole = parser()
    found = [_command("", "", whole)]
    for action in whole._actions:  # noqa: SLF001 - argparse has no other way, and shtab goes this one as well
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            helps = {one.dest: one.help or "" for one in action._choices_actions}  # noqa: SLF001
            found += [_command(name, helps[name], sub) for name, sub in action.choices.items()]
    return tuple(found)


def _command(name: str, words: str, parser: argparse.ArgumentParser) -> Command:
    flags, positionals = [], []
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction) or action.help == argparse.SUPPRESS:  # noqa: SLF001
            continue
        metavar = str(action.metavar or action.dest.upper())
        value = Value(metavar, KINDS.get(metavar, ""))
        if action.option_strings:
            shown = (action.help or "") % {"default": action.default}
            if value.kind == "options":  # its help is "see below", and there is nothing below here
                shown = "options, with commas between them"
            flags.append(Named(tuple(action.option_strings), shown, None if action.nargs == 0 else value))
        else:
            positionals.append(value)
    return Command(name, words, tuple(flags), tuple(positionals))


def options() -> tuple[Named, ...]:
    """What stands behind ``-o``."""
    if str(SOURCE) not in sys.path:
        sys.path.insert(0, str(SOURCE))
    from keyvaultfs.options import OPTIONS, described

    found = []
    for option in OPTIONS:
        if not option.hidden:
            kind = "words" if option.name in WORDS else KINDS.get(option.unit, "")
            value = Value(option.unit, kind) if option.unit else None
            found.append(Named((option.name,), described(option), value))
    return tuple(found)


def quoted(text: str) -> str:
    """For a shell, in single quotes; fish takes the backslash, as all three do outside of the quotes."""
    return "'" + text.replace("'", "'\\''") + "'"


# --- bash ------------------------------------------------------------------------------------------------


def bash() -> str:
    """The script for bash."""
    flags, wanting, positionals = [], [], []
    for command in commands():
        names = " ".join(name for flag in command.flags for name in flag.names)
        flags.append(f"            {quoted(command.name)}) choices={quoted(names)} ;;")
        wanting += [
            f"            {quoted(f'{command.name} {name}')}) wanted={flag.value.kind or 'nothing'} ;;"
            for flag in command.flags
            if flag.value is not None
            for name in flag.names
        ]
        positionals += [
            f"            {quoted(f'{command.name} {number}')}) wanted={value.kind or 'nothing'} ;;"
            for number, value in enumerate(command.positionals)
        ]
    values = [
        f"        {name}) wanted={'words' if option.value.kind == 'words' else option.value.kind}"
        + (f" choices={quoted(' '.join(WORDS[name]))}" if option.value.kind == "words" else "")
        + " ;;"
        for option in options()
        for name in option.names
        if option.value is not None and option.value.kind
    ]
    names = " ".join(name + ("=" if option.value else "") for option in options() for name in option.names)
    return _filled(
        "keyvaultfs.bash",
        COMMANDS=quoted(" ".join(command.name for command in commands() if command.name)),
        FLAGS="\n".join(flags),
        WANTING="\n".join(wanting),
        POSITIONALS="\n".join(positionals),
        OPTIONS=quoted(names),
        VALUES="\n".join(values),
    )


# --- zsh -------------------------------------------------------------------------------------------------

_ZSH_ACTIONS = {
    "options": "_keyvaultfs_options",
    "directory": "_directories",
    "file": "_files",
    "user": "_users",
    "group": "_groups",
    "": "",
}


def _zsh_words(text: str) -> str:
    """A description inside brackets, or before a colon."""
    for letter in "\\[]:":
        text = text.replace(letter, "\\" + letter)
    return text


def _zsh_value(value: Value, name: str = "") -> str:
    action = f"({' '.join(WORDS[name])})" if value.kind == "words" else _ZSH_ACTIONS[value.kind]
    # Not nothing: _arguments would say a message, and after one zsh inserts no option's name.
    return f":{_zsh_words(value.metavar)}:{action or '()'}"


def _zsh_flag(flag: Named) -> str:
    rest = f"[{_zsh_words(flag.help)}]" + (_zsh_value(flag.value) if flag.value else "")
    if flag.value:  # may come again, as -o does
        return " ".join(quoted(f"*{name}{rest}") for name in flag.names)
    excluded = f"({' '.join(flag.names)})"
    return " ".join(quoted(f"{excluded}{name}{rest}") for name in flag.names)


def zsh() -> str:
    """The script for zsh."""
    whole, *named = commands()
    cases = []
    for command in named:
        words = [_zsh_flag(flag) for flag in command.flags]
        words += [
            quoted(f"{number}{_zsh_value(value)}")
            for number, value in enumerate(command.positionals, start=1)
        ]
        lines = " \\\n                ".join(words)
        cases.append(
            f"        {command.name})\n            _arguments \\\n                {lines}\n            ;;"
        )
    return _filled(
        "keyvaultfs.zsh",
        COMMANDS="\n".join(
            f"            {quoted(f'{command.name}:{_zsh_words(command.help)}')}" for command in named
        ),
        FLAGS="\n".join(f"        {_zsh_flag(flag)} \\" for flag in whole.flags),
        CASES="\n".join(cases),
        OPTIONS=" \\\n".join(
            "        "
            + quoted(
                f"{name}[{_zsh_words(option.help)}]"
                + (_zsh_value(option.value, name) if option.value else "")
            )
            for option in options()
            for name in option.names
        ),
    )


# --- fish ------------------------------------------------------------------------------------------------

_FISH_ACTIONS = {
    "options": "-x -a '(__keyvaultfs_options)'",
    "directory": "-x -a '(__fish_complete_directories)'",
    "file": "-r -F",
    "user": "-x -a '(__fish_complete_users)'",
    "group": "-x -a '(__fish_complete_groups)'",
    "": "-x",
}


def fish() -> str:
    """The script for fish."""
    lines = []
    for command in commands():
        seen = f"__fish_seen_subcommand_from {command.name}" if command.name else "__fish_use_subcommand"
        begin = f"complete -c keyvaultfs -n {quoted(seen)}"
        if command.name:
            lines.append(
                f"complete -c keyvaultfs -n __fish_use_subcommand -a {command.name} -d {quoted(command.help)}"
            )
        for flag in command.flags:
            names = " ".join(
                f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names
            )
            action = f" {_FISH_ACTIONS[flag.value.kind]}" if flag.value else ""
            lines.append(f"{begin} {names}{action} -d {quoted(flag.help)}")
        kinds = {value.kind for value in command.positionals if value.kind}
        lines += [f"{begin} {_FISH_ACTIONS[kind]}" for kind in sorted(kinds)]
    texts = []
    for option in options():
        name = option.names[0] + ("=" if option.value else "")
        texts.append(f"            {quoted(name)}\\t{quoted(option.help)}")
    cases = [_fish_case(option) for option in options() if option.value and option.value.kind]
    return _filled(
        "keyvaultfs.fish", OPTIONS=" \\\n".join(texts), VALUES="\n".join(cases), LINES="\n".join(lines)
    )


def _fish_case(option: Named) -> str:
    name = option.names[0]
    kind = option.value.kind if option.value else ""
    actions = {
        "user": ["(__fish_complete_users)"],
        "group": ["(__fish_complete_groups)"],
        "file": ['(__fish_complete_path "$value")'],
        "words": WORDS.get(name, ()),
    }[kind]
    words = " ".join(f'"$head$name="{action}' for action in actions)
    return f"            case {name}\n                printf '%s\\n' {words}"


# ---------------------------------------------------------------------------------------------------------


def _filled(name: str, **parts: str) -> str:
    """A script's frame beside this file, with each ``@PART@`` in its place."""
    text = (HERE / f"{name}.in").read_text(encoding="utf-8")
    for part, filling in parts.items():
        if text.count(f"@{part}@") != 1:
            raise ValueError(f"{name}.in: one @{part}@ is wanted")
        text = text.replace(f"@{part}@", filling)
    return text


SCRIPTS: dict[str, Callable[[], str]] = {"keyvaultfs.bash": bash, "_keyvaultfs": zsh, "keyvaultfs.fish": fish}
"""By the names that zsh and fish look for; bash's loses its suffix where it is installed."""


def build(folder: Path) -> dict[str, Path]:
    """Write all scripts; returns where each one is."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, script in SCRIPTS.items():
        found[name] = folder / name
        found[name].write_text(script(), encoding="utf-8")
    return found


if __name__ == "__main__":
    build(Path(sys.argv[1]))
