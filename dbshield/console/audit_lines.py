"""An entry of the audit as a line that a person reads: who, what, and what was said of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from dbshield.control import audit_values
from dbshield.control.audit_chain import Link

SHOWN: Final = 300
"""Characters of a statement on one line; all of it is on the entry's own page."""
ELSEWHERE: Final = frozenset(
    {"ts", "event", "agent", "environment", "person", "verdict", "rules", "statement", "effects", "database", "session"}
)
"""What a line shows in a place of its own, or leaves out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One entry. `verdict` may be that of a drill; `observed` is the one that a policy which only observes would have
    carried out; `statement` says whether `what` is a statement of an agent."""

    id: int
    at: datetime
    kind: str
    who: str
    environment: str
    verdict: str
    observed: str
    rules: tuple[str, ...]
    what: str
    statement: bool


def line_of(link: Link) -> Line:
    said = said_in(link)
    statement = said.get("statement")
    if isinstance(statement, str) and statement:
        what = "  ".join([statement, ", ".join(audit_values.lines(said))])
    elif link.kind == "statement":
        what = ", ".join(map(str, said.get("effects") or ()))
    else:
        what = ", ".join(f"{name} {_word(value)}" for name, value in said.items() if name not in ELSEWHERE and value is not None)
    return Line(
        id=link.id,
        at=link.at,
        kind=link.kind,
        who=link.person or link.agent or str(said.get("by") or said.get("user") or ""),
        environment=link.environment or "",
        verdict=link.verdict or "",
        observed=str(said.get("observed") or ""),
        rules=link.rules or (),
        what=_short(what),
        statement=link.kind == "statement",
    )


def said_in(link: Link) -> Mapping[str, Any]:
    """The entry's fields; none where it is not what it should be, which a verification tells."""
    try:
        said = json.loads(link.entry)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…"
