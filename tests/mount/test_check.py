"""`keyvaultfs check` on machines and vaults where one thing is broken: it says which, and the cure."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.mount import KEYVAULTFS, environment
from tests.support.namespace import network_of
from tests.support.peer import Peer, half_a_handshake, says
from tests.support.vault import VaultProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

OID = "b2c1b2f0-0000-4000-8000-000000000001"
VALUE = "canary-of-a-value"
LATER = {"retry-after": "60"}
"""Nobody waits for that, so that the answer is what is told, and no timeout."""


@dataclass
class Checked:
    """What a check said."""

    status: int
    findings: list[dict[str, str]]
    output: str

    def of(self, step: str) -> dict[str, dict[str, str]]:
        """Findings of a step by code, but for what is well."""
        return {one["code"]: one for one in self.findings if one["step"] == step and one["code"]}


def check(vault: VaultProcess | str, *words: str, options: str = "", json_too: bool = True) -> Checked:
    url, own = (vault, "") if isinstance(vault, str) else (vault.url, vault.mount_options())
    text = ",".join(filter(None, (own, options)))
    command = [*KEYVAULTFS, "check", url, *words, *(["-o", text] if text else [])]
    done = subprocess.run(
        [*command, *(["--json"] if json_too else [])],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    output = done.stdout + done.stderr
    assert VALUE not in output
    assert "eyJ" not in output, "the beginning of each token"
    assert "Traceback" not in output
    findings = json.loads(done.stdout)["findings"] if json_too and done.stdout else []
    return Checked(done.returncode, findings, output)


def refuses(denial: str) -> Callable[[VaultProcess], object]:
    return lambda vault: vault.fault(op=["list", "get", "version"], deny=denial)


@dataclass
class Situation:
    """One thing that is broken.

    Attributes:
        step, code, cure: what the check is to say of it.
        broken: breaks it.
        words, options: of the command.
    """

    step: str
    code: str
    cure: str
    broken: Callable[[VaultProcess], object] = lambda _: None
    words: list[str] = field(default_factory=list)
    options: str = ""
    status: int = 1


SITUATIONS = {
    "no identity": Situation(
        "identity",
        "Identity-invalid_request",
        "az vm identity assign",
        lambda vault: vault.turn(identities=[]),
    ),
    "several identities, none of them the one that is named": Situation(
        "identity",
        "Identity-invalid_request",
        "az vm identity show",
        lambda vault: vault.turn(identities=["1b4e28ba-2fa1-4d2b-8f0a-000000000001"]),
        options="client_id=1b4e28ba-2fa1-4d2b-8f0a-000000000002",
    ),
    "several identities, none of which is named": Situation(
        "identity",
        "Identity-SeveralIdentities",
        "-o client_id=",
        lambda vault: vault.turn(
            identities=["1b4e28ba-2fa1-4d2b-8f0a-000000000001", "1b4e28ba-2fa1-4d2b-8f0a-000000000002"]
        ),
    ),
    "a token endpoint that is asked too often": Situation(
        "identity",
        "Identity-429",
        "ss --tcp",
        lambda vault: vault.fault(which="imds", status=429, headers=LATER),
    ),
    "a token endpoint that is being updated": Situation(
        "identity",
        "Identity-410",
        "70 seconds",
        lambda vault: vault.fault(which="imds", status=410, headers=LATER),
    ),
    "a token endpoint whose name nobody knows": Situation(
        "identity",
        "EndpointNoName",
        "getent ahosts no.such.invalid",
        options="imds_endpoint=http://no.such.invalid",
    ),
    "nobody at the token endpoint": Situation(
        "identity", "EndpointRefused", "curl --noproxy", options="imds_endpoint=http://127.0.0.1:1"
    ),
    "a token endpoint that is silent": Situation(
        "identity",
        "TokenTimeout",
        "curl --noproxy",
        lambda vault: vault.fault(which="imds", hang=True),
        options="timeout=1",
    ),
    "a secret that tags leave out": Situation(
        "permissions", "NotShown", "--query tags", words=["pw"], options="tags=env=prod"
    ),
    "a secret that a pattern leaves out": Situation(
        "permissions", "NotShown", "--name pw", words=["pw"], options="exclude=p*"
    ),
    "a vault of which tags leave nothing": Situation(
        "permissions", "NothingShown", "--query", options="tags=env=prod", status=0
    ),
    "another cloud's endpoint": Situation(
        "identity",
        "Identity-NotJSON",
        "metadata/instance",
        lambda vault: vault.fault(which="imds", body=b"<html>", content_type="text/html"),
    ),
    "no role": Situation(
        "permissions",
        "ForbiddenByRbac",
        f'"Key Vault Secrets User" --assignee-object-id {OID}',
        refuses("rbac"),
    ),
    "no access policy": Situation(
        "permissions",
        "AccessDenied",
        f"az keyvault set-policy --name VAULT --object-id {OID}",
        refuses("policy"),
    ),
    "the vault's firewall": Situation(
        "permissions", "ForbiddenByFirewall", "az keyvault network-rule add", refuses("firewall")
    ),
    "not by the private link": Situation(
        "permissions", "ForbiddenByConnection", "privatelink.vaultcore.azure.net", refuses("connection")
    ),
    "a secret that does not exist": Situation(
        "permissions", "SecretNotFound", "az keyvault secret list", words=["nosuch"]
    ),
    "a secret that was deleted": Situation(
        "permissions",
        "SecretNotFound",
        "az keyvault secret recover --vault-name VAULT --name pw",
        lambda vault: vault.delete("pw"),
        words=["pw"],
    ),
    "a vault that is out of order, and no secret is named": Situation(
        "permissions",
        "Answer-503",
        "status.azure.com",
        lambda vault: vault.fault(op=["list", "get"], status=503, headers=LATER),
    ),
    "a vault that is asked too often": Situation(
        "permissions",
        "Answer-429",
        "az monitor metrics list",
        lambda vault: vault.fault(op=["list", "get"], status=429, headers=LATER),
    ),
    "a secret that is disabled": Situation(
        "permissions",
        "SecretDisabled",
        "--name pw --enabled true",
        lambda vault: vault.disable("pw"),
        words=["pw"],
    ),
    "no permission to list": Situation(
        "permissions",
        "ForbiddenByRbac",
        "az role assignment create",
        lambda vault: vault.fault(op="list", deny="rbac"),
        words=["pw"],
        status=0,
    ),
    "another tenant": Situation(
        "vault",
        "AKV10032",
        "properties.tenantId",
        lambda vault: vault.turn(tenant="11111111-0000-4000-8000-000000000000"),
    ),
    "clocks that differ": Situation(
        "vault",
        "ClockDiffers",
        "timedatectl",
        lambda vault: vault.turn(clock_offset=900),
        words=["pw"],
        status=0,
    ),
    "a vault that is out of order": Situation(
        "permissions",
        "Answer-503",
        "status.azure.com",
        lambda vault: vault.fault(op=["list", "get"], status=503, headers=LATER),
        options="timeout=4",
        words=["pw"],
    ),
    "a token that the vault does not take": Situation(
        "permissions",
        "TokenRejected",
        "status.azure.com",
        lambda vault: vault.fault(op=["list", "get"], reject="expired"),
        options="timeout=3",
    ),
}


@pytest.fixture(scope="module")
def shared() -> Iterator[VaultProcess]:
    with VaultProcess() as vault:
        yield vault


@pytest.fixture
def vault(shared: VaultProcess) -> VaultProcess:
    shared.clear_faults()
    shared.clear_secrets()
    shared.turn(identities=None, tenant="72f988bf-86f1-41af-91ab-2d7cd011db47", clock_offset=0.0)
    shared.set("pw", VALUE)
    return shared


@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS)
def test_what_is_broken_is_told_with_its_cure(vault: VaultProcess, situation: Situation) -> None:
    situation.broken(vault)
    found = check(vault, *situation.words, options=situation.options)
    told = found.of(situation.step)
    assert situation.code in told, found.output
    assert situation.cure in told[situation.code]["cure"]
    assert found.status == situation.status
    others = {"machine", "identity", "vault", "permissions"} - {situation.step, "machine"}
    if situation.step == "permissions":
        assert not found.of("identity")
        assert not found.of("vault")
    assert {one["step"] for one in found.findings} >= others - {"permissions"}, (
        "it goes on where that makes sense"
    )


def test_a_healthy_vault_is_well_and_says_whose_token_it_is(vault: VaultProcess) -> None:
    found = check(vault)
    assert found.status == 0, found.output
    assert not found.of("identity")
    assert not found.of("vault")
    assert not found.of("permissions")
    assert OID in found.output
    assert check(vault, "--json", "pw", json_too=False).status == 0, "options may stand between the two words"
    people = check(vault, "pw", json_too=False)
    assert people.status == 0
    assert "  ok    get pw: can be read\n" in people.output
    steps = [line for line in people.output.splitlines() if not line.startswith(" ")]
    assert steps == ["machine", "identity", "vault", "permissions"]


def test_the_cure_stands_under_what_failed(vault: VaultProcess) -> None:
    refuses("rbac")(vault)
    lines = check(vault, json_too=False).output.splitlines()
    failed = next(number for number, line in enumerate(lines) if line.startswith("  FAIL  list"))
    assert lines[failed + 1].strip().startswith("az role assignment create")


@pytest.mark.parametrize(
    ("words", "told"),
    [(("not a vault",), "no vault name"), (("https://vault.example", "no_name"), "no secret's name")],
)
def test_what_the_user_wrote_wrong_is_a_sentence_and_2(words: tuple[str, ...], told: str) -> None:
    vault, *more = words
    found = check(vault, *more, options="resource=https://example", json_too=False)
    assert found.status == 2
    assert told in found.output


def test_each_secret_of_a_configuration_is_tried(vault: VaultProcess, tmp_path: Path) -> None:
    vault.set("user", "u")
    file = tmp_path / "mount.toml"
    file.write_text(
        f"""vault = "{vault.url}"
resource = "{vault.resource}"
ca-file = "{vault.ca_file}"
imds-endpoint = "{vault.imds}"

[files."app/password"]
secret = "pw"

[files."app/user"]
secret = "user"

[files."app/gone"]
secret = "nosuch"
"""
    )
    done = subprocess.run(
        [*KEYVAULTFS, "check", "-o", f"config={file}", "--json"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    findings = json.loads(done.stdout)["findings"]
    assert {one["what"]: one["result"] for one in findings if one["what"].startswith("get")} == {
        "get pw": "ok",
        "get user": "ok",
        "get nosuch": "FAIL",
    }
    assert done.returncode == 1


def test_a_certificate_that_does_not_verify_is_told_with_its_issuer(
    vault: VaultProcess, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    words = "req -x509 -newkey rsa:2048 -nodes -keyout /dev/null -subj /CN=other -out"
    subprocess.run(["openssl", *words.split(" "), str(other)], check=True, capture_output=True)
    found = check(vault, options=f"ca_file={other}")
    told = found.of("vault")["CertificateError"]
    assert "keyvaultfs dev" in told["seen"]
    assert "openssl s_client" in told["cure"]
    assert found.status == 1


def test_who_speaks_no_tls_is_told(vault: VaultProcess) -> None:
    with Peer(says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as plain:
        found = check(f"https://127.0.0.1:{plain.port}", options=vault.mount_options())
    assert "NoTLS" in found.of("vault")


@pytest.mark.parametrize(
    ("answer", "code"),
    [(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "ProxyError"), (None, "ProxyOutOfReach")],
)
def test_a_proxy_in_the_way_is_told(vault: VaultProcess, answer: bytes | None, code: str) -> None:
    with contextlib.ExitStack() as stack:
        port = 1 if answer is None else stack.enter_context(Peer(says(answer))).port
        found = check(vault, options=f"https_proxy=http://127.0.0.1:{port}")
    told = found.of("vault")[code]
    assert str(port) in told["cure"] or answer is not None
    assert not found.of("identity"), "no token goes by the proxy"


NETWORK = (
    "ip link set lo up; ip route add local 203.0.113.0/24 dev lo;"
    " nft 'add table inet gone; add chain inet gone out { type filter hook output priority 0; };"
    " add rule inet gone out ip daddr 203.0.113.0/24 drop';"
    " ip route add prohibit 169.254.169.254/32; ip route add prohibit 198.51.100.0/24"
)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[VaultProcess]:
    """A vault in a network of its own, where some addresses are forbidden and others swallow what is sent."""
    with VaultProcess(network=NETWORK) as vault:
        vault.set("pw", VALUE)
        yield vault


def check_there(vault: VaultProcess, *words: Any, **kwargs: Any) -> Checked:
    with network_of(vault.pid):
        return check(*(words or (vault,)), **kwargs)


def test_a_route_that_forbids_the_token_endpoint_is_told(elsewhere: VaultProcess) -> None:
    found = check_there(elsewhere, options="imds_endpoint=http://169.254.169.254")
    told = found.of("identity")["EndpointProhibited"]
    assert "169.254.169.254" in told["seen"]
    assert "systemd.imds.network=locked" in told["cure"]
    assert any(one["what"] == "certificate" and one["result"] == "ok" for one in found.findings)


@pytest.mark.parametrize(
    ("address", "code"),
    [("203.0.113.5", "VaultSilent"), ("198.51.100.5", "VaultProhibited"), ("127.0.0.9", "VaultRefused")],
)
def test_a_network_that_does_not_lead_to_the_vault_is_told(
    elsewhere: VaultProcess, address: str, code: str
) -> None:
    options = f"{elsewhere.mount_options()},timeout=2"
    found = check_there(elsewhere, f"https://{address}", options=options)
    assert address in found.of("vault")[code]["seen"]
    assert not found.of("identity")
    assert found.status == 1


@pytest.mark.parametrize(
    ("lookups", "code"),
    [("files", "NoSuchName"), ("dns", "NameServerSilent")],
    ids=["no such name", "no server"],
)
def test_a_name_that_dns_does_not_know_is_told(
    elsewhere: VaultProcess, tmp_path: Path, lookups: str, code: str
) -> None:
    switch, servers = tmp_path / "nsswitch.conf", tmp_path / "resolv.conf"
    switch.write_text(f"hosts: {lookups}\n")
    servers.write_text("nameserver 203.0.113.53\noptions timeout:1 attempts:1\n")
    script = 'mount --bind "$1" /etc/nsswitch.conf; mount --bind "$2" /etc/resolv.conf; shift 2; exec "$@"'
    command = [*KEYVAULTFS, "check", "mytestkeyvault", "--json", "-o"]
    options = f"imds_endpoint={elsewhere.imds},timeout=3"
    with network_of(elsewhere.pid):
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-ec", script, "sh", switch, servers, *command, options],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1, done.stderr
    told = {one["code"]: one for one in json.loads(done.stdout)["findings"] if one["step"] == "vault"}
    assert "mytestkeyvault.vault.azure.net" in told[code]["seen"]


def test_the_walk_is_the_workers_users(elsewhere: VaultProcess) -> None:
    """A fence lets root through: only who becomes the worker's user sees what the worker will."""
    port = elsewhere.imds.rpartition(":")[2]
    rules = (
        "add table inet fence; add chain inet fence out { type filter hook output priority 0; };"
        f" add rule inet fence out meta skuid 1 tcp dport {port} reject with icmpx type admin-prohibited"
    )
    with network_of(elsewhere.pid):
        subprocess.run(["nft", rules], check=True)
    try:
        assert check_there(elsewhere, options="run_as=root").status == 0
        found = check_there(elsewhere, options="run_as=daemon")
    finally:
        with network_of(elsewhere.pid):
            subprocess.run(["nft", "delete table inet fence"], check=True)
    assert "EndpointProhibited" in found.of("identity")
    assert found.status == 1


@pytest.mark.parametrize("there", ["/dev/null", "/etc/hostname"])
def test_what_stands_in_place_of_the_fuse_device_is_not_taken_for_it(vault: VaultProcess, there: str) -> None:
    script = f'mount --bind {there} /dev/fuse; exec "$@"'
    command = [*KEYVAULTFS, "check", vault.url, "--json", "-o", vault.mount_options()]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script, "sh", *command],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    (told,) = [one for one in json.loads(done.stdout)["findings"] if one["what"] == "/dev/fuse"]
    assert told["code"] == "NoFuse"
    assert "modprobe fuse" in told["cure"]


def test_a_child_that_is_killed_is_a_failure(vault: VaultProcess) -> None:
    program = (
        "import os, sys; from keyvaultfs.cli.check import walk; walk.Walk.run = lambda self: os.kill(os.getpid(), 9);"
        "from keyvaultfs.cli.main import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "check", vault.url, "-o", vault.mount_options(), "--json"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "CheckFailed" in done.stdout


@pytest.mark.slow
def test_a_handshake_without_end_ends(vault: VaultProcess) -> None:
    with Peer(half_a_handshake) as drip:
        found = check(f"https://127.0.0.1:{drip.port}", options=vault.mount_options())
    assert "NoTLS" in found.of("vault")


def test_the_arc_agents_group_is_looked_at() -> None:
    found = check(
        "https://127.0.0.1:1", options="auth=arc,resource=https://x.example,imds_endpoint=http://127.0.0.1:1"
    )
    told = found.of("machine")
    assert {"NoArcAgent", "NotInAgentsGroup"} & set(told) or "may read the agent's key files" in found.output
    assert "EndpointRefused" in found.of("identity")
