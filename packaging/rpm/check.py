"""Checks the spec on Debian: it parses, rpmlint finds nothing wrong, it builds, and the .rpm has what the .deb has.

python packaging/rpm/check.py FOLDER DEB…

Fedora's macros are those of stand-in.macros beside this file; everything else is rpm's own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SPEC = HERE / "keyvaultfs.spec"
PYTHON = "/usr/bin/python3"

DEBIANS = (
    (r"/lib/systemd/", "/usr/lib/systemd/"),
    (r"/sbin/", "/usr/sbin/"),
    (r"/usr/lib/python3/dist-packages/", "/usr/lib/python3/site-packages/"),
    (r"/usr/share/zsh/vendor-completions/", "/usr/share/zsh/site-functions/"),
)
"""Where Debian has what Fedora has elsewhere."""

ALONE = re.compile(
    r"/usr/share/(doc/keyvaultfs[^/]*/(changelog|copyright)|lintian/overrides/.*|licenses/keyvaultfs[^/]*/LICENSE)"
)
"""What each kind of package has for its own kind's sake."""


def run(*command: object, cwd: Path = ROOT, home: Path | None = None) -> str:
    """Standard output; a failure ends the check and shows all that was said."""
    env = os.environ | ({"HOME": str(home)} if home else {})
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False)  # noqa: S603 - packaging tools
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def in_common(name: str) -> str:
    """A file's name without what the two kinds of package do their own way."""
    for theirs, ours in DEBIANS:
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
    return re.sub(r"(keyvaultfs)-[^/]*\.dist-info/.*", r"\1.dist-info", name).removesuffix(".gz")


def of_deb(deb: Path) -> dict[str, str]:
    """Files and links, each with its permissions."""
    found = {}
    for line in run("dpkg-deb", "--contents", deb).splitlines():
        mode, name = line.split()[0], line.split()[5].removeprefix(".")
        if not mode.startswith("d"):
            found[in_common(name)] = mode
    return found


def of_rpm(rpm: Path) -> dict[str, str]:
    """As `of_deb`."""
    text = run("rpm", "-qp", "--queryformat", "[%{FILEMODES:perms} %{FILENAMES}\n]", rpm)
    pairs = [line.split(" ", 1) for line in text.splitlines()]
    return {in_common(name): mode for mode, name in pairs if not mode.startswith("d")}


def treatments(text: str) -> set[str]:
    """What scriptlets do to mounts, without the shell's words for "never mind"."""
    found = re.findall(r"^ *(timeout \d+ \S+ -I -m keyvaultfs\.\S+ \w+) \|\| (?:true|:)$", text, re.MULTILINE)
    return set(found)


def check_scriptlets(rpm: Path) -> None:
    """An upgrade and a removal do to running mounts what those of the .deb do, and nft stays a choice."""
    scripts = run("rpm", "-qp", "--scripts", rpm)
    debian = ROOT / "packaging/debian"
    theirs = treatments((debian / "postinst").read_text()) | treatments((debian / "prerm").read_text())
    if treatments(scripts) != theirs or len(theirs) != 2:
        sys.exit(f"the scriptlets treat mounts otherwise than the .deb's:\n{scripts}")
    if "nft" in (wants := run("rpm", "-qp", "--requires", rpm)):
        sys.exit(f"the .rpm requires nft:\n{wants}")


def check_version() -> None:
    """Three files say which version this is."""
    project = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    spec = re.search(r"^Version: *(.*)$", SPEC.read_text(), re.MULTILINE)
    debian = re.match(r"keyvaultfs \((.*)\)", (ROOT / "packaging/debian/changelog").read_text())
    versions = {found[1] if found else None for found in (project, spec, debian)}
    if len(versions) != 1:
        sys.exit(f"pyproject.toml, the spec and debian/changelog name different versions: {versions}")


def build(folder: Path) -> dict[str, Path]:
    """Each .rpm by its package's name, from an sdist of this tree."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "SOURCES").mkdir(parents=True)
    run(PYTHON, "-m", "hatchling", "build", "-t", "sdist", "-d", folder / "SOURCES")
    # By ~/.rpmmacros: rpm 4.20 forgets those of --load when it has read %generate_buildrequires.
    macros = (HERE / "stand-in.macros").read_text()
    (folder / ".rpmmacros").write_text(f"{macros}%_topdir {folder}\n%stand_in_python {PYTHON}\n")
    parsed = run("rpmspec", "-P", SPEC, home=folder)
    if left := re.findall(r"%\{.*?\}", parsed):
        sys.exit(f"the spec uses what nothing defines: {left}")
    run("rpmbuild", "-bb", "--nodeps", SPEC, home=folder)
    return {file.name.rsplit("-", 2)[0]: file for file in folder.glob("RPMS/noarch/*.rpm")}


def compare(deb: Path, rpm: Path) -> None:
    """The two bring the same files, with the same permissions."""
    there, here = of_deb(deb), of_rpm(rpm)
    wrong = [
        f"{name}: deb {there.get(name, 'has none')}, rpm {here.get(name, 'has none')}"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name) and ALONE.fullmatch(name) is None
    ]
    if wrong:
        sys.exit("\n".join(wrong))
    sys.stdout.write(f"{rpm.name}: the same {len(here)} files as {deb.name}\n")


def main(folder: Path, debs: dict[str, Path]) -> None:
    """All checks, in the order in which they are cheap."""
    check_version()
    rpms = build(folder.resolve())
    run("rpmlint", "--strict", "--config", HERE / "rpmlint.toml", SPEC, *rpms.values())
    check_scriptlets(rpms["keyvaultfs"])
    if rpms.keys() != debs.keys():
        sys.exit(f"the packages are {sorted(debs)}, and {sorted(rpms)}")
    for name, deb in debs.items():
        compare(deb, rpms[name])


if __name__ == "__main__":
    main(Path(sys.argv[1]), {Path(word).name.partition("_")[0]: Path(word) for word in sys.argv[2:]})
