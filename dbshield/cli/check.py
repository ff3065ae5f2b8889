"""`dbshield check`: judges SQL without a database, by the rules that the proxy applies, and explains the verdict.

Without a database nothing is known of functions other than PostgreSQL's own, so a call of any other is held (DS606).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from dbshield.cli.common import ConfigOption, load_with_trial
from dbshield.cli.judging import (
    AccessOption,
    PolicyAgentOption,
    PolicyEnvironmentOption,
    encoded,
    json_lines,
    judge_by,
    opened,
    written_policy,
)
from dbshield.cli.output import answer, headline, remark, say, table, visible
from dbshield.model import AccessLevel, Deny, Effect, Hold, Judgement, Limit
from dbshield.policy.judge import Judge
from dbshield.rule_ids import DEFAULTS
from dbshield.session.refusal import refusal
from dbshield.sqltext.explain import Explained, explain
from dbshield.sqltext.statement import Unreadable
from dbshield.wire.backend import ErrorResponse

FINE, STOPPED, NO_VERDICT = 0, 1, 2
HEADER = 5
"""Bytes of a message before its payload: type and length."""
SHOWN = 100
"""Statements that a person is shown side by side; the others are judged as well."""
LINE = '{"id": …, "sql": "…"}'


def check(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="The SQL to judge; standard input without it, or for `-`.")
    ] = None,
    *,
    access: AccessOption = AccessLevel.MIGRATE,
    environment: PolicyEnvironmentOption = None,
    agent: PolicyAgentOption = None,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help=f"Read a line {LINE} for each text, and answer each with a line.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Answer with one JSON value.")] = False,
    config: ConfigOption = None,
) -> None:
    """Judge SQL without a database, and explain the verdict: what both readers see, which rules spoke, what the agent reads.

    Exit code 0: an agent may run all of it. 1: some of it is held or denied. 2: no verdict, because something cannot be read.

    \b
    Examples:
      echo "delete from orders" | dbshield check --access write
      dbshield check migrations/0001.sql --environment production --agent claude
      dbshield check --jsonl --access read < statements.jsonl
    """
    settings = load_with_trial(config) if environment is not None or config is not None else None
    policy = written_policy(settings, environment=environment, agent=agent, access=access)
    judge = judge_by(policy, settings)
    whose = f"access level {access}"
    if environment is not None:
        whose += f", {environment}" + (f", {agent}" if agent is not None else "")
    with opened(file) as source:
        stopped = _lines(judge, source) if jsonl else _whole(judge, source.read(), whose, json=json)
    raise typer.Exit(STOPPED if stopped else FINE)


def _whole(judge: Judge, text: bytes, whose: str, *, json: bool) -> bool:
    judgement = judge.judge(text)
    readers: Sequence[Explained] = ()
    fault = ""
    try:
        readers = explain(text, most=None if json else SHOWN) if len(text) <= judge.max_statement_bytes else ()
    except Unreadable as error:
        fault = error.message
    if json:
        answer({**report(judgement), **_explanation(judgement, readers, fault), **_limits(judge)})
    else:
        _tell(judgement, readers, fault, judge, whose)
    return stops(judgement)


def _lines(judge: Judge, source: BinaryIO) -> bool:
    """Answer line by line, as they come: whoever asks may wait for each answer."""
    stopped = False
    for _, case in json_lines(source, form=LINE):
        judgement = judge.judge(encoded(case["sql"]))
        answer({"id": case["id"], **report(judgement)})
        sys.stdout.flush()
        stopped = stopped or stops(judgement)
    return stopped


def stops(judgement: Judgement) -> bool:
    """True when the text does not go through as it is."""
    return isinstance(judgement.verdict, (Hold, Deny))


def report(judgement: Judgement) -> dict[str, Any]:
    """A judgement for machines. `observed` is there only where the policy observes and would have said something else."""
    observed = {"observed": judgement.observed.word} if judgement.observed is not None else {}
    return {
        "verdict": judgement.verdict.word,
        **observed,
        "findings": [
            {
                "rule": finding.rule,
                "name": finding.name,
                "verdict": finding.verdict.word,
                "message": finding.message,
                "hint": finding.hint,
            }
            for finding in judgement.findings
        ],
        "effects": [_effect(effect) for effect in judgement.effects],
    }


def _effect(effect: Effect) -> dict[str, Any]:
    return {
        "operation": effect.operation,
        "kind": effect.kind,
        "name": str(effect.name),
        "flags": sorted(effect.flags),
    }


def _explanation(judgement: Judgement, readers: Sequence[Explained], fault: str) -> dict[str, Any]:
    return {
        "statements": judgement.statements,
        "counted": [counted.statement for counted in judgement.counted],
        "readers": [
            {
                "kind": one.kind,
                "effects": [_effect(effect) for effect in one.effects],
                "second_kind": one.second_kind or None,
                "second_effects": [_effect(effect) for effect in one.second_effects],
                "asked": one.asked,
                "agree": one.agrees if one.asked else None,
                "fault": one.fault or None,
            }
            for one in readers
        ],
        "fault": fault or None,
        "agent_reads": agent_reads(judgement),
    }


def agent_reads(judgement: Judgement) -> dict[str, str] | None:
    """What an agent is told; nothing where its statement goes through."""
    if not stops(judgement):
        return None
    error = ErrorResponse.decode(refusal(judgement)[HEADER:])
    return {"sqlstate": error.sqlstate, "message": error.message, "detail": error.detail, "hint": error.hint}


def _tell(judgement: Judgement, readers: Sequence[Explained], fault: str, judge: Judge, whose: str) -> None:
    count = judgement.statements
    headline(judgement.verdict.word, f": {count} statement{'' if count == 1 else 's'}")
    say(f"judged for {whose}")
    if judgement.observed is not None:
        say(f"the policy only observes; otherwise: {judgement.observed.word}")
    if isinstance(judgement.verdict, Limit):
        say(_counted(judgement, judge))
    if fault:
        say(f"PostgreSQL's grammar: {fault}")
    if readers:
        say()
        table(("#", "STATEMENT", "POSTGRESQL'S GRAMMAR", "SQLGLOT", "AGREE"), [*_side_by_side(readers)], empty="")
        if count > len(readers):
            say(f"and {count - len(readers)} statements more; --json has them all")
        for number, one in enumerate(readers, start=1):
            if one.asked and one.fault:
                say(f"statement {number}: {one.fault}")
    if judgement.findings:
        say()
        rows = [
            (
                finding.rule,
                finding.verdict.word,
                DEFAULTS.get(finding.rule, "-"),
                finding.message.removeprefix(f"{finding.rule} "),
                finding.hint,
            )
            for finding in judgement.findings
        ]
        table(("RULE", "VERDICT", "BY DEFAULT", "WHAT", "INSTEAD"), rows, empty="")
    reads = agent_reads(judgement)
    if reads is not None:
        say("\nThe agent reads:")
        for word in ("message", "detail", "hint"):
            say(f"  {'ERROR' if word == 'message' else word.upper()}:  {visible(reads[word])}")
    elif not count and not judgement.findings:
        remark("There is nothing in it.")


def _limits(judge: Judge) -> dict[str, int]:
    return {"max_rows": judge.policy.max_rows, "max_rows_per_hour": judge.policy.max_rows_per_hour}


def _counted(judgement: Judgement, judge: Judge) -> str:
    places = ", ".join(str(counted.statement + 1) for counted in judgement.counted)
    hourly = judge.policy.max_rows_per_hour
    hour = f", and {hourly} rows of a table in an hour" if hourly else ""
    return f"counted: statement {places}; at most {judge.policy.max_rows} rows in a transaction{hour}"


def _side_by_side(readers: Sequence[Explained]) -> Iterator[tuple[object, ...]]:
    for number, one in enumerate(readers, start=1):
        agree = ("yes" if one.agrees else "no") if one.asked else "not asked"
        second = [str(effect) for effect in one.second_effects] or [one.second_kind or "cannot read it"]
        head: tuple[object, ...] = (number, one.kind)
        for ours, theirs in _aligned([str(effect) for effect in one.effects] or ["-"], second):
            yield (*head, ours, theirs, agree)
            head, agree = ("", ""), ""


def _aligned(ours: Sequence[str], theirs: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pairs of lines: those that both have first, then the others as they come."""
    both = [line for line in ours if line in theirs]
    yield from ((line, line) for line in both)
    yield from zip_longest(
        (line for line in ours if line not in both), (line for line in theirs if line not in both), fillvalue=""
    )
