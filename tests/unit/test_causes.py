"""One table of what can be wrong, and one line for each thing that is."""

from __future__ import annotations

import errno
import http.client
import re
import socket
import ssl
from typing import TYPE_CHECKING

import pytest
import urllib3

from keyvaultfs import causes
from keyvaultfs.cache.outage import Outage
from keyvaultfs.errors import BadAnswer, Disabled, NotFound, Refused, Unavailable
from keyvaultfs.log import Causes
from keyvaultfs.transport import failures

if TYPE_CHECKING:
    from pytest import LogCaptureFixture  # noqa: PT013 - a type

REFUSED = Refused("ForbiddenByRbac")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def known(clock: Clock, caplog: LogCaptureFixture) -> Causes:
    caplog.set_level("INFO", logger="keyvaultfs")
    return Causes(clock)


@pytest.mark.parametrize("row", causes.TABLE.values(), ids=lambda row: row.code)
def test_each_cause_has_a_code_that_may_be_logged_a_sentence_and_a_cure(row: causes.Cause) -> None:
    assert re.fullmatch("[A-Za-z0-9_.:-]+", row.code)
    assert row.sentence
    assert not row.sentence.endswith(".")
    assert "{" not in row.sentence
    assert row.cure
    assert "{" not in row.mend()
    assert "myvault" in row.mend(vault="myvault") or "{vault}" not in row.cure


@pytest.mark.parametrize(
    ("code", "row"),
    [
        ("Answer-404-NotFound", "Answer-404"),
        ("Answer-503", "Answer-5"),
        ("Answer-302", "Answer-"),
        ("Identity-invalid_request", "Identity-invalid_request"),
        ("Identity-500", "Identity-5"),
        ("Identity-NotJSON", "Identity-"),
        ("Identity-Library-CredentialUnavailableError", "Identity-Library-"),
        ("TimeoutOfAnotherKind", "TimeoutOfAnotherKind"),
        ("", ""),
    ],
)
def test_a_code_that_ends_in_what_the_network_said_has_the_row_of_its_beginning(code: str, row: str) -> None:
    assert causes.find(code).code == row


@pytest.mark.parametrize(
    ("exc", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, ""), "nothing listens"),
        (OSError(errno.ECONNREFUSED, ""), "nothing listens"),
        (OSError(errno.ECONNRESET, ""), "broke"),
        (OSError(errno.EPIPE, ""), "broke"),
        (OSError(errno.ECONNABORTED, ""), "broke"),
        (OSError(errno.EHOSTUNREACH, ""), "no route"),
        (OSError(errno.ENETUNREACH, ""), "no route"),
        (OSError(errno.ENETDOWN, ""), "no route"),
        (OSError(errno.EADDRNOTAVAIL, ""), "no route"),
        (OSError(errno.EACCES, ""), "forbids"),
        (OSError(errno.EPERM, ""), "forbids"),
        (OSError(errno.ETIMEDOUT, ""), "does not answer"),
        (OSError(errno.EMFILE, ""), "too many files"),
        (OSError("the name has no address"), "no connection"),
        (socket.gaierror(socket.EAI_NONAME, ""), "no such name"),
        (socket.gaierror(socket.EAI_NODATA, ""), "no such name"),
        (socket.gaierror(socket.EAI_AGAIN, ""), "no name server"),
        (socket.gaierror(socket.EAI_FAIL, ""), "cannot be looked up"),
        (ssl.SSLCertVerificationError(1, ""), "certificate"),
        (ssl.SSLError(1, ""), "no TLS"),
        (ssl.SSLEOFError(8, ""), "broke"),
        (http.client.RemoteDisconnected(""), "broke"),
        (http.client.IncompleteRead(b""), "broke"),
        (http.client.BadStatusLine(""), "broke"),
        (http.client.UnknownProtocol("HTTP/2"), "broke"),
        (http.client.UnknownTransferEncoding(), "broke"),
        (urllib3.exceptions.ProxyError("", OSError("Tunnel connection failed: 407")), "does not let"),
    ],
    ids=repr,
)
def test_each_way_in_which_a_network_fails_has_a_sentence(exc: Exception, words: str) -> None:
    assert words in causes.find(failures.word(exc)).sentence
    assert words in str(Unavailable(failures.word(urllib3.exceptions.ProtocolError("Broken", exc))))


def test_what_is_not_known_stands_in_capitals_in_a_cure() -> None:
    cure = causes.find("ForbiddenByRbac").mend(vault="v", oid="")
    assert "--assignee-object-id OID " in cure
    assert "--name v " in cure


def test_an_exception_says_what_the_table_says() -> None:
    assert REFUSED.hint == causes.find("ForbiddenByRbac").sentence
    assert Unavailable("NeverHeardOf").hint == ""
    assert BadAnswer("Answer-502-X", "my own").hint == "my own"


def test_a_refused_secret_is_named_once(known: Causes, clock: Clock, caplog: LogCaptureFixture) -> None:
    outage = Outage(known)
    for _ in range(5):
        outage.refused("pg-a", REFUSED, clock.now)
        outage.answered("pg-b", clock.now)
    assert caplog.messages == [f"vault refuses pg-a error=ForbiddenByRbac hint={REFUSED.hint!r}"]
    assert known.open() == {"vault refuses pg-a": 5}
    clock.now = 60
    outage.answered("pg-a", clock.now)
    assert caplog.messages[1:] == ["vault refuses pg-a ended times=5 seconds=60"]
    assert not known.open()


def test_thousands_of_refused_secrets_are_a_few_lines_and_a_number(
    known: Causes, clock: Clock, caplog: LogCaptureFixture
) -> None:
    outage = Outage(known)
    for number in range(3200):
        outage.refused(f"{number:0127}", Disabled("SecretDisabled"), clock.now)
        outage.failed(f"{number:0127}", BadAnswer("NotJSON"), clock.now)
    assert len(caplog.messages) < 40
    assert sorted(known.open().values()) == [3200, 3200]
    assert len(",".join(known.open())) < 2000
    assert len(repr(known.problems(vault="v"))) < 4000


def test_a_name_that_nobody_asks_for_any_more_makes_room(
    known: Causes, clock: Clock, caplog: LogCaptureFixture
) -> None:
    outage = Outage(known)
    for number in range(100):
        outage.refused(f"made-up-{number}", REFUSED, clock.now)
    clock.now = 7200
    outage.refused("pg-a", REFUSED, clock.now)
    assert "vault refuses pg-a" in caplog.messages[-1]


def test_an_absent_secret_is_refused_no_more(known: Causes, clock: Clock) -> None:
    outage = Outage(known)
    outage.refused("pg-a", REFUSED, clock.now)
    outage.refused("pg-a", NotFound("SecretNotFound"), clock.now)
    assert not known.open()


def test_a_problem_has_its_cure(known: Causes, clock: Clock) -> None:
    Outage(known).refused("pg-a", Disabled("SecretDisabled"), clock.now)
    clock.now = 3
    assert known.problems(vault="v") == [
        {
            "code": "SecretDisabled",
            "severity": "warn",
            "sentence": "vault refuses pg-a: the secret's current version is disabled",
            "cure": "az keyvault secret set-attributes --vault-name v --name pg-a --enabled true",
            "seconds": 3,
            "times": 1,
        }
    ]


def test_an_outage_is_one_cause_whoever_meets_it(
    known: Causes, clock: Clock, caplog: LogCaptureFixture
) -> None:
    outage = Outage(known)
    for number in range(1000):
        outage.failed(f"s{number}", Unavailable("Timeout"), clock.now)
    assert known.open() == {"vault unreachable": 1000}
    outage.answered("s1", clock.now)
    assert caplog.messages[-1] == "vault unreachable ended times=1000 seconds=0"
    assert not known.open()
