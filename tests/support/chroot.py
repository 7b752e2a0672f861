"""The tests of this tree in another release of Debian, with its own Python, packages and test tools.

python -m tests.support.chroot SUITE PACKAGE… -- PYTEST-ARGUMENT…

The root is that of mount and process namespaces of its own, with this machine's kernel and /dev/fuse.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support import roots
from tests.support.mount import ROOT

SHTAB = "shtab>=1.13,<1.14"
"""The one tool that Debian 13 has too old: the scripts that are committed are those of this one."""

INSIDE = """
set -e
root=$1; shift
for name in dev sys; do mount --rbind /$name "$root/$name"; mount --make-rslave "$root/$name"; done
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 none "$root/tmp"
cd "$root"
pivot_root . mnt  # and not chroot, so that who enters these namespaces finds this root
umount --lazy /mnt
cd /src
alone='--no-index --no-deps --no-build-isolation --break-system-packages'
python3 -m pip -q install --root-user-action=ignore $alone -e .
# Not by exec: process 1 has to reap orphans, and the file system is short with it.
code=0; python3 -m pytest "$@" || code=$?
exit $code
"""


def _add_shtab(root: Path) -> None:
    site = root / "usr/local/lib/keyvaultfs-tools"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), SHTAB]
    subprocess.run(command, check=True)
    (packages,) = root.glob("usr/local/lib/python3.*/dist-packages")
    (packages / "keyvaultfs-tools.pth").write_text("/usr/local/lib/keyvaultfs-tools\n")


def main(suite: str, packages: list[str], arguments: list[str]) -> int:
    """Run pytest in the release `suite`; its exit status."""
    below = roots.base(suite, packages, finish=(SHTAB, _add_shtab))
    with roots.above(below) as root:
        (root / "src").mkdir()
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        tar = ["tar", "--create", "--null", "--files-from=-", "--ignore-failed-read"]
        packed = subprocess.run(tar, cwd=ROOT, input=listed, capture_output=True, check=True).stdout
        subprocess.run(["tar", "--extract", "--no-same-owner", "-C", root / "src"], input=packed, check=True)
        command = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]
        command += ["sh", "-c", INSIDE, "sh", str(root), *arguments]
        env = roots.environment(CI="1")
        return subprocess.run(command, stdin=subprocess.DEVNULL, env=env, check=False).returncode


if __name__ == "__main__":
    here = sys.argv.index("--")
    sys.exit(main(sys.argv[1], sys.argv[2:here], sys.argv[here + 1 :]))
