"""Cases of `dbshield policy test`: texts with the verdicts that a team expects of its policy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dbshield.cli.judging import encoded, json_lines, judge_by, opened, written_policy
from dbshield.config import Config
from dbshield.errors import DbshieldError
from dbshield.model import AccessLevel, Judgement
from dbshield.policy.judge import Judge
from dbshield.rule_ids import VERDICTS, members

LINE: Final = '{"id": …, "sql": "…", "expect": "allow|limit|hold|deny"}'
KEYS: Final = frozenset({"id", "sql", "expect", "rule", "access", "environment", "agent", "why"})
"""What a case may have; any other key is a mistake that would test something else than was meant."""

Whose = tuple[str | None, str | None, AccessLevel]
"""Environment, agent and access level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One expectation: `where` names its file and line; `rule` is an id or a family that has to be among those that speak."""

    where: str
    id: Any
    sql: str
    expect: str
    rule: str
    whose: Whose

    def holds(self, judgement: Judgement) -> bool:
        """Whether this is what was expected."""
        if said(judgement) != self.expect:
            return False
        return not self.rule or any(rule in members(self.rule) for rule in rules_of(judgement))


def said(judgement: Judgement) -> str:
    """The verdict that is meant, also where the policy only observes."""
    return (judgement.observed or judgement.verdict).word


def rules_of(judgement: Judgement) -> list[str]:
    return [*dict.fromkeys(finding.rule for finding in judgement.findings)]


def read_cases(path: Path, given: Whose) -> Iterator[Case]:
    """The cases of a file, `given` for what they do not say. Raises DbshieldError with the file and line where one is none."""
    seen: set[str] = set()
    with opened(path) as source:
        try:
            for number, value in json_lines(source, form=LINE):
                yield _case(path, number, value, given, seen)
        except DbshieldError as error:
            raise DbshieldError(f"{path}: {error.message}", hint=error.hint) from error


def _case(path: Path, number: int, value: dict[str, Any], given: Whose, seen: set[str]) -> Case:
    fault = _fault(value, seen)
    if fault:
        raise DbshieldError(f"line {number}: {fault}", hint=f"Each line is {LINE}; its keys are {', '.join(sorted(KEYS))}.")
    seen.add(repr(value["id"]))
    environment, agent, access = given
    return Case(
        where=f"{path}:{number}",
        id=value["id"],
        sql=value["sql"],
        expect=value["expect"],
        rule=value.get("rule", ""),
        whose=(value.get("environment", environment), value.get("agent", agent), AccessLevel(value.get("access", access))),
    )


def _fault(value: dict[str, Any], seen: set[str]) -> str:
    """Why it is no case; empty where it is one."""
    for key in sorted({*value} - KEYS):
        return f'"{key}" is no key of a case'
    if value.get("expect") not in VERDICTS:
        return f'"expect" is none of {", ".join(VERDICTS)}'
    if "rule" in value and not (isinstance(value["rule"], str) and members(value["rule"])):
        return '"rule" is no rule; there are ids such as DS201 and families such as DS2xx'
    if value.get("access", "read") not in [*AccessLevel]:
        return f'"access" is none of {", ".join(AccessLevel)}'
    if not all(isinstance(value.get(key, ""), str) for key in ("environment", "agent")):
        return '"environment" and "agent" are names'
    if repr(value["id"]) in seen:
        return f"the id {value['id']!r} is used twice"
    return ""


def judged(cases: Sequence[Case], settings: Config | None) -> Iterator[tuple[Case, Judgement]]:
    """Each case with its judgement. Raises DbshieldError where a case names what is not configured."""
    judges: dict[Whose, Judge] = {}
    for case in cases:
        judge = judges.get(case.whose)
        if judge is None:
            environment, agent, access = case.whose
            try:
                policy = written_policy(settings, environment=environment, agent=agent, access=access, freezes=False)
            except DbshieldError as error:
                raise DbshieldError(f"{case.where}: {error.message}", hint=error.hint) from error
            judge = judges[case.whose] = judge_by(policy, settings)
        yield case, judge.judge(encoded(case.sql))
