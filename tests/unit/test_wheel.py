"""The wheel, as pip and pipx get it: built from the sdist, installed below a prefix of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from keyvaultfs.settings.options import OPTIONS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BROUGHT = {
    "bin/keyvaultfs",
    "bin/mount.keyvaultfs",
    "lib/systemd/system/keyvaultfs-imds-check.service",
    "lib/systemd/system/keyvaultfs-imds-check.timer",
    "lib/systemd/system/keyvaultfs-imds.service",
    "lib/systemd/system/keyvaultfs-metrics.service",
    "lib/systemd/system/keyvaultfs-metrics.timer",
    "lib/systemd/system/keyvaultfs@.service",
    "lib/sysusers.d/keyvaultfs.conf",
    "lib/tmpfiles.d/keyvaultfs.conf",
    "share/bash-completion/completions/keyvaultfs",
    "share/doc/keyvaultfs/examples/alerts.yml",
    "share/doc/keyvaultfs/examples/dashboard.json",
    "share/doc/keyvaultfs/examples/example.toml",
    "share/doc/keyvaultfs/examples/files.toml",
    "share/doc/keyvaultfs/examples/reload-on-rotation.path",
    "share/doc/keyvaultfs/examples/reload-on-rotation.service",
    "share/fish/vendor_completions.d/keyvaultfs.fish",
    "share/keyvaultfs/keyvaultfs-imds.nft",
    "share/keyvaultfs/keyvaultfs-imds.sh",
    "share/man/man1/keyvaultfs.1",
    "share/man/man5/keyvaultfs.toml.5",
    "share/man/man8/mount.keyvaultfs.8",
    "share/zsh/site-functions/_keyvaultfs",
}


def run(*command: object, cwd: Path | None = None) -> str:
    """In the least environment, so that nothing but what is installed is found."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=cwd, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"}, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    run("tar", "--extract", "--file", sdist, "--directory", folder)
    source = folder / sdist.name.removesuffix(".tar.gz")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=source)
    (wheel,) = folder.glob("*.whl")
    made = folder / "prefix"
    run(sys.executable, "-m", "venv", made)
    before = files(made)
    run(made / "bin/python", "-m", "pip", "install", "--no-index", "--no-deps", "--no-compile", wheel)
    (folder / "brought").write_text("\n".join(files(made) - before))
    return made


def test_a_wheel_brings_all_that_the_packages_do(prefix: Path) -> None:
    brought = {
        name for name in (prefix.parent / "brought").read_text().splitlines() if "/site-packages/" not in name
    }
    assert brought == BROUGHT


def test_its_programs_run(prefix: Path) -> None:
    version = run(prefix / "bin/keyvaultfs", "--version")
    assert re.fullmatch(r"keyvaultfs \d+\.\d+\.\d+\n", version)
    assert "usage: mount.keyvaultfs" in run(prefix / "bin/mount.keyvaultfs", "--help")
    run(prefix / "bin/mount.keyvaultfs", "-f", "myvault", prefix, "-o", "ro,ttl=5")
    assert "--seed" in run(prefix / "bin/keyvaultfs", "dev", "--help")


def test_what_is_made_from_the_code_names_every_option(prefix: Path) -> None:
    for name in BROUGHT:
        if "/man/" in name or "completion" in name or "zsh" in name:
            text = (prefix / name).read_text().replace("\\", "")
            assert [one.name for one in OPTIONS if not one.hidden and one.name not in text] == []


def test_links_below_usr_local_are_all_that_a_system_needs(prefix: Path, tmp_path: Path) -> None:
    """What README says; and the unit finds the program by systemd's own search path, not by an absolute one."""
    text = (ROOT / "README.md").read_text()
    (tmp_path / "lib").mkdir()
    commands = " && ".join(re.findall(r"^    sudo (cp -rs .*)$", text, flags=re.MULTILINE))
    run("bash", "-c", commands.replace("/opt/keyvaultfs", str(prefix)).replace("/usr/local", str(tmp_path)))
    assert files(tmp_path) == {name for name in BROUGHT if not name.startswith("bin/")}
    assert all((tmp_path / name).is_file() for name in files(tmp_path))
    unit = (tmp_path / "lib/systemd/system/keyvaultfs@.service").read_text()
    assert "\nExecStart=keyvaultfs mount -f " in unit
