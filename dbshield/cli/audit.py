"""`dbshield audit`: what agents, humans and dbshield itself did; read, searched, taken elsewhere, and proven whole."""

from __future__ import annotations

import json as json_module
import re
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from sqlalchemy.exc import DBAPIError

from dbshield.cli.common import ConfigOption, JsonOption
from dbshield.cli.options import now, open_database, person, read_settings
from dbshield.cli.output import STYLES, answer, remark, say, say_folded, visible
from dbshield.config import Config
from dbshield.control import audit_export, audit_kinds, audit_read, audit_search, audit_values
from dbshield.control.audit_chain import Link
from dbshield.control.audit_read import Checkpoint, Filter
from dbshield.control.audit_store import stamp
from dbshield.control.tokens import parse_duration
from dbshield.control.vault import Vault
from dbshield.errors import ConfigError, DbshieldError, first_line
from dbshield.store.database import Database

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, no_args_is_help=True, help="Read, search, export and verify the audit."
)

POLL: Final = 0.5
"""Seconds between two looks of `tail -f`."""
SHOWN: Final = 160
"""Characters of a statement on one line."""
KINDS: Final = {
    "statement": "",
    "rows": "dim",
    "connected": "dim",
    "disconnected": "dim",
    "refused": "bold red",
    "frozen": "bold red",
    "guard-tampered": "bold red",
    "backup-failed": "bold red",
    "backup-tampered": "bold red",
    "drill-failed": "bold red",
    "approval-requested": "bold magenta",
}
"""How kinds of entries look on a terminal; others are in one colour."""
LENGTH: Final = re.compile(r"\d+[mhdw]")
ELSEWHERE: Final = frozenset(
    {"ts", "event", "agent", "environment", "person", "verdict", "rules", "statement", "effects", "database", "session"}
)
"""What a line of text shows in a place of its own, or leaves out."""

EnvironmentFilter = Annotated[str | None, typer.Option("--environment", "-e", metavar="NAME", help="Of this environment.")]
AgentFilter = Annotated[str | None, typer.Option("--agent", "-a", metavar="NAME", help="Of this agent.")]
KindFilter = Annotated[str | None, typer.Option("--kind", metavar="KIND", help="Of this kind: statement, refused, executed, …")]
VerdictFilter = Annotated[
    str | None, typer.Option("--verdict", metavar="WORD", help="With this verdict: allow, limit, hold or deny.")
]
RuleFilter = Annotated[str | None, typer.Option("--rule", metavar="ID", help="Stopped by this rule or family: DS201, DS2xx.")]
SinceFilter = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="From 2026-05-01T18:00+02:00 on, or from 2h ago on.")
]
UntilFilter = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Before this time.")]
ObservedFilter = Annotated[
    bool, typer.Option("--observed", help="What an environment that only observes would have limited, held or refused.")
]
TextFilter = Annotated[str | None, typer.Option("--text", metavar="TEXT", help="With this text anywhere in the entry.")]


@app.callback()
def group() -> None:
    """Read, search, export and verify the audit."""


@app.command()
def tail(
    *,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the newest entries.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until you interrupt it.")] = False,
    environment: EnvironmentFilter = None,
    agent: AgentFilter = None,
    verdict: VerdictFilter = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show the newest entries. With --json each is a JSON object on a line.

    \b
    Examples:
      dbshield audit tail -f
      dbshield audit tail -n 100 --environment production --verdict hold
    """
    which = Filter(environment=environment, agent=agent, verdict=_verdict(verdict))
    with open_database(read_settings(config)) as database:
        # Before the newest are read: what comes in between is shown by both, and left out by its id.
        position = audit_read.position(database)
        for link in audit_read.newest(database, which, lines):
            _show(link, json=json)
            position = max(position, link.id)
        while follow:
            sys.stdout.flush()
            found, position = audit_read.following(database, which, position)
            for link in found:
                _show(link, json=json)
            if not found:
                time.sleep(POLL)


@app.command()
def search(
    *,
    environment: EnvironmentFilter = None,
    agent: AgentFilter = None,
    kind: KindFilter = None,
    verdict: VerdictFilter = None,
    rule: RuleFilter = None,
    since: SinceFilter = None,
    until: UntilFilter = None,
    text: TextFilter = None,
    observed: ObservedFilter = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The newest so many.")] = 100,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Find entries. Exit code 1 where there is none.

    \b
    Examples:
      dbshield audit search --agent claude --verdict hold --since 7d
      dbshield audit search --rule DS1xx --text orders --json
      dbshield audit search --environment staging --observed --since 7d
    """
    which = _filter(
        environment=environment,
        agent=agent,
        kind=kind,
        verdict=verdict,
        rule=rule,
        since=since,
        until=until,
        text=text,
        observed=observed,
    )
    with open_database(read_settings(config)) as database:
        found = audit_read.newest(database, which, limit)
    for link in found:
        _show(link, json=json)
    if not found:
        remark("There is no such entry.")
        raise typer.Exit(1)


@app.command()
def export(
    *,
    format: Annotated[Literal["jsonl", "csv"], typer.Option("--format", help="JSON lines, or comma-separated values.")] = "jsonl",  # noqa: A002
    environment: EnvironmentFilter = None,
    agent: AgentFilter = None,
    kind: KindFilter = None,
    verdict: VerdictFilter = None,
    rule: RuleFilter = None,
    since: SinceFilter = None,
    until: UntilFilter = None,
    text: TextFilter = None,
    observed: ObservedFilter = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Write entries to standard output, oldest first, however many there are. --json is --format jsonl.

    A line of JSON has all that the entry's hash is made of, so that anybody can check the chain: docs/how-to/audit.md.

    \b
    Examples:
      dbshield audit export > audit.jsonl
      dbshield audit export --format csv --since 30d --agent claude > claude.csv
    """
    if json and format == "csv":
        raise ConfigError("--json and --format csv contradict each other", hint="Keep one.")
    which = _filter(
        environment=environment,
        agent=agent,
        kind=kind,
        verdict=verdict,
        rule=rule,
        since=since,
        until=until,
        text=text,
        observed=observed,
    )
    with open_database(read_settings(config)) as database:
        lines = audit_export.json_lines if format == "jsonl" else audit_export.csv_lines
        for line in lines(audit_read.stream(database, which)):
            sys.stdout.write(line)


@app.command()
def verify(
    *,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", metavar="FILE", help="Compare with a checkpoint that was kept elsewhere.")
    ] = None,
    public_key: Annotated[
        str | None,
        typer.Option("--public-key", metavar="KEY", help="The key that it is signed with; this installation's otherwise."),
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Write into the audit what was found, so that the console shows it. Else only reads.")
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Walk the chain of hashes. Finds what was changed, taken out, put in, put in another order or cut off, and says which.

    Who can write to the database and makes every hash anew is found out by a checkpoint alone.
    Exit code 1 where anything is wrong.

    \b
    Examples:
      dbshield audit verify
      dbshield audit verify --checkpoint /mnt/elsewhere/checkpoint.json
      dbshield audit verify --record
    """
    settings = read_settings(config)
    kept = _read_checkpoint(checkpoint) if checkpoint is not None else None
    if kept is not None and not _is_ours(kept, settings, public_key):
        raise ConfigError("the checkpoint is not signed with this key", hint="It was changed, or made by another installation.")
    with open_database(settings) as database:
        report = audit_read.verify(database, kept)
        unrecorded = _recorded(database, report) if record else ""
    if json:
        answer(
            {
                "verdict": "broken" if report.faults else "whole",
                "entries": report.entries,
                "first": report.first,
                "last": report.last,
                "hash": report.hash,
                "checkpoint": kept.position if kept is not None else None,
                "faults": [{"id": fault.id, "kind": fault.kind, "message": fault.message} for fault in report.faults],
                "recorded": record and not unrecorded,
            }
        )
    elif report.faults:
        for fault in report.faults:
            say(fault.message)
    elif report.entries:
        against = f", and entry {kept.position} is the one of the checkpoint" if kept is not None else ""
        say(f"The chain is whole: {report.entries} entries, {report.first} to {report.last}{against}.")
    else:
        say("The chain is whole: it has no entries.")
    if unrecorded:
        remark(f"dbshield: {unrecorded}\n  The control database has to be one that this machine may write to.")
    if report.faults or unrecorded:
        raise typer.Exit(1 if report.faults else 2)


def _is_ours(kept: Checkpoint, settings: Config, public_key: str | None) -> bool:
    """Whether it is signed with this public key; where none is named, with a key of the key file."""
    trusted = (public_key,) if public_key else audit_read.public_keys(Vault.load(settings.secret_key))
    return any(kept.is_signed_by(key) for key in trusted)


def _recorded(database: Database, report: audit_read.Report) -> str:
    """Writes down what was found; why it could not be, where it could not: what was found is told all the same."""
    try:
        audit_search.record_verification(database, report, person=person(), now=now())
    except (DbshieldError, DBAPIError) as error:
        why = error.message if isinstance(error, DbshieldError) else first_line(error.orig or error)
        return f"what was found could not be written into the audit: {why}"
    return ""


@app.command("checkpoint")
def checkpoint_(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Print where the chain stands, signed. Keep it where nobody who may write to the control database can.

    \b
    Example:
      dbshield audit checkpoint --json > /mnt/elsewhere/checkpoint.json
    """
    settings = read_settings(config)
    vault = Vault.load(settings.secret_key)
    with open_database(settings) as database:
        made = audit_read.checkpoint(database, vault)
    said = {name: getattr(made, name) for name in Checkpoint.__slots__}
    if json:
        answer(said)
        return
    for name, value in said.items():
        say(f"{name.replace('_', ' ')}: {value}")


def _read_checkpoint(path: Path) -> Checkpoint:
    try:
        return Checkpoint.parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}", hint="Name a file that `dbshield audit checkpoint` wrote."
        ) from error


def _filter(
    *,
    environment: str | None,
    agent: str | None,
    kind: str | None,
    verdict: str | None,
    rule: str | None,
    since: str | None,
    until: str | None,
    text: str | None,
    observed: bool,
) -> Filter:
    moment = now()
    return Filter(
        environment=environment,
        agent=agent,
        kind=kind and audit_kinds.require(kind),
        verdict=_verdict(verdict),
        rule=rule,
        since=_time(since, moment),
        until=_time(until, moment),
        text=text,
        observed=observed,
    )


def _verdict(word: str | None) -> str | None:
    if word not in {None, "allow", "limit", "hold", "deny"}:
        raise ConfigError(f'"{word}" is no verdict', hint="One of allow, limit, hold, deny.")
    return word


def _time(written: str | None, moment: datetime) -> datetime | None:
    """A time, or a length of time before now. A time without a zone is meant on the clock of this machine."""
    if written is None:
        return None
    if LENGTH.fullmatch(written):
        return moment - parse_duration(written)
    try:
        return datetime.fromisoformat(written).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ConfigError(f'"{written}" is no time', hint="Write it as in 2026-05-01T18:00+02:00, or as 2h, 7d.") from None


def _show(link: Link, *, json: bool) -> None:
    if json:
        say(audit_read.exported(link))
        return
    said: dict[str, Any] = json_module.loads(link.entry)
    words = [f"{link.id:>8}", stamp(link.at)[:-4] + "Z", link.kind, _short(_who(link, said))]
    verdict = " ".join([link.verdict, *(link.rules or ())]) if link.verdict is not None else ""
    if said.get("observed"):
        verdict += f", would {visible(str(said['observed']))}"
    if verdict:
        words.append(verdict)
    if said.get("repeats"):
        words.append(f"{said['repeats']} times")
    statement = said.get("statement")
    if statement:
        words.append(_short(statement))
        words += filter(None, [_short(", ".join(audit_values.lines(said)))])
    elif link.kind == "statement":
        words.append(_short(", ".join(said.get("effects", ()))))
    else:
        words += [_short(f"{name}={value}") for name, value in said.items() if name not in ELSEWHERE and value is not None]
    if sys.stdout.isatty():
        _coloured(words, verdict, link)
    else:
        say("  ".join(words))


def _coloured(words: Sequence[str], verdict: str, link: Link) -> None:
    """On a terminal: what was stopped stands out, and what is read seldom steps back. NO_COLOR is kept to."""
    from rich.text import Text  # noqa: PLC0415  (a twentieth of a second that a pipe does not need)

    styles = {words[0]: "dim", words[1]: "dim", link.kind: KINDS.get(link.kind, "cyan")}
    if link.verdict is not None:
        styles[verdict] = STYLES.get(link.verdict, "")
    line = Text("  ").join(Text(word, style=styles.get(word, "")) for word in words)
    say_folded(line, indent=10)  # as wide as the id


def _who(link: Link, said: dict[str, Any]) -> str:
    """Who did it, and to which environment."""
    if link.person is not None:
        return f"{link.person} in {link.environment}" if link.environment is not None else link.person
    return ".".join(filter(None, (link.agent, link.environment))) or str(said.get("user", "-"))


def _short(text: str) -> str:
    line = visible(" ".join(text.split()))
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…"
