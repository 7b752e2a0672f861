"""What can be wrong: for each code a severity, a sentence and a cure. The log, ``status`` and ``check`` say the same.

A code is the short fixed word of an exception (`KeyVaultFSError.cause`), so whoever raises gives the word alone. Some
words end in what the network said, such as ``Answer-502``: for those the longest row that they begin with holds.
"""

from __future__ import annotations

from collections import defaultdict
from enum import StrEnum
from typing import NamedTuple


class Severity(StrEnum):
    """How ``check`` marks a step that meets the cause."""

    WARN = "warn"
    FAIL = "FAIL"


class Cause(NamedTuple):
    """A row of the table.

    Attributes:
        code: letters, digits and ``_ - . :`` only.
        sentence: what is wrong, for people, without a full stop; "" where the code says all that is known.
        cure: a command that can be pasted, or a sentence. Names in braces are filled in by `mend`.
    """

    code: str
    severity: Severity
    sentence: str
    cure: str = ""

    def mend(self, **facts: str) -> str:
        """The cure with `facts` such as ``vault`` and ``oid``; what is not known stands in capitals."""
        known = {key: value for key, value in facts.items() if value}
        return self.cure.format_map(_Facts(known)) if self.cure else ""


class _Facts(defaultdict[str, str]):
    def __init__(self, known: dict[str, str]) -> None:
        super().__init__(str, known)

    def __missing__(self, key: str) -> str:
        return key.upper().replace("_", "-")


_WARN, _FAIL = Severity.WARN, Severity.FAIL

_SCOPE = '"$(az keyvault show --name {vault} --query id --output tsv)"'
_GRANT = (
    'az role assignment create --role "Key Vault Secrets User" --assignee-object-id {oid}'
    f" --assignee-principal-type ServicePrincipal --scope {_SCOPE}"
)
_POLICY = "az keyvault set-policy --name {vault} --object-id {oid} --secret-permissions get list"
_WAIT = "nothing: it passes by itself (https://status.azure.com shows what is known of outages)"
_CALLER = (
    "az keyvault network-rule add --name {vault} --ip-address {address}"
    "    # the machine's public address; or its subnet: --vnet-name {vnet} --subnet {subnet}"
)
_ROUTE = "ip route get \"$(getent ahosts {host} | cut -d' ' -f1 | head -n1)\"; nft list ruleset"
_PROXY = "curl --verbose --output /dev/null {url}"

_ROWS = (
    # What the vault says with a 403 (PROTOCOL §5).
    Cause("ForbiddenByRbac", _FAIL, 'the identity lacks a role such as "Key Vault Secrets User" on the vault', _GRANT),
    Cause("AccessDenied", _FAIL, "the vault's access policy does not give the identity get and list", _POLICY),
    Cause(
        "ForbiddenByPolicy",
        _FAIL,
        "the vault's policy wants an application to act for a user, and a machine acts for none",
        _POLICY,
    ),
    Cause("SecretDisabled", _WARN, "the secret's current version is disabled", "az keyvault secret set-attributes"
          " --vault-name {vault} --name {name} --enabled true"),
    Cause("NotShown", _FAIL, "the mount does not show it: include=, exclude= or tags= leave it out",
          "az keyvault secret show --vault-name {vault} --name {name} --query tags"),
    Cause("NothingShown", _WARN, "the mount shows none of them: they are disabled, or left out by include=, exclude= or"
          " tags=", "az keyvault secret list --vault-name {vault} --query '[].[name, attributes.enabled, tags]'"),
    Cause("ForbiddenByFirewall", _FAIL, "the vault's firewall does not let this machine in", _CALLER),
    Cause(
        "ForbiddenByConnection",
        _FAIL,
        "the vault is closed to public networks, and this machine did not come by its private endpoint",
        "getent ahosts {host}    # must be the private endpoint's address: link the zone"
        " privatelink.vaultcore.azure.net to this machine's network",
    ),
    Cause("SecretNotFound", _FAIL, "there is no secret of that name", "az keyvault secret list --vault-name {vault}"
          " --query '[].name'    # if it was deleted: az keyvault secret recover --vault-name {vault} --name {name}"),
    # Tokens that the vault does not take.
    Cause("Unauthorized", _FAIL, "the vault rejects the identity's new token too", "az keyvault show --name {vault}"
          " --query properties.tenantId    # must be the identity's tenant, {tid}"),
    Cause("AKV10022", _FAIL, "the vault wants tokens for another resource: check the option resource=",
          "keyvaultfs check {vault} -o resource=https://vault.azure.net"),
    Cause("AKV10032", _FAIL, "the identity is of another tenant than the vault",
          "az keyvault update --name {vault} --set properties.tenantId={tid}    # or assign an identity of its tenant"),
    Cause("AKV10046", _WARN, "the vault did not find the key that tokens are signed with, for a moment", _WAIT),
    Cause("TokenRejected", _FAIL, "the vault rejects the token, and the identity endpoint has no newer one", _WAIT),
    Cause("ForeignChallenge", _FAIL, "the vault's challenge names a domain that is not the vault's", _PROXY),
    Cause("ChallengeMissing", _FAIL, "a 401 without Key Vault's challenge: is a proxy in between?", _PROXY),
    # Ours.
    Cause("Audit-ENOSPC", _WARN, "the disk of the audit file is full", "df --output=target,avail /var/log"),
    Cause("Audit-ETIMEDOUT", _WARN, "the disk of the audit file does not answer: records wait, while there is room",
          "findmnt --target /var/log    # and what it waits for"),
    Cause("Audit-EAGAIN", _WARN, "the journal does not take records", "systemctl restart systemd-journald"),
    Cause("Audit-", _WARN, "the audit file or the journal takes no records", "systemctl reload {unit}"),
    # Answers that are no answers.
    Cause("Answer-400", _FAIL, "the vault does not understand the request: check the option api_version=",
          "keyvaultfs check {vault} -o api_version=7.4"),
    Cause("Answer-404", _FAIL, "the answer is not this vault's: has its name moved, or is a proxy in between?", _PROXY),
    Cause("Answer-429", _WARN, "the vault is asked too often, by this machine and others together",
          "az monitor metrics list --metric ServiceApiHit --resource " + _SCOPE),
    Cause("Answer-5", _WARN, "the vault, or a proxy before it, is out of order", _WAIT),
    Cause("Answer-", _FAIL, "the answer is not Key Vault's: is a proxy in between?", _PROXY),
    Cause("NotJSON", _FAIL, "not Key Vault's own answer", _PROXY),
    Cause("NotAnObject", _FAIL, "not Key Vault's own answer", _PROXY),
    Cause("NotTheSecret", _FAIL, "about another secret", _PROXY),
    Cause("NotAnIdentifier", _FAIL, "it names no secret", _PROXY),
    Cause("NotUnicode", _FAIL, "the value is no text", _PROXY),
    Cause("NotAPage", _FAIL, "it is no page of a listing", _PROXY),
    Cause("ForeignNextLink", _FAIL, "a page of the listing leads on to somebody else than the vault", _PROXY),
    Cause("LoopingNextLink", _FAIL, "the pages of the listing lead in a circle", _PROXY),
    Cause("EndlessListing", _FAIL, "the listing has no end, or more than 64 MiB", _PROXY),
    Cause("VersionChanged", _FAIL, "the vault gave other bytes for the same version id", _PROXY),
    Cause("Compressed", _FAIL, "the answer is compressed, which nobody asked for: is a proxy in between?", _PROXY),
    Cause("TooLarge", _FAIL, "the answer is larger than any of Key Vault's", _PROXY),
    # The way to the vault.
    Cause("Timeout", _FAIL, "no answer within the timeout", _PROXY),
    Cause("CircuitOpen", _WARN, "the vault has not answered for a while; it is asked every few seconds", _PROXY),
    Cause("Throttled", _WARN, "the vault asked to be left alone for a while", "az monitor metrics list"
          " --metric ServiceApiHit --resource " + _SCOPE),
    Cause("TimeoutError", _FAIL, "an address of the name does not answer", _PROXY),
    *(
        Cause(code, _FAIL, "the connection broke before there was an answer", _PROXY)
        for code in (
            "BadStatusLine", "BrokenPipeError", "ConnectionAbortedError", "ConnectionResetError", "IncompleteRead",
            "InvalidChunkLength", "LineTooLong", "ProtocolError", "RemoteDisconnected", "SSLEOFError",
            "SSLZeroReturnError", "UnknownProtocol", "UnknownTransferEncoding",
        )
    ),
    Cause("ConnectionRefusedError", _FAIL, "nothing listens at the address, or a firewall refuses connections to it",
          _PROXY),
    Cause("PermissionError", _FAIL, "a route or a firewall of this machine or its network forbids the connection",
          _ROUTE),
    *(
        Cause(code, _FAIL, "no route leads from this machine to the address", _ROUTE)
        for code in ("EHOSTUNREACH", "ENETUNREACH", "ENETDOWN", "EADDRNOTAVAIL")
    ),
    *(
        Cause(code, _FAIL, "too many files are open, so that no connection can be made", "systemctl reload {unit}")
        for code in ("EMFILE", "ENFILE")
    ),
    Cause("OSError", _FAIL, "no connection can be made", _PROXY),
    Cause("gaierror", _FAIL, "the name cannot be looked up", "resolvectl status; getent ahosts {host}"),
    Cause("SSLError", _FAIL, "no TLS connection can be made: is a proxy in between?",
          "openssl s_client -connect {host}:{port} </dev/null"),
    Cause("CertificateError", _FAIL, "the certificate does not verify: is a proxy in between whose own ca_file= names?",
          "openssl s_client -connect {host}:{port} -servername {host} </dev/null"),
    Cause("ProxyError", _FAIL, "the proxy of https_proxy= does not let the request through", _PROXY),
    Cause("TooManyNames", _WARN, "a program makes up names, for each of which the vault would have to be asked",
          "ps -o pid,user,args -u {uid}    # and what it looks for: fatrace, or audit=journal"),
    Cause("TooManyAtOnce", _WARN, "so many at once are for root alone, lest one user take the mount from others",
          "ps -o pid,user,args -u {uid}"),
    # The token endpoint (PROTOCOL §7).
    Cause(
        "Identity-invalid_request",
        _FAIL,
        "the machine has no such managed identity: assign one, or name another with client_id=",
        "az vm identity assign --name {machine} --resource-group {resource_group}"
        "    # or one of: az vm identity show --name {machine} --resource-group {resource_group}",
    ),
    Cause("Identity-SeveralIdentities", _FAIL, "the machine has several managed identities: name one with client_id=",
          "az vm identity show --name {machine} --resource-group {resource_group} --query userAssignedIdentities"
          "    # and: keyvaultfs check {vault} -o client_id={client_id}"),
    Cause("Identity-Library-", _FAIL, "the library azure-identity finds no credential that works here",
          "az login    # or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET; or leave auth= out"),
    Cause("Identity-invalid_resource", _FAIL, "the option resource= names what the identity's tenant does not know",
          "keyvaultfs check {vault} -o resource=https://vault.azure.net"),
    Cause("Identity-400", _FAIL, "the identity endpoint refused the request", "keyvaultfs check {vault}"),
    Cause("Identity-404", _WARN, "the identity endpoint is being updated", "nothing: it passes within 70 seconds"),
    Cause("Identity-410", _WARN, "the identity endpoint is being updated", "nothing: it passes within 70 seconds"),
    Cause("Identity-429", _WARN, "the identity endpoint is asked too often, by any program of this machine",
          "ss --tcp --processes dst 169.254.169.254"),
    Cause("Identity-5", _WARN, "the identity endpoint is out of order", _WAIT),
    Cause("Identity-ArcNoChallenge", _FAIL, "what answers at imds_endpoint is not Azure Arc's agent: does it run?",
          "azcmagent show"),
    Cause("Identity-ArcKeyForbidden", _FAIL, "the worker's user may not read the key files of Azure Arc's agent",
          "usermod --append --groups himds keyvaultfs    # and mount again"),
    Cause("Identity-ArcKeyRefused", _FAIL, "Azure Arc's agent names a file that is not one of its keys: it must be a"
          " regular file *.key of at most 4 KiB in the folder of the option arc_tokens=", "azcmagent show"),
    Cause("Identity-ArcOtherIdentity", _FAIL, "Azure Arc's agent gave the token of another identity than was named",
          "azcmagent version    # older ones know the machine's own identity only"),
    Cause("Identity-Expired", _FAIL, "the token endpoint hands out a token that has ended", "timedatectl status"),
    Cause(
        "Identity-",
        _FAIL,
        "what answers at imds_endpoint is not Azure's token endpoint: is this an Azure virtual machine?",
        "curl --noproxy '*' --header Metadata:true {imds}/metadata/instance?api-version=2021-02-01",
    ),
    Cause("TokenTimeout", _FAIL, "the identity endpoint does not answer: is it fenced off, or is this not Azure?",
          "curl --noproxy '*' --header Metadata:true {imds}/metadata/instance?api-version=2021-02-01"),
    Cause("EndpointProhibited", _FAIL, "a route or a firewall forbids the token endpoint to this user",
          "ip route get {endpoint}; nft list ruleset    # systemd 261 and later: systemd.imds.network=locked does it;"
          " let the worker's user through"),
    Cause("EndpointRefused", _FAIL, "nothing listens at the token endpoint: is this an Azure machine?",
          "curl --noproxy '*' --header Metadata:true {imds}/metadata/instance?api-version=2021-02-01"),
    Cause("EndpointNoName", _FAIL, "the name in imds_endpoint= cannot be looked up", "getent ahosts {endpoint}"),
    # The way to the vault, step by step.
    Cause("NoSuchName", _FAIL, "DNS knows no such name: a typo, or a private DNS zone that is not linked",
          "az keyvault list --query '[].properties.vaultUri'    # or link privatelink.vaultcore.azure.net:"
          " az network private-dns link vnet list --resource-group {resource_group}"
          " --zone-name privatelink.vaultcore.azure.net"),
    Cause("NameServerSilent", _FAIL, "no name server answers", "resolvectl status; getent ahosts {host}"),
    Cause("VaultProhibited", _FAIL, "a route or a firewall of this machine or its network forbids the vault",
          _ROUTE),
    Cause("VaultRefused", _FAIL, "the vault's address refuses connections", "getent ahosts {host}    # is it right?"),
    Cause("VaultSilent", _FAIL, "the vault's address does not answer: a firewall drops what is sent to it",
          "az network nsg rule list --resource-group {resource_group} --nsg-name {nsg} --output table"
          "    # outbound to AzureKeyVault, port {port}"),
    Cause("ProxyOutOfReach", _FAIL, "the proxy of https_proxy= is out of reach",
          "curl --verbose --proxy {proxy} --output /dev/null {url}"),
    Cause("NoTLS", _FAIL, "who answers there does not speak TLS", "openssl s_client -connect {host}:{port} </dev/null"),
    Cause("NoAnswer", _FAIL, "the connection broke before there was an answer", _PROXY),
    Cause("ClockDiffers", _WARN, "this machine's clock is not the vault's", "timedatectl set-ntp true"),
    # The machine.
    Cause("NoFuse", _FAIL, "the kernel has no FUSE", "modprobe fuse    # in a container: --device /dev/fuse"),
    Cause("FuseForbidden", _FAIL, "/dev/fuse cannot be opened", "chmod 0666 /dev/fuse    # in a container:"
          " --device /dev/fuse --cap-add SYS_ADMIN"),
    Cause("NoFusermount", _FAIL, "users cannot mount without fusermount3", "apt-get install fuse3"),
    Cause("NoAllowOther", _WARN, "a user's mount is for that user alone",
          "echo user_allow_other | sudo tee --append /etc/fuse.conf"),
    Cause("NoMountHelper", _WARN, "mount(8) and fstab do not know the type keyvaultfs",
          'ln -s "$(command -v mount.keyvaultfs)" /sbin/mount.keyvaultfs'),
    Cause("NoUser", _FAIL, "the user that the worker becomes does not exist; without run_as= it stays root",
          "useradd --system --no-create-home --shell /usr/sbin/nologin {user}"),
    Cause("MemoryLimited", _WARN, "values may reach the swap: locked memory is limited",
          "echo '{user} - memlock unlimited' | sudo tee /etc/security/limits.d/keyvaultfs.conf"),
    Cause("NoResend", _WARN, "before Linux 6.9 a read under way fails when a worker dies", "uname --kernel-release"),
    Cause("NoFence", _WARN, "every user of this machine can ask for its identity's token",
          "systemctl enable --now keyvaultfs-imds.service"),
    Cause("FenceLost", _WARN, "the fence of the token endpoint was set up, and is not in force",
          "systemctl restart keyvaultfs-imds.service"),
    Cause("NoArcAgent", _FAIL, "Azure Arc's agent is not installed", "azcmagent show    # or leave auth=arc out"),
    Cause("NotInAgentsGroup", _FAIL, "the worker's user may not read the key files of Azure Arc's agent",
          "usermod --append --groups himds {user}"),
    Cause("CheckFailed", _FAIL, "the check itself came to an end too early", "keyvaultfs check {vault} --json"),
)  # fmt: skip

TABLE = {row.code: row for row in _ROWS}
_STEMS = sorted((code for code in TABLE if "-" in code), key=len, reverse=True)


def find(code: str) -> Cause:
    """The row of a code; a row without a sentence for a code that has none."""
    if code in TABLE:
        return TABLE[code]
    stem = next((stem for stem in _STEMS if code.startswith(stem)), None)
    return Cause(code, _WARN, "") if stem is None else TABLE[stem]
