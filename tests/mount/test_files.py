"""Files as a configuration describes them, on a real mount and with the programs that they are for."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.mount import KEYVAULTFS, PATIENCE, environment, run, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.inotify import Watch
    from tests.support.mount import Mount
    from tests.support.vault import VaultProcess

    Mounter = Callable[..., Mount]
    Written = Callable[..., str]

TTL = "ttl=2"


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Writes a configuration, readable by root alone, and says how it is given to a mount."""

    def write(text: str) -> str:
        path = tmp_path / "kv.toml"
        path.write_text(text)
        path.chmod(0o600)
        return f"config={path}"

    return write


def listed(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder))


def code(call: Callable[[], object]) -> str:
    """The name of the errno that a call fails with."""
    with pytest.raises(OSError) as raised:  # noqa: PT011 - which one is what is asked
        call()
    assert raised.value.errno is not None
    return os.strerror(raised.value.errno)


NAMED = """
[[rules]]
match = ["postgres", "postgres/**"]
owner = 4711
group = 4712
mode = "0640"
dir_mode = "0750"

[files."postgres/conf.d/password"]
secret = "pw"
newline = true

[files."app/user"]
secret = "db"
field = "user"
mode = "0444"

[files."app/.env"]
format = "env"
values = { DB_PASSWORD = "pw", DB_USER = { secret = "db", field = "user" } }

[files."app/.pgpass"]
template = "db:5432:*:{{ secret('db', 'user') }}:{{ secret('pw') | pgpass }}\\n"

[files."Flat"]
secret = "pw"
"""


def fill(vault: VaultProcess) -> None:
    vault.bulk(
        [
            {"name": "pw", "value": "p:w\\1"},
            {"name": "db", "value": '{"user": "app"}'},
            {"name": "flat", "value": "hidden"},
            {"name": "other", "value": "o"},
        ]
    )


def test_files_are_where_the_configuration_puts_them_beside_the_flat_names(
    vault: VaultProcess, mount: Mounter, written: Written
) -> None:
    fill(vault)
    kv = mount(written(NAMED))
    assert listed(kv.where) == ["Flat", "app", "db", "other", "postgres", "pw"]
    assert listed(kv / "app") == [".env", ".pgpass", "user"]
    assert listed(kv / "postgres/conf.d") == ["password"]
    assert (kv / "postgres/conf.d/password").read_text() == "p:w\\1\n"
    assert (kv / "app/user").read_text() == "app"
    assert (kv / "app/.pgpass").read_text() == "db:5432:*:app:p\\:w\\\\1\n"
    assert run("sh", "-c", f'. {kv.where}/app/.env; printf %s.%s "$DB_PASSWORD" "$DB_USER"') == "p:w\\1.app"
    assert (kv / "Flat").read_text() == "p:w\\1"
    assert code((kv / "flat").stat) == "No such file or directory"
    assert code((kv / "app/other").stat) == "No such file or directory"
    assert (kv / "OTHER").read_text() == "o"
    for path, mode, owner in (
        ("postgres", 0o40750, (4711, 4712)),
        ("postgres/conf.d", 0o40750, (4711, 4712)),
        ("postgres/conf.d/password", 0o100640, (4711, 4712)),
        ("app", 0o40755, (0, 0)),
        ("app/user", 0o100444, (0, 0)),
        ("other", 0o100400, (0, 0)),
    ):
        found = (kv / path).stat()
        assert (found.st_mode, (found.st_uid, found.st_gid)) == (mode, owner), path
    assert (kv / "app/user").stat().st_size == 3
    assert code(lambda: (kv / "app/new").write_text("x")) == "Read-only file system"


def test_only_files_hides_the_vault_and_needs_no_permission_to_list(
    vault: VaultProcess, mount: Mounter, written: Written
) -> None:
    fill(vault)
    vault.fault(op="list", status=403, code="Forbidden", inner_code="ForbiddenByRbac")
    kv = mount(written("only_files = true\n" + NAMED))
    assert listed(kv.where) == ["Flat", "app", "postgres"]
    assert (kv / "app/user").read_text() == "app"
    assert code((kv / "other").stat) == "No such file or directory"
    assert {one["status"] for one in vault.requests("list")} <= {401}  # the probe for the challenge


def test_mapped_files_are_looked_up_without_the_listing_and_listed_with_it(
    vault: VaultProcess, mount: Mounter, written: Written
) -> None:
    vault.bulk([{"name": name, "value": name} for name in ("pg--Main", "pg--other", "flat")])
    kv = mount(written('only_files = true\n[[map]]\nsecrets = "pg--*"\nfiles = "postgres/*.conf"\n'))
    assert (kv / "postgres/main.conf").read_text() == "pg--Main"
    assert (kv / "postgres/MAIN.conf").stat().st_ino == (kv / "postgres/main.conf").stat().st_ino
    assert listed(kv / "postgres") == ["Main.conf", "other.conf"]
    assert {one["name"].lower() for one in vault.requests("get")} == {"pg--main"}
    assert code((kv / "postgres/flat.conf").stat) == "No such file or directory"


PARTS = """
only_files = true
[files."server.key"]
secret = "web"
part = "key"
[files."server.crt"]
secret = "web"
part = "cert"
[files."chain.pem"]
secret = "web"
part = "chain"
[files."fullchain.pem"]
secret = "web"
part = "fullchain"
[files."haproxy.pem"]
secret = "web"
part = "pem"
[files."keystore.p12"]
secret = "web"
part = "pfx"
password = "keystore-password"
"""


@pytest.mark.parametrize("kind", ["pem", "pkcs12"])
def test_the_parts_of_a_certificate_verify(
    kind: str, vault: VaultProcess, mount: Mounter, written: Written
) -> None:
    vault.certificate("web", kind, intermediates=2, order="shuffled")
    vault.set("keystore-password", "ch4nge it")
    kv = mount(written(PARTS))
    run("openssl", "verify", "-CAfile", vault.ca_file, "-untrusted", kv / "chain.pem", kv / "server.crt")
    assert run("openssl", "pkey", "-in", kv / "server.key", "-pubout") == run(
        "openssl", "x509", "-in", kv / "server.crt", "-noout", "-pubkey"
    )
    whole = (kv / "fullchain.pem").read_text()
    assert whole == (kv / "server.crt").read_text() + (kv / "chain.pem").read_text()
    assert (kv / "haproxy.pem").read_text() == (kv / "server.key").read_text() + whole
    shown = run("openssl", "pkcs12", "-in", kv / "keystore.p12", "-passin", "pass:ch4nge it", "-nodes")
    assert shown.count("BEGIN CERTIFICATE") == 3
    assert shown.count("PRIVATE KEY") == 2


def test_a_keystore_is_the_same_to_the_byte_across_a_take_over_in_an_outage(
    vault: VaultProcess, mount: Mounter, written: Written
) -> None:
    vault.certificate("web")
    vault.set("keystore-password", "x")
    kv = mount(written(PARTS))
    with (kv / "keystore.p12").open("rb") as early:
        before = (kv / "keystore.p12").read_bytes()
        number = (kv / "keystore.p12").stat().st_ino
        vault.outage()
        os.kill(kv.worker(), signal.SIGKILL)
        wait_until(lambda: (kv / "keystore.p12").read_bytes() == before, "the successor")
        assert early.read() == before
    assert (kv / "keystore.p12").stat().st_ino == number
    assert (kv / "fullchain.pem").read_text().count("BEGIN") == 1


def test_nginx_serves_with_a_certificate_of_the_vault(
    vault: VaultProcess, mount: Mounter, written: Written, tmp_path: Path, free_port: int
) -> None:
    vault.certificate("web", "pkcs12", intermediates=1)
    vault.set("keystore-password", "x")
    kv = mount(written(PARTS))
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; server {{ listen 127.0.0.1:{free_port} ssl; location / {{ return 200 served; }}\n"
        f"ssl_certificate {kv.where}/fullchain.pem; ssl_certificate_key {kv.where}/server.key; }} }}\n"
    )
    with subprocess.Popen(["nginx", "-c", tmp_path / "nginx.conf", "-p", tmp_path]) as nginx:
        try:
            asked = f"https://web.example.com:{free_port}/"
            there = ("--resolve", f"web.example.com:{free_port}:127.0.0.1", "--cacert", vault.ca_file)
            assert run("curl", "-sS", *there, asked, tries=50) == "served"
        finally:
            nginx.terminate()
            nginx.wait(PATIENCE)


def test_haproxy_takes_the_one_file_of_key_and_chain(
    vault: VaultProcess, mount: Mounter, written: Written, tmp_path: Path, free_port: int
) -> None:
    vault.certificate("web", intermediates=1)
    vault.set("keystore-password", "x")
    kv = mount(written(PARTS))
    (tmp_path / "haproxy.cfg").write_text(
        f"defaults\n  mode http\n  timeout connect 1s\n  timeout client 1s\n  timeout server 1s\n"
        f"frontend web\n  bind 127.0.0.1:{free_port} ssl crt {kv.where}/haproxy.pem\n"
    )
    run("haproxy", "-c", "-f", tmp_path / "haproxy.cfg")


def test_versions_are_pinned_and_counted_back(vault: VaultProcess, mount: Mounter, written: Written) -> None:
    first = vault.set("pw", "1", created=1_600_000_000)
    page = f'[files.pin]\nsecret = "pw"\nversion = "{first}"\n[files.before]\nsecret = "pw"\nprevious = 1\n'
    kv = mount(written(page), TTL)
    assert (kv / "pin").read_text() == "1"
    assert code((kv / "before").stat) == "No such file or directory"
    vault.set("pw", "2")
    kv.wait_for("before", "1")
    kv.wait_for("pw", "2")
    assert (kv / "pin").read_text() == "1"


def test_attributes_name_the_secrets_of_a_file(vault: VaultProcess, mount: Mounter, written: Written) -> None:
    fill(vault)
    kv = mount(written(NAMED))
    rows = json.loads(os.getxattr(kv / "app/.env", "user.keyvault.sources"))
    assert [(row["secret"], row["state"]) for row in rows] == [("pw", "fresh"), ("db", "fresh")]
    assert all(len(row["version"]) == 32 for row in rows)
    assert os.getxattr(kv / "app/.env", "user.keyvault.state") == b"fresh"
    with pytest.raises(OSError, match="No data"):
        os.getxattr(kv / "app/.env", "user.keyvault.version")
    version = os.getxattr(kv / "pw", "user.keyvault.version").decode()
    assert os.getxattr(kv / "app/user", "user.keyvault.id").endswith(
        os.getxattr(kv / "db", "user.keyvault.version")
    )
    assert json.loads(os.getxattr(kv / "pw", "user.keyvault.sources"))[0]["version"] == version


def test_a_rotation_that_cannot_be_made_takes_nothing_away(
    vault: VaultProcess, mount: Mounter, written: Written
) -> None:
    fill(vault)
    kv = mount(written(NAMED), TTL)
    assert (kv / "app/user").read_text() == "app"
    environment_file = (kv / "app/.env").read_text()
    vault.set("db", "no JSON but s3cret")
    kv.wait_for("db", "no JSON but s3cret")
    for _ in range(3):
        assert (kv / "app/user").read_text() == "app"
    kv.says("file app/user cannot be made")
    assert {row["path"] for row in kv.status()["broken"]} >= {"app/user"}
    assert os.getxattr(kv / "app/user", "user.keyvault.state") == b"stale"
    assert kv.log().count("file app/user cannot be made") == 1
    assert "s3cret" not in kv.log()
    reload(kv)  # nor does a worker that takes over
    assert (kv / "app/user").read_text() == "app"
    assert (kv / "app/.env").read_text() == environment_file
    assert os.getxattr(kv / "app/user", "user.keyvault.state") == b"stale"
    vault.set("db", '{"user": "new"}')
    kv.wait_for("app/user", "new")
    wait_until(lambda: kv.status()["broken"] == [], "the end of it")


def test_a_file_that_was_never_good_is_an_input_output_error(
    vault: VaultProcess, mount: Mounter, written: Written
) -> None:
    vault.set("db", "no JSON")
    kv = mount(written('[files.user]\nsecret = "db"\nfield = "user"\n[files.gone]\nsecret = "none"\n'))
    assert code((kv / "user").read_text) == "Input/output error"
    assert code((kv / "gone").read_text) == "No such file or directory"
    assert listed(kv.where) == ["db", "gone", "user"]


def test_a_refusal_is_no_broken_file(vault: VaultProcess, mount: Mounter, written: Written) -> None:
    vault.set("db", "no JSON")
    vault.set("off", "x", enabled=False)
    kv = mount(written('[files.user]\nsecret = "db"\nfield = "user"\n[files.copy]\nsecret = "off"\n'))
    for name in ("off", "copy"):
        assert code((kv / name).read_text) == "Permission denied"
    assert kv.metric("files_broken") == 0
    assert code((kv / "user").read_text) == "Input/output error"
    assert kv.metric("files_broken") == 1


def test_wait_says_of_each_file_why_it_cannot_be_made_and_nothing_of_others(
    vault: VaultProcess, mount: Mounter, written: Written
) -> None:
    fill(vault)
    kv = mount(written('[files."app/port"]\nsecret = "db"\nfield = "port"\n[files.gone]\nsecret = "none"\n'))
    done = subprocess.run(
        [*KEYVAULTFS, "wait", "--timeout", "1", kv / "app/port", kv / "gone"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert done.returncode == 1
    port, gone = done.stderr.splitlines()
    assert port.endswith("(it cannot be made: the value has no such field)")
    assert gone.endswith("/gone: there is no such file (it cannot be made: the vault has no secret none)")


def ended(child: subprocess.Popen[bytes]) -> bool:
    return child.poll() is not None


def reload(kv: Mount) -> None:
    before = kv.worker()
    kv.process.send_signal(signal.SIGHUP)
    wait_until(lambda: kv.has_worker() and kv.worker() != before, "another worker")


MORE = """
[files."a/gone"]
secret = "flat"
[files."a/user"]
secret = "db"
field = "user"
"""


def test_a_reload_shows_what_the_file_says_now(vault: VaultProcess, mount: Mounter, written: Written) -> None:
    fill(vault)
    kv = mount(
        written('[files."a/one"]\nsecret = "pw"\n[files."a/two"]\nsecret = "pw"\nmode = "0400"\n' + MORE)
    )
    assert (kv / "a/one").read_text() == "p:w\\1"
    assert stat.S_IMODE((kv / "a/two").stat().st_mode) == 0o400
    assert code((kv / "b.conf").stat) == "No such file or directory"
    held = os.open(kv / "a/one", os.O_RDONLY)
    # Never read, so that the kernel has no bytes of them; one will be made of another secret, and the others go.
    unread = [os.open(kv / path, os.O_RDONLY) for path in ("a/gone", "a/two", "a/user")]
    written('[files."a/two"]\nsecret = "other"\nmode = "0444"\nowner = 7\n[files."b.conf"]\nsecret = "pw"\n')
    reload(kv)
    wait_until(lambda: (kv / "b.conf").exists(), "the new file")
    assert (kv / "b.conf").read_text() == "p:w\\1"
    wait_until(lambda: not (kv / "a/one").exists(), "the end of the old one")
    kv.wait_for("a/two", "o")
    found = (kv / "a/two").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o444, 7)
    assert os.pread(held, 99, 0) == b"p:w\\1"
    assert [os.pread(one, 99, 0) for one in unread] == [b"hidden", b"p:w\\1", b"app"]
    for one in (held, *unread):
        os.close(one)


def test_a_reload_with_a_mistake_keeps_the_old_worker(
    vault: VaultProcess, mount: Mounter, written: Written
) -> None:
    fill(vault)
    kv = mount(written('[files."a/one"]\nsecret = "pw"\n'))
    before = kv.worker()
    written('[files."a/one"]\nsecrte = "pw"\n')
    kv.process.send_signal(signal.SIGHUP)
    kv.says("the old one stays")
    assert "kv.toml:2: unknown key 'secrte'" in kv.log()
    assert (kv / "a/one").read_text() == "p:w\\1"
    assert kv.worker() == before


def test_every_mistake_is_told_before_anything_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "kv").mkdir()
    (tmp_path / "kv.toml").write_text(
        'ttl = "soon"\n[files."../x"]\nsecret = "a_b"\n[[rules]]\nmatch = "x"\nmode = 400\n'
    )
    done = subprocess.run(
        [*KEYVAULTFS, "mount", "v-1", tmp_path / "kv", "-o", f"config={tmp_path}/kv.toml"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert done.returncode == 2
    places = [line.partition("kv.toml:")[2].partition(":")[0] for line in done.stderr.splitlines()]
    assert places == ["1", "2", "3", "6"]


SET = "".join(f'[files."set/{number}"]\nsecret = "pw"\nnewline = true\n' for number in range(5))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_set_switches_together_also_when_the_worker_dies(
    vault: VaultProcess, mount: Mounter, written: Written
) -> None:
    """Whoever is woken by one file of a set finds the others beside it; also when the worker dies meanwhile."""
    vault.set("pw", "0")
    kv = mount(written("only_files = true\n" + SET), "ttl=1", "list_ttl=1")
    for number in range(5):
        assert (kv / f"set/{number}").read_text() == "0\n"
    for rotation in range(1, 13):
        watch = subprocess.Popen(
            ["inotifywait", "-m", "-e", "delete_self", *(kv / f"set/{number}" for number in range(5))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert watch.stderr is not None
        assert watch.stdout is not None
        with watch, contextlib.ExitStack() as stack:
            stack.callback(watch.kill)
            while "Watches established" not in watch.stderr.readline():
                assert watch.poll() is None
            vault.set("pw", str(rotation))
            if rotation % 4 == 0:
                os.kill(kv.worker(), signal.SIGKILL)
            woken = {watch.stdout.readline()}
            assert {(kv / f"set/{number}").read_text() for number in range(5)} == {f"{rotation}\n"}
            while len(woken) < 5:
                line = watch.stdout.readline()
                assert line not in woken, "a file is announced once"
                woken.add(line)


def test_what_is_composed_outlives_a_take_over_in_an_outage(
    vault: VaultProcess, mount: Mounter, written: Written
) -> None:
    fill(vault)
    kv = mount(written("only_files = true\n" + NAMED))
    before = {path: (kv / path).read_bytes() for path in ("app/.env", "app/.pgpass", "app/user")}
    numbers = {path: (kv / path).stat().st_ino for path in before}
    held = [(kv / path).open("rb") for path in before]
    vault.outage("both")
    os.kill(kv.worker(), signal.SIGKILL)
    for path, value in before.items():
        assert (kv / path).read_bytes() == value
        assert (kv / path).stat().st_ino == numbers[path]
    assert [file.read() for file in held] == list(before.values())
    for file in held:
        file.close()


def test_a_mount_without_templates_and_parts_loads_no_library_for_them(
    vault: VaultProcess, mount: Mounter, written: Written
) -> None:
    fill(vault)
    kv = mount(written('[files."a/b"]\nsecret = "db"\nfield = "user"\n'), "run_as=root")
    assert (kv / "a/b").read_text() == "app"
    with open(f"/proc/{kv.worker()}/maps") as maps:
        mapped = maps.read()
    assert "pyfuse3" in mapped
    assert "cryptography" not in mapped
    assert "markupsafe" not in mapped


def test_units_narrow_who_may_open(vault: VaultProcess, mount: Mounter, written: Written) -> None:
    vault.set("pw", "x")
    kv = mount(written('[files."for-a-unit"]\nsecret = "pw"\nunits = ["no-such-unit.service"]\n'))
    assert (kv / "for-a-unit").stat().st_size == 1
    for _ in range(2):  # by a program: in a container the test itself may be process 1
        with pytest.raises(AssertionError, match="Permission denied"):
            run("cat", kv / "for-a-unit")
    kv.says("may not open files for other units")
    assert kv.log().count("may not open files for other units") == 1
    assert (kv / "pw").read_text() == "x"


def test_tags_narrow_what_is_there(vault: VaultProcess, mount: Mounter) -> None:
    vault.set("mine", "x", tags={"env": "prod", "team": "a"})
    vault.set("theirs", "x", tags={"env": "prod"})
    kv = mount("tags=env=prod", "tags=team=a")
    assert listed(kv.where) == ["mine"]
    assert (kv / "mine").read_text() == "x"
    assert code((kv / "theirs").stat) == "No such file or directory"


def test_what_tags_hide_is_nowhere(vault: VaultProcess, mount: Mounter) -> None:
    """By its versions, by what is told of it, and by what is fetched for nobody: however it came to be hidden."""
    shown = {"env": "prod"}
    vault.set("mine", "x", tags=shown, exp=1_900_000_000)
    versions = {
        "theirs": vault.set("theirs", "x", exp=1_900_000_000),
        "switched-off": vault.set("switched-off", "x", enabled=False),
        "was-ours": vault.set("was-ours", "x", tags=shown),
    }
    new = vault.set("was-ours", "x")
    before = vault.set("became-ours", "x")
    now = vault.set("became-ours", "x", tags=shown)
    kv = mount("tags=env=prod", "prefetch=*", "ttl=3", "list_ttl=3")
    wait_until(lambda: kv.metric("cache_list_pages") > 0, "the listing that prefetch= reads")
    for listing in (False, True):
        if listing:
            assert listed(kv.where) == ["became-ours", "mine"]
        for name, version in versions.items():
            folder = kv / ".keyvaultfs/versions" / name
            assert code(lambda: os.listdir(folder)) == "No such file or directory", name  # noqa: B023 - at once
            assert code((folder / version).read_text) == "No such file or directory"
            assert code((kv / name).stat) == "No such file or directory"
        assert code((kv / ".keyvaultfs/versions/was-ours" / new).stat) == "No such file or directory"
    assert os.listdir(kv / ".keyvaultfs/versions/became-ours") == [now]
    assert code((kv / ".keyvaultfs/versions/became-ours" / before).read_text) == "No such file or directory"
    assert (kv / "mine").read_text() == "x"
    for name in ("status", "metrics", "readers"):
        text = (kv / ".keyvaultfs" / name).read_text()
        assert not {name for name in versions if name in text}, text
    assert 'name="mine"' in (kv / ".keyvaultfs/metrics").read_text()
    vault.update("mine", tags={}, updated=1_800_000_000)
    wait_until(lambda: listed(kv.where) == ["became-ours"], "the tag to be gone")
    wait_until(lambda: not (kv / "mine").exists(), "its file to be gone too")
    assert 'name="mine"' not in (kv / ".keyvaultfs/metrics").read_text()
    readers = json.loads((kv / ".keyvaultfs/readers").read_text())["files"]
    assert [(one["path"], one["known"], one["edition"]) for one in readers] == [("mine", True, "")]


def test_nothing_is_fetched_ahead_of_what_tags_hide(vault: VaultProcess, mount: Mounter) -> None:
    for name in ("a", "b", "c", "d"):
        vault.set(name, "x", tags={"env": "prod"} if name in "ad" else {})
    kv = mount("tags=env=prod", "prefetch=*")
    assert listed(kv.where) == ["a", "d"]
    wait_until(lambda: kv.metric("cache_gets") >= 2, "what is prefetched")
    assert (kv / "a").read_text() == (kv / "d").read_text() == "x"
    asked = {request["name"] for request in vault.requests("get")}
    assert asked == {"a", "d"}


def test_a_path_of_any_length_is_kept_for_a_successor(
    vault: VaultProcess, mount: Mounter, written: Written
) -> None:
    vault.set("pw", "x")
    path = "/".join(["d" * 255, "ä" * 127, "f" * 255])
    kv = mount(written(f'[files."{path}"]\nsecret = "pw"\nnewline = true\n'))
    reader = (kv / path).open()
    folder = os.open((kv / path).parent, os.O_RDONLY)
    os.kill(kv.worker(), signal.SIGKILL)
    assert reader.read() == "x\n"
    assert os.listdir(folder) == ["f" * 255]
    assert (kv / path).read_text() == "x\n"
    reader.close()
    os.close(folder)


@pytest.mark.parametrize("folder", ["\u3000a\nb", "/".join(["x" * 200] * 6)], ids=["unprintable", "long"])
def test_a_rotation_is_heard_whatever_the_file_is_called(
    folder: str, vault: VaultProcess, mount: Mounter, written: Written, events: Callable[..., Watch]
) -> None:
    vault.set("pw", "1")
    kv = mount(TTL, written(f'[files.{json.dumps(folder + "/pw")}]\nsecret = "pw"\n'))
    assert (kv / f"{folder}/pw").read_text() == "1"
    watch = events(kv / folder)
    vault.set("pw", "2")
    watch.wait("MOVED_TO pw")
    kv.wait_for(f"{folder}/pw", "2")
