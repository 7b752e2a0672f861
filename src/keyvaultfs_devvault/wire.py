"""Records as the JSON of Key Vault, in its field order, and what callers send (PROTOCOL §3, §4)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from keyvaultfs_devvault import errors
from keyvaultfs_devvault.records import Attributes

if TYPE_CHECKING:
    from keyvaultfs_devvault.records import Deleted, Secret, Version

MAX_VALUE = 25_600  # characters
MAX_TAGS = 15
MAX_TAG = 512  # characters, of a name and of a value
MAX_CONTENT_TYPE = 255  # characters

STABLE = ("2016-10-01", "7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "2025-07-01", "2026-04-01")
PREVIEW = (
    "7.6-preview.2",
    "2025-06-01-preview",
    "2026-01-01-preview",
    "2026-03-01-preview",
    "2026-05-01-preview",
    "2026-07-01-preview",
)
_WITHOUT_DAYS = ("2016-10-01", "7.0")  # recoverableDays came with 7.1


class Render:
    """Makes the JSON of one answer.

    Args:
        origin: what ids begin with, such as ``https://127.0.0.1:8443``.
        api_version: of the request.
        days: how long a deleted secret is kept.
        purgeable: whether it can be purged before.
    """

    def __init__(self, origin: str, api_version: str, days: int, *, purgeable: bool) -> None:
        self.origin = origin
        self._api_version = api_version
        self._days = days
        self._level = (
            ("" if days == 90 else "Customized") + "Recoverable" + ("+Purgeable" if purgeable else "")
        )

    def identifier(self, name: str, version: str | None = None) -> str:
        """The id of a secret or of a version."""
        return f"{self.origin}/secrets/{name}" + (f"/{version}" if version else "")

    def bundle(self, secret: Secret, version: Version, *, value: bool) -> dict[str, Any]:
        """The answer to get, and without the value to update, recover and restore."""
        answer: dict[str, Any] = {"value": version.value} if value else {}
        answer.update(self._described(secret, version, version.id))
        if version.managed:
            answer["kid"] = f"{self.origin}/keys/{secret.name}/{version.id}"
        return answer

    def item(self, secret: Secret) -> dict[str, Any]:
        """A line of the list of secrets: the current version's attributes, but not its id."""
        return self._described(secret, secret.now, None)

    def version_item(self, secret: Secret, version: Version) -> dict[str, Any]:
        """A line of the list of versions."""
        return self._described(secret, version, version.id)

    def deleted(self, gone: Deleted) -> dict[str, Any]:
        """The answer to DELETE and to GET of a deleted secret."""
        return {**self._gone(gone), **self.bundle(gone.secret, gone.secret.now, value=False)}

    def deleted_item(self, gone: Deleted) -> dict[str, Any]:
        """A line of the list of deleted secrets."""
        return {**self._gone(gone), **self.item(gone.secret)}

    def _gone(self, gone: Deleted) -> dict[str, Any]:
        return {
            "recoveryId": f"{self.origin}/deletedsecrets/{gone.secret.name}",
            "deletedDate": gone.deleted,
            "scheduledPurgeDate": gone.purge,
        }

    def _described(self, secret: Secret, version: Version, shown: str | None) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        if version.content_type is not None:
            answer["contentType"] = version.content_type
        answer["id"] = self.identifier(secret.name, shown)
        if version.managed:
            answer["managed"] = True
        answer["attributes"] = self._attributes(version)
        if version.tags:
            answer["tags"] = version.tags
        return answer

    def _attributes(self, version: Version) -> dict[str, Any]:
        answer: dict[str, Any] = {"enabled": version.enabled}
        if version.nbf is not None:
            answer["nbf"] = version.nbf
        if version.exp is not None:
            answer["exp"] = version.exp
        answer.update(created=version.created, updated=version.updated, recoveryLevel=self._level)
        if self._api_version not in _WITHOUT_DAYS:
            answer["recoverableDays"] = self._days
        return answer | version.odd


def check_api_version(given: str | None) -> str:
    """The api-version itself.

    Raises:
        VaultError: 400 when it is missing or unknown.
    """
    if not given:
        raise errors.bad_parameter("The request is missing the required query parameter 'api-version'.")
    if given not in STABLE and given not in PREVIEW:
        raise errors.bad_version(given, STABLE[-1])
    return given


def check_maxresults(given: str | None) -> int | None:
    """The page size that was asked for, or None.

    Raises:
        VaultError: 400 outside 1..25.
    """
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:4]) <= 25):
        raise errors.bad_parameter("The value of 'maxresults' must be between 1 and 25.")
    return int(given)


def parse_body(raw: bytes) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        VaultError: 400 when it is none.
    """
    try:
        body = json.loads(raw or b"{}")
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise errors.bad_parameter("The request body is not a JSON object.")
    return body


def check_value(body: dict[str, Any]) -> str:
    """The value to set.

    Raises:
        VaultError: 400 when it is missing, no string, or longer than 25,600 characters.
    """
    value = body.get("value")
    if not isinstance(value, str):
        raise errors.bad_parameter("Property 'value' is required and must be a string.")
    if len(value) > MAX_VALUE:
        raise errors.too_large()
    return value


def parse_attributes(body: dict[str, Any]) -> Attributes:
    """What a PUT or PATCH says of a version; null is "not said".

    Raises:
        VaultError: 400 for a wrong type or a limit exceeded.
    """
    attributes = _typed(body, "attributes", dict) or {}
    content_type = _typed(body, "contentType", str)
    if content_type is not None and len(content_type) > MAX_CONTENT_TYPE:
        raise errors.bad_parameter("Property 'contentType' is longer than 255 characters.")
    return Attributes(
        content_type=content_type,
        tags=_tags(body),
        enabled=_typed(attributes, "enabled", bool),
        nbf=_typed(attributes, "nbf", int),
        exp=_typed(attributes, "exp", int),
    )


def _tags(body: dict[str, Any]) -> dict[str, str] | None:
    tags: dict[str, str] | None = _typed(body, "tags", dict)
    if tags is None:
        return None
    if not all(isinstance(value, str) for value in tags.values()):
        raise errors.bad_parameter("Property 'tags' must hold strings.")
    if len(tags) > MAX_TAGS:
        raise errors.bad_parameter("A secret may have at most 15 tags.")
    if any(len(text) > MAX_TAG for pair in tags.items() for text in pair):
        raise errors.bad_parameter("The name and the value of a tag may have at most 512 characters.")
    return tags


def _typed(body: dict[str, Any], name: str, kind: type) -> Any:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise errors.bad_parameter(f"Property '{name}' has the wrong type.")
    return value
