"""The fence of the token endpoint, with nftables itself, in a network that is the test's own."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from keyvaultfs.fence import Fence, parse
from tests.support.mount import KEYVAULTFS, ROOT, environment

if TYPE_CHECKING:
    from tests.support.vault import VaultProcess

STORY = """
set -e
mount -t tmpfs none /run
(grep -v ^keyvaultfs: /etc/passwd; echo keyvaultfs:x:65533:65533::/:/bin/false) > /run/passwd
mount --bind /run/passwd /etc/passwd
fence="sh {folder}/keyvaultfs-imds.sh"
say() {{ cat /proc/uptime; cat /run/keyvaultfs/imds-fence 2>/dev/null || echo none; }}
say
$fence up; say
$fence check; say
nft flush ruleset; $fence check; say
nft flush chain inet keyvaultfs_imds output; $fence check; say
mkdir /run/empty; mount --bind /run/empty/ /usr/sbin
! PATH=/bin:/usr/bin $fence check; say
umount /usr/sbin; $fence check; say
nft list table inet keyvaultfs_imds | grep -c reject
$fence down; say
! nft list table inet keyvaultfs_imds 2>&1
"""


def test_what_flushes_the_rules_takes_the_fence_away_for_no_longer_than_to_the_next_check() -> None:
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", STORY.format(folder=ROOT / "packaging/nftables")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "something flushed the rules; it is back" in done.stdout
    said = re.findall(r"^([\d.]+) [\d.]+\n((?:in-force|lost|none).*)$", done.stdout, re.MULTILINE)
    found = [None if text == "none" else parse(text.encode(), float(uptime)) for uptime, text in said]
    assert [state and (state.fence, state.restored) for state in found] == [
        None,
        (Fence.IN_FORCE, 0),
        (Fence.IN_FORCE, 0),
        (Fence.IN_FORCE, 1),
        (Fence.IN_FORCE, 2),
        (Fence.LOST, 3),
        (Fence.IN_FORCE, 3),
        None,
    ]


LOOKS = """
set -e
url=$1 where=$2 options=$3; shift 3
mount -t tmpfs none /run
mkdir /run/keyvaultfs
"$@" mount "$url" "$where" -o "$options" 2>&1
now=$(cut -d" " -f1 /proc/uptime)
for line in "" "in-force $now 0" "lost $now 3" "in-force 999999999 0"; do
    rm -f /run/keyvaultfs/imds-fence
    [ -z "$line" ] || echo "$line" > /run/keyvaultfs/imds-fence
    "$@" status "$where" | grep ^fence
    grep '^keyvaultfs_imds_fence.* 1$' "$where/.keyvaultfs/metrics"
    "$@" check "$url" -o "$options" --json 2>/dev/null | grep -E 'FenceLost|NoFence|fenced off'
done
umount "$where"
"""


def test_status_metrics_and_check_say_whether_it_is_in_force(vault: VaultProcess, tmp_path: Path) -> None:
    vault.set("pw", "x")
    shell = ["unshare", "--mount", "--propagation", "private", "sh", "-c", LOOKS, "sh"]
    words = [*shell, vault.url, str(tmp_path), vault.mount_options(), *KEYVAULTFS]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line for line in done.stdout.splitlines() if not line.startswith("keyvaultfs: ")]
    states = [("every user of this", "absent", "NoFence"), ("cannot reach", "in-force", "fenced off")]
    states += [("NOT IN FORCE", "lost", "FenceLost")] * 2
    assert len(said) == 12, said
    for line, word in zip(said, (word for state in states for word in state), strict=True):
        assert word in line


def test_units_and_wheel_name_the_same_files() -> None:
    units = Path(ROOT / "packaging/nftables").glob("*.service")
    named = {name for unit in units for name in re.findall(r"/usr/share/keyvaultfs/(\S+)", unit.read_text())}
    assert named == {"keyvaultfs-imds.sh"}
    assert "share/keyvaultfs/keyvaultfs-imds.sh" in (ROOT / "pyproject.toml").read_text()
