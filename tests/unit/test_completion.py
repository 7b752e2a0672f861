"""Completion in real shells: what a user gets who types a line and presses the tabulator key."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keyvaultfs.settings import options
from tests.support.mount import wait_until

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "packaging/completion"
NAMES = ("keyvaultfs.bash", "_keyvaultfs", "keyvaultfs.fish")
SHOWN = [option for option in options.OPTIONS if not option.hidden]

BASH = """
PS1='ready: '
keyvaultfs() {{ printf '<%s>' "$@" >>{folder}/typed; printf '\\n' >>{folder}/typed; }}
source {folder}/keyvaultfs.bash
"""
ZSH = """
PS1='ready: '
keyvaultfs() {{ printf '<%s>' "$@" >>{folder}/typed; printf '\\n' >>{folder}/typed; }}
fpath=({folder} $fpath)
autoload -U compinit && compinit -u -d {folder}/zcompdump
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    for name in NAMES:
        shutil.copy(COMMITTED / name, folder)
    (folder / "bashrc").write_text(BASH.format(folder=folder))
    (folder / ".zshrc").write_text(ZSH.format(folder=folder))
    (folder / "mine/inner").mkdir(parents=True)
    (folder / "mine.toml").touch()
    return folder


def at_terminal(scripts: Path, shell: list[str], typed: str) -> str:
    """Type a line into a shell at a terminal, with the tabulator key at its end; returns the words that it runs."""
    (scripts / "typed").unlink(missing_ok=True)
    ours, theirs = pty.openpty()
    env = {"PATH": os.environ["PATH"], "TERM": "dumb", "LC_ALL": "C.UTF-8", "ZDOTDIR": str(scripts)}
    child = subprocess.Popen(
        shell, stdin=theirs, stdout=theirs, stderr=theirs, cwd=scripts, env=env, start_new_session=True
    )
    os.close(theirs)
    shown = b""

    def says_ready() -> bool:
        nonlocal shown
        if select.select([ours], [], [], 0.05)[0]:
            shown += os.read(ours, 4096)
        assert child.poll() is None, shown
        return b"ready: " in shown

    try:
        wait_until(says_ready, "the shell's prompt")
        os.write(ours, f"{typed}\t\nexit\n".encode())
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # EIO: the shell has closed its end
                break
            shown += piece
        child.wait(10)
    finally:
        child.kill()
        child.wait()
        os.close(ours)
    assert (scripts / "typed").exists(), shown
    return (scripts / "typed").read_text()


def in_bash(scripts: Path, typed: str) -> str:
    return at_terminal(scripts, ["bash", "--noprofile", "--rcfile", str(scripts / "bashrc"), "-i"], typed)


def in_zsh(scripts: Path, typed: str) -> str:
    return at_terminal(scripts, ["zsh", "-d", "-i"], typed)


def in_fish(scripts: Path, typed: str) -> list[str]:
    """The candidates, as fish itself lists them."""
    done = subprocess.run(
        ["fish", "--no-config", "-c", 'source keyvaultfs.fish; complete -C "$typed"'],
        env={"PATH": os.environ["PATH"], "HOME": str(scripts), "LC_ALL": "C.UTF-8", "typed": typed},
        cwd=scripts,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [line.partition("\t")[0] for line in done.stdout.splitlines()]


def test_what_is_committed_is_what_is_made_now(tmp_path: Path) -> None:
    """Else: make completion."""
    command: list[str | Path] = [sys.executable, "-W", "error", COMMITTED / "build.py", tmp_path]
    subprocess.run(command, check=True)
    for name in NAMES:
        assert (COMMITTED / name).read_text() == (tmp_path / name).read_text()


LINES = [
    ("keyvaultfs mo", "<mount>"),
    ("keyvaultfs ref", "<refresh>"),
    ("keyvaultfs --ver", "<--version>"),
    ("keyvaultfs mount -o tt", "<mount><-o><ttl=>"),
    ("keyvaultfs mount -o ttl=5,list", "<mount><-o><ttl=5,list_ttl=>"),
    ("keyvaultfs mount -o ttl=5,aut", "<mount><-o><ttl=5,auth=>"),
    ("keyvaultfs mount -o ttl=5,auth=az", "<mount><-o><ttl=5,auth=azure-identity>"),
    ("keyvaultfs mount -o dec", "<mount><-o><decode>"),
    ("keyvaultfs mount -o uid=nob", "<mount><-o><uid=nobody>"),
    ("keyvaultfs mount -o ttl=5,config=mine.t", "<mount><-o><ttl=5,config=mine.toml>"),
    ("keyvaultfs mount https://v.vault.azure.net mi", "<mount><https://v.vault.azure.net><mine/>"),
    ("keyvaultfs mount -o ttl=5 v-1 mi", "<mount><-o><ttl=5><v-1><mine/>"),
    ("keyvaultfs mount -f https://v:443/ mi", "<mount><-f><https://v:443/><mine/>"),
    ("keyvaultfs mount v-1 mine -o ttl=5 -o list", "<mount><v-1><mine><-o><ttl=5><-o><list_ttl=>"),
    ("keyvaultfs mount --fore", "<mount><--foreground>"),
    ("keyvaultfs status mine/in", "<status><mine/inner/>"),
    ("keyvaultfs status --js", "<status><--json>"),
    ("keyvaultfs dev --seed mine.t", "<dev><--seed><mine.toml>"),
]


@pytest.mark.parametrize(("typed", "wanted"), LINES)
@pytest.mark.parametrize("shell", [in_bash, in_zsh])
def test_a_line_is_completed(shell: object, typed: str, wanted: str, scripts: Path) -> None:
    assert callable(shell)
    # zsh removes the slash of a directory when the line ends.
    assert re.sub("/>", ">", shell(scripts, typed)) == re.sub("/>", ">", wanted) + "\n"


@pytest.mark.parametrize(("typed", "wanted"), LINES)
def test_fish_offers_the_end_of_a_line(typed: str, wanted: str, scripts: Path) -> None:
    assert wanted.rpartition("<")[2].rstrip(">") in in_fish(scripts, typed)


def test_fish_offers_one_word_where_there_is_one(scripts: Path) -> None:
    assert in_fish(scripts, "keyvaultfs mo") == ["mount"]
    assert in_fish(scripts, "keyvaultfs mount -o tt") == ["ttl="]
    assert in_fish(scripts, "keyvaultfs mount -o ttl=5,auth=") == [
        "ttl=5,auth=arc",
        "ttl=5,auth=azure-identity",
        "ttl=5,auth=imds",
    ]


def test_every_option_is_offered(scripts: Path) -> None:
    wanted = {option.name + ("=" if option.unit else "") for option in SHOWN}
    assert set(in_fish(scripts, "keyvaultfs mount -o ")) == wanted
    bash = (scripts / "keyvaultfs.bash").read_text()
    zsh = (scripts / "_keyvaultfs").read_text()
    for option in SHOWN:
        assert re.search(rf"[' ]{option.name}{'=' if option.unit else ''}[' ]", bash)
        assert f"'{option.name}[" in zsh
    assert "resend" not in bash + zsh


def test_the_words_that_are_offered_for_a_value_are_values(scripts: Path) -> None:
    for text in in_fish(scripts, "keyvaultfs mount -o auth="):
        assert options.parse([text]).own == dict([text.split("=")])
