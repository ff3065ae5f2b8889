"""What the lines of the audit say, as pieces of JSON: of a connection, a judged statement, a freeze.

ASCII alone, and no token: whoever reads the file meets no line separator and no text that runs backwards. Pure: no I/O, no clock.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Final

from dbshield.control import audit_values
from dbshield.control.tokens import hidden
from dbshield.model import Judgement
from dbshield.store.frozen import Freeze

STATEMENT_MAX: Final = 64 << 10
"""Characters of a normal form that are written; longer ones are cut and marked."""


def connection_fields(*, agent: str, environment: str, database: str, session: int, client: str, application_name: str) -> str:
    """What every event of a connection repeats, as a piece of JSON without braces."""
    return (
        f'"agent":{quoted(agent)},"environment":{quoted(environment)},"database":{quoted(database)},"session":{session},'
        f'"client":{quoted(client)},"application":{quoted(application_name)}'
    )


def judgement_fields(judgement: Judgement, *, statement: bool = True) -> str:
    """What an event says of a statement, as a piece of JSON that ends the line."""
    normal = judgement.normal
    cut = ""
    if len(normal) > STATEMENT_MAX:
        # A token is hidden first: half of one would not be known for what it is.
        normal, cut = hidden(normal)[:STATEMENT_MAX], ',"cut":true'
    rules = list(dict.fromkeys(finding.rule for finding in judgement.findings))
    effects = [str(effect) for effect in judgement.effects]
    observed = f'"observed":"{judgement.observed.word}",' if judgement.observed is not None else ""
    values = f",{audit_values.fields(judgement.values)}" if statement and judgement.values is not None else ""
    return (
        f'"statement":{quoted(normal) if statement else "null"}{cut}{values},"verdict":"{judgement.verdict.word}",{observed}'
        f'"rules":{json.dumps(rules, separators=(",", ":"))},"effects":{hidden(json.dumps(effects, separators=(",", ":")))}}}\n'
    )


def freeze_fields(freeze: Freeze) -> str:
    agent = f'"agent":{quoted(freeze.agent)},' if freeze.agent is not None else ""
    return f'{agent}"environment":{quoted(freeze.environment)},"freeze":{freeze.id},"reason":{quoted(freeze.reason)}'


def time_of(moment: datetime | None) -> str:
    return "null" if moment is None else f'"{moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")}"'


def quoted(text: str) -> str:
    """ASCII alone: no line separator, no text that runs backwards, and no lone surrogate reaches whoever reads the file. Nor does
    a token that somebody used as a name."""
    return hidden(json.dumps(text))
