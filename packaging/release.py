"""Builds what a release consists of, twice and in different surroundings, and compares the bytes.

python packaging/release.py FOLDER

Everything is made from the commit that is checked out, and dated by it. FOLDER gets the sdist, the wheel, both .deb,
the source .rpm (Fedora builds the installable one of it, for its own Python: `rpmbuild --rebuild`) and SHA256SUMS.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "/usr/bin/python3"
RPM_FOLDER = Path("/var/tmp/keyvaultfs-release-rpm")  # noqa: S108 - it must not be there before
"""The same for everybody who builds: rpm writes the spec with all its paths into a source package."""

SURROUNDINGS = (
    {"umask": 0o022, "TZ": "UTC", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"},
    {"umask": 0o027, "TZ": "Asia/Kathmandu", "LC_ALL": "C", "HOME": "/root"},
)
"""What must not matter."""


def run(*command: object, cwd: Path, env: dict[str, str], umask: int = 0o022) -> str:
    """Standard output; a failure shows all that was said."""
    words = [str(word) for word in command]
    done = subprocess.run(  # noqa: S603 - programs that are named here
        words, cwd=cwd, env=env, umask=umask, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def build(folder: Path, surroundings: dict[str, object]) -> dict[str, bytes]:
    """All files of the release by name, built below a folder."""
    umask = int(str(surroundings["umask"]))
    env = {name: str(value) for name, value in surroundings.items() if name != "umask"}
    env["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    env["SOURCE_DATE_EPOCH"] = run(
        "git", "log", "-1", "--format=%ct", cwd=ROOT, env=env | {"HOME": "/root"}
    ).strip()
    tree, made = folder / "keyvaultfs", folder / "made"
    tree.mkdir()
    made.mkdir()
    run("git", "archive", "--output", folder / "tree.tar", "HEAD", cwd=ROOT, env=env)
    run("tar", "--extract", "--file", folder / "tree.tar", cwd=tree, env=env)

    run(PYTHON, "-m", "hatchling", "build", "-d", made, cwd=tree, env=env, umask=umask)
    RPM_FOLDER.mkdir(mode=0o700)
    try:
        rpms = _rpms(tree, made, env, umask)
    finally:
        shutil.rmtree(RPM_FOLDER)
    shutil.copytree(tree / "packaging/debian", tree / "debian")
    run("dpkg-buildpackage", "-us", "-uc", "-b", cwd=tree, env=env, umask=umask)
    return rpms | {file.name: file.read_bytes() for file in (*made.iterdir(), *folder.glob("*.deb"))}


def _rpms(tree: Path, made: Path, env: dict[str, str], umask: int) -> dict[str, bytes]:
    (RPM_FOLDER / "SOURCES").mkdir()
    (sdist,) = made.glob("*.tar.gz")
    shutil.copy(sdist, RPM_FOLDER / "SOURCES")
    shutil.copy(tree / "packaging/rpm/keyvaultfs.spec", RPM_FOLDER)
    macros = (tree / "packaging/rpm/stand-in.macros").read_text()
    (RPM_FOLDER / ".rpmmacros").write_text(f"{macros}%_topdir {RPM_FOLDER}\n%stand_in_python {PYTHON}\n")
    env = env | {"HOME": str(RPM_FOLDER)}
    spec = RPM_FOLDER / "keyvaultfs.spec"
    run("rpmbuild", "-ba", "--nodeps", spec, cwd=RPM_FOLDER, env=env, umask=umask)
    return {file.name: file.read_bytes() for file in RPM_FOLDER.rglob("*.rpm")}


def main(out: Path) -> None:
    """Build twice, compare, and keep one."""
    built = []
    for surroundings in SURROUNDINGS:
        # Nor must the path of the folder matter.
        with tempfile.TemporaryDirectory(prefix="release-" + "x" * len(built)) as name:
            built.append(build(Path(name), surroundings))
    first, second = built
    if first != second:
        Path(".build/release").mkdir(parents=True, exist_ok=True)
        for number, files in enumerate(built):
            for name, data in files.items():
                Path(f".build/release/{number}-{name}").write_bytes(data)
        differ = [name for name in first.keys() | second.keys() if first.get(name) != second.get(name)]
        sys.exit(f"not the same in two builds (both are in .build/release): {', '.join(sorted(differ))}")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    sums = []
    for name, data in sorted(first.items()):
        if name.endswith(".noarch.rpm"):  # built with Debian's Python, to be compared and not to be installed
            continue
        (out / name).write_bytes(data)
        sums.append(f"{hashlib.sha256(data).hexdigest()}  {name}\n")
    (out / "SHA256SUMS").write_text("".join(sums), encoding="ascii")
    sys.stdout.write(f"{out}: {len(sums)} files, the same bytes in two builds\n{''.join(sums)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
