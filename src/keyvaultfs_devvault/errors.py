"""The error answers of Key Vault, word for word (PROTOCOL §5)."""

from __future__ import annotations

from typing import Any

_RECOVER = (
    "A secret with (name/id) {} was not found in this key vault. If you recently deleted this secret you may"
    " be able to recover it using the correct recovery command. For help resolving this issue, please see"
    " https://go.microsoft.com/fwlink/?linkid=2125182"
)
_CALLER = "appid={appid};oid={oid};iss=https://sts.windows.net/{tid}/"


class VaultError(Exception):
    """An answer that is not 200, as an exception.

    Args:
        status: the HTTP status.
        code: `error.code` of the body.
        message: `error.message` of the body.
        inner: `error.innererror.code`, or None to leave it out.
    """

    def __init__(self, status: int, code: str, message: str, inner: str | None = None) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code
        self.message = message
        self.inner = inner

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.inner is not None:
            error["innererror"] = {"code": self.inner}
        return {"error": error}


class TokenError(VaultError):
    """An error in the token endpoint's words, which are not Key Vault's."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(status, error, description)

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        return {"error": self.code, "error_description": self.message}


def bad_parameter(message: str, inner: str | None = None) -> VaultError:
    """400: the request cannot be understood."""
    return VaultError(400, "BadParameter", message, inner)


def invalid_name(name: str) -> VaultError:
    """400: not `^[0-9a-zA-Z-]{1,127}$`."""
    return bad_parameter(f"The request URI contains an invalid name: {name}")


def bad_version(version: str, newest: str) -> VaultError:
    """400: an api-version that nobody knows."""
    return bad_parameter(
        f"The specified version ({version}) is not recognized."
        f" Consider using the latest supported version ({newest})."
    )


def bad_operation(method: str, operation: str) -> VaultError:
    """400: a last path segment that is not a version id is read as an operation."""
    return bad_parameter(f"Method {method} does not allow operation '{operation}'")


def too_large() -> VaultError:
    """400: a value of more than 25,600 characters."""
    return bad_parameter(
        "Secret is beyond the maximum permitted length of 25600 characters.", "SecretTooLarge"
    )


def bad_backup() -> VaultError:
    """400: a backup blob that is not ours; the code has spaces."""
    return VaultError(400, "Malformed backup blob", "Backup blob contains invalid or corrupt version.")


def unauthorized(message: str) -> VaultError:
    """401; the caller adds the challenge."""
    return VaultError(401, "Unauthorized", message)


NO_TOKEN = "AKV10000: Request is missing a Bearer or PoP token."  # noqa: S105 - a message
TOKEN_EXPIRED = "[TokenExpired] Error validating token: 'S2S12086'."  # noqa: S105 - a message


def wrong_audience(expected: str, found: str) -> str:
    """The message of a 401 for a token that is meant for somebody else."""
    return f"AKV10022: Invalid audience. Expected {expected}, found: {found}."


def wrong_issuer(tenant: str, found: str) -> str:
    """The message of a 401 for a token of another tenant."""
    return (
        f"AKV10032: Invalid issuer. Expected one of https://sts.windows.net/{tenant}/,"
        f" https://login.microsoftonline.com/{tenant}/v2.0, found https://sts.windows.net/{found}/."
    )


def unknown_key(header: str) -> str:
    """The message of the transient 401: the same token works a moment later.

    Args:
        header: the token's first part, still encoded; it holds no secret.
    """
    return f"AKV10046: Unable to resolve the key used for signature validation. EncodedJwtHeader: '{header}'"


def disabled(operation: str = "get") -> VaultError:
    """403: about this one secret, not about the caller."""
    message = f"Operation {operation} is not allowed on a disabled secret."
    return VaultError(403, "Forbidden", message, "SecretDisabled")


def purge_protected() -> VaultError:
    """403: the vault keeps deleted secrets until their date."""
    message = 'Operation "purge" is not allowed because purge protection is enabled for this vault.'
    return VaultError(403, "Forbidden", message)


def denied(kind: str, caller: dict[str, str], vault: str, operation: str = "get") -> VaultError:
    """403 about the caller or the network.

    Args:
        kind: policy, rbac, firewall, connection, obo, or disabled (of the secret).
        caller: appid, oid and tid of the identity.
        vault: the vault's name.
        operation: the permission that is missing.

    Raises:
        KeyError: for another kind.
    """
    who = _CALLER.format(**caller)
    action = "readMetadata" if operation == "list" else f"{operation}Secret"
    texts = {
        "policy": (
            "AccessDenied",
            (
                f"The user, group or application '{who}' does not have secrets {operation} permission on key"
                f" vault '{vault};location=westeurope'. For help resolving this issue, please see"
                " https://go.microsoft.com/fwlink/?linkid=2125287"
            ),
        ),
        "rbac": (
            "ForbiddenByRbac",
            (
                "Caller is not authorized to perform action on resource.\r\nIf role assignments, deny"
                " assignments or role definitions were changed recently, please observe propagation time.\r\n"
                f"Caller: {who}\r\nAction: 'Microsoft.KeyVault/vaults/secrets/{action}/action'\r\n"
                "Resource: '/subscriptions/0/resourcegroups/dev/providers/microsoft.keyvault/vaults/"
                f"{vault}'\r\nAssignment: (not found)\r\nDenyAssignmentId: null\r\n"
                f"DecisionReason: 'DeniedWithNoValidRBAC' \r\nVault: {vault};location=westeurope\r\n"
            ),
        ),
        "firewall": (
            "ForbiddenByFirewall",
            (
                "Client address is not authorized and caller is not a trusted service.\r\n"
                f"Client address: 127.0.0.1\r\nCaller: {who}\r\nVault: {vault};location=westeurope"
            ),
        ),
        "connection": (
            "ForbiddenByConnection",
            (
                "Public network access is disabled and request is not from a trusted service nor via an"
                f" approved private link.\r\nCaller: {who}\r\nVault: {vault};location=westeurope"
            ),
        ),
        "obo": (
            "ForbiddenByPolicy",
            "The policy requires the caller to use on-behalf-of (OBO) flow.",
        ),
        "disabled": ("SecretDisabled", "Operation get is not allowed on a disabled secret."),
    }
    inner, message = texts[kind]
    return VaultError(403, "Forbidden", message, inner)


def not_found(what: str) -> VaultError:
    """404 for a name, or for `name/version`."""
    return VaultError(404, "SecretNotFound", _RECOVER.format(what))


def deleted_not_found(name: str) -> VaultError:
    """404 of GET and DELETE /deletedsecrets/NAME."""
    return VaultError(404, "SecretNotFound", f"Deleted Secret not found: {name}")


def is_deleted(name: str) -> VaultError:
    """409: the name belongs to a secret that can be recovered."""
    message = (
        f"Secret {name} is currently in a deleted but recoverable state, and its name cannot be reused;"
        " in this state, the secret can only be recovered or purged."
    )
    return VaultError(409, "Conflict", message, "ObjectIsDeletedButRecoverable")


def being_deleted() -> VaultError:
    """409: in the seconds after a DELETE."""
    return VaultError(409, "Conflict", "Secret is currently being deleted.", "ObjectIsBeingDeleted")


def restore_conflict(identifier: str) -> VaultError:
    """409: a backup is restored onto a name in use."""
    message = (
        f"There was a conflict restoring the secret '{identifier}'."
        " The name is in use, or was, and is recoverable."
    )
    return VaultError(409, "Conflict", message)
