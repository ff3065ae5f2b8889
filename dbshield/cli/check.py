"""`dbshield check`: judges SQL without a database, by the rules that the proxy applies.

Without a database nothing is known of functions other than PostgreSQL's own, so a call of any other is held (DS606).
"""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from dbshield.cli.output import answer, remark, say, table
from dbshield.errors import DbshieldError
from dbshield.model import AccessLevel, Deny, Hold, Judgement
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy

FINE, STOPPED, NO_VERDICT = 0, 1, 2


def check(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="The SQL to judge; standard input without it, or for `-`.")
    ] = None,
    access: Annotated[AccessLevel, typer.Option(help="The access level of the agent that would send it.")] = AccessLevel.MIGRATE,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help='Read a line {"id": …, "sql": …} for each text, and answer each with a line.')
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Answer with one JSON value.")] = False,
) -> None:
    """Judge SQL without a database.

    Exit code 0: an agent may run all of it. 1: some of it is held or denied. 2: no verdict, because something cannot be read.

    \b
    Examples:
      echo "delete from orders" | dbshield check --access write
      dbshield check migrations/0001.sql
      dbshield check --jsonl --access read < statements.jsonl
    """
    judge = Judge(policy=Policy(access=access), functions=FunctionCatalogue.builtin())
    with _opened(file) as source:
        stopped = _lines(judge, source) if jsonl else _whole(judge, source.read(), json=json)
    raise typer.Exit(STOPPED if stopped else FINE)


def _opened(file: Path | None) -> BinaryIO:
    if file is None or str(file) == "-":
        return sys.stdin.buffer
    try:
        return file.open("rb")
    except OSError as error:
        raise DbshieldError(f"{file}: {error.strerror or error}", hint="Name a file that can be read.") from error


def _whole(judge: Judge, text: bytes, *, json: bool) -> bool:
    judgement = judge.judge(text)
    if json:
        answer(report(judgement))
    else:
        _tell(judgement)
    return stops(judgement)


def _lines(judge: Judge, source: BinaryIO) -> bool:
    """Answer line by line, as they come: whoever asks may wait for each answer."""
    stopped = False
    for name, sql in _cases(source):
        judgement = judge.judge(sql.encode("utf-8", "surrogatepass"))
        answer({"id": name, **report(judgement)})
        sys.stdout.flush()
        stopped = stopped or stops(judgement)
    return stopped


def _cases(source: BinaryIO) -> Iterator[tuple[Any, str]]:
    for number, line in enumerate(source, start=1):
        if not line.strip():
            continue
        try:
            value = jsonlib.loads(line)
        except ValueError as error:
            raise DbshieldError(f"line {number}: not JSON: {error}", hint='Each line is {"id": …, "sql": "…"}.') from error
        if not isinstance(value, dict) or not isinstance(value.get("sql"), str) or "id" not in value:
            raise DbshieldError(f'line {number}: no "id" and "sql" in it', hint='Each line is {"id": …, "sql": "…"}.')
        yield value["id"], value["sql"]


def stops(judgement: Judgement) -> bool:
    """True when the text does not go through as it is."""
    return isinstance(judgement.verdict, (Hold, Deny))


def report(judgement: Judgement) -> dict[str, Any]:
    """A judgement for machines."""
    return {
        "verdict": judgement.verdict.word,
        "findings": [
            {"rule": finding.rule, "name": finding.name, "message": finding.message, "hint": finding.hint}
            for finding in judgement.findings
        ],
        "effects": [
            {
                "operation": effect.operation,
                "kind": effect.kind,
                "name": str(effect.name),
                "flags": sorted(effect.flags),
            }
            for effect in judgement.effects
        ],
    }


def _tell(judgement: Judgement) -> None:
    count = judgement.statements
    say(f"{judgement.verdict.word}: {count} statement{'' if count == 1 else 's'}")
    if judgement.findings:
        say()
        rows = [
            (finding.rule, finding.verdict.word, finding.message.removeprefix(f"{finding.rule} "), finding.hint)
            for finding in judgement.findings
        ]
        table(("RULE", "VERDICT", "WHAT", "INSTEAD"), rows, empty="")
    if judgement.effects:
        say()
        effects = [
            (str(effect.operation), str(effect.kind), str(effect.name), ", ".join(sorted(effect.flags)))
            for effect in judgement.effects
        ]
        table(("EFFECT", "ON", "NAME", "FLAGS"), effects, empty="")
    elif not judgement.findings:
        remark("There is nothing in it.")
