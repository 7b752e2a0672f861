"""From a mount to what Prometheus would scrape, by a running node_exporter."""

from __future__ import annotations

import contextlib
import subprocess
import urllib.request
from typing import TYPE_CHECKING

from tests.support.mount import KEYVAULTFS, run, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.mount import Mount
    from tests.support.vault import VaultProcess


def test_node_exporter_hands_them_on_with_their_types(
    vault: VaultProcess, mount: Callable[..., Mount], tmp_path: Path, free_port: int
) -> None:
    vault.set("pw", "x", exp=1_900_000_000)
    kv = mount()
    run("cat", kv / "pw")
    run(*KEYVAULTFS, "metrics", kv.where, "--output", tmp_path / "keyvaultfs.prom")
    address = f"127.0.0.1:{free_port}"
    command = ["prometheus-node-exporter", "--collector.disable-defaults", "--collector.textfile",
               f"--collector.textfile.directory={tmp_path}", f"--web.listen-address={address}"]  # fmt: skip
    scraped: list[str] = []

    def answers() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{address}/metrics") as answer:
            scraped.append(answer.read().decode())
        return bool(scraped)

    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as exporter:
        try:
            wait_until(answers, "node_exporter")
        finally:
            exporter.terminate()
    lines = scraped[0].splitlines()
    assert "node_textfile_scrape_error 0" in lines
    assert any(
        line.startswith("node_textfile_mtime_seconds{") and "keyvaultfs.prom" in line for line in lines
    )
    for line in (
        "# TYPE keyvaultfs_cache_misses_total counter",
        "# TYPE keyvaultfs_stale_values gauge",
        "# TYPE keyvaultfs_workers_started_total counter",
        f'keyvaultfs_up{{mountpoint="{kv.where}"}} 1',
        f'keyvaultfs_secret_expires_timestamp_seconds{{mountpoint="{kv.where}",name="pw"}} 1.9e+09',
    ):
        assert line in lines
