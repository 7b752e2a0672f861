"""What ``check`` found: a line for each step, and under what is wrong the cure as a command that can be pasted."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from keyvaultfs import causes
from keyvaultfs.causes import Severity
from keyvaultfs.errors import KeyVaultFSError

OK = "ok"


@dataclass(frozen=True, slots=True)
class Finding:
    """One step.

    Attributes:
        step: machine, identity, vault or permissions.
        what: which thing was looked at.
        result: ok, warn or FAIL.
        seen: what was seen, for people; never a token or a value.
        code: of the table of causes, "" when all is well.
        cure: a command that can be pasted.
    """

    step: str
    what: str
    result: str
    seen: str
    code: str = ""
    cure: str = ""


@dataclass(slots=True)
class Report:
    """Findings in their order, and the facts that cures speak of, such as the vault's name."""

    facts: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def ok(self, step: str, what: str, seen: str) -> None:
        """A step that is well."""
        self.findings.append(Finding(step, what, OK, seen))

    def bad(self, step: str, what: str, code: str, seen: str = "", *, as_bad: Severity | None = None) -> None:
        """A step that meets a cause: the sentence and the cure are the table's, and how bad it is unless said."""
        row = causes.find(code)
        result = as_bad or row.severity
        text = f"{row.sentence or code} ({seen})" if seen else row.sentence or code
        self.findings.append(Finding(step, what, result.value, text, code, row.mend(**self.facts)))

    def failed(self, step: str, what: str, exc: Exception, *, as_bad: Severity | None = None) -> None:
        """A step that an exception ended."""
        code = exc.cause if isinstance(exc, KeyVaultFSError) else "Timeout"
        if not causes.find(code).sentence and isinstance(exc, KeyVaultFSError):
            # A word of the HTTP library's, such as ConnectionResetError.
            self.bad(step, what, "NoAnswer", code, as_bad=as_bad)
        else:
            self.bad(step, what, code, as_bad=as_bad)

    @property
    def well(self) -> bool:
        """Whether no step failed."""
        return all(finding.result != Severity.FAIL.value for finding in self.findings)

    def text(self) -> str:
        """For people."""
        lines: list[str] = []
        step = ""
        for finding in self.findings:
            if finding.step != step:
                step = finding.step
                lines.append(step)
            lines.append(f"  {finding.result:<4}  {finding.what}: {finding.seen}")
            if finding.cure:
                lines.append(f"        {finding.cure}")
        return "\n".join(lines) + "\n"

    def json(self) -> str:
        """For programs."""
        rows = [asdict(finding) for finding in self.findings]
        return json.dumps({"ok": self.well, "findings": rows}, indent=2, ensure_ascii=False) + "\n"
