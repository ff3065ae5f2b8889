"""`dbshield approvals`: what agents may do only when a human says so, and the humans' answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

import typer

from dbshield.cli.codes import CodeEnvOption, CodeStdinOption, read_code
from dbshield.cli.common import ConfigOption, JsonOption
from dbshield.cli.options import AnyEnvironmentOption, now, open_database, person, read_settings
from dbshield.cli.output import answer, date, folded, headline, remark, say, table
from dbshield.config import Config
from dbshield.control.approval import Approval, State
from dbshield.control.approvals import Approvals, wrong_state
from dbshield.control.asking import store_parameters
from dbshield.control.deciding import Deciding
from dbshield.control.people import People
from dbshield.control.preview import preview_lines
from dbshield.control.printing import print_parameters, print_settings, readable
from dbshield.control.vault import Vault
from dbshield.store.database import Database
from dbshield.visible import visible, visible_lines

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, no_args_is_help=True, help="List, show, approve and deny held statements."
)

UNDER_WAY: Final = (State.WAITING, State.APPROVED, State.RUNNING)
LOOK_AGAIN: Final = 0.3
"""Seconds between two looks of --wait."""
WHAT_MOST: Final = 60
"""Characters of a statement in the list."""
INDENT: Final = 13
STATEMENT_INDENT: Final = 6
"""Columns of the terminal in front of what goes on on a further line; a line of the statement itself begins after four."""

ApprovalArgument = Annotated[str, typer.Argument(metavar="ID", help="The approval's id, apr-…")]
PersonOption = Annotated[
    str | None, typer.Option("--person", metavar="NAME", help="Who decides; else the person at the keyboard.")
]


@app.callback()
def group() -> None:
    """List and show the statements that wait for a human, approve or deny them."""


@app.command("list")
def list_(
    *,
    state: Annotated[list[State] | None, typer.Option("--state", "-s", help="In this state alone; several are possible.")] = None,
    every: Annotated[bool, typer.Option("--all", help="In every state; else those that are not over.")] = False,
    environment: AnyEnvironmentOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List the held statements, the oldest first; "destroys" marks those that may take data away.

    \b
    Examples:
      dbshield approvals list
      dbshield approvals list --state denied --environment production --json
    """
    moment = now()
    states = () if every else tuple(state or UNDER_WAY)
    with open_database(read_settings(config)) as database:
        listed = Approvals(database).list_(now=moment, states=states, environment=environment)
    if json:
        answer([describe(one, moment) for one in listed])
        return
    rows = [
        (
            one.id,
            one.state_at(moment).value,
            _age(moment - one.requested_at),
            one.agent,
            one.environment,
            "destroys" if one.destructive else "-",
            _short(one.normal or one.statement),
        )
        for one in listed
    ]
    table(("id", "state", "age", "agent", "environment", "", "what"), rows, empty="Nothing waits for a human.")


@app.command()
def show(approval: ApprovalArgument, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show a held statement: what would run, who asks, why a human is asked, what it would take, and who decided.

    \b
    Example:
      dbshield approvals show apr-k3x7w2mq
    """
    with open_database(read_settings(config)) as database:
        found = Approvals(database).get(approval)
    if json:
        answer(describe(found, now()))
    else:
        _show(found, now())


@app.command()
def approve(
    approval: ApprovalArgument,
    *,
    who: PersonOption = None,
    reason: Annotated[str, typer.Option("--reason", "-r", metavar="TEXT", help="Why; it is kept.")] = "",
    without_undo: Annotated[
        bool, typer.Option("--without-undo", help="Let it run although it may not be possible to bring back what it destroys.")
    ] = False,
    digest: Annotated[
        str,
        typer.Option(
            "--digest", metavar="HEX", help="The digest that was shown, or its beginning: approve that and nothing else."
        ),
    ] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has run, and show what came of it.")] = False,
    code_stdin: CodeStdinOption = False,
    code_env: CodeEnvOption = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Approve a held statement, once, with a code of the second factor. Exit code 1 where that is not taken, or it failed.

    \b
    Examples:
      dbshield approvals approve apr-k3x7w2mq --reason "agreed in the morning meeting" --wait
      dbshield approvals approve apr-k3x7w2mq --person ann --digest 5f2c91 --code-stdin
    """
    settings = read_settings(config)
    with open_database(settings) as database:
        found = _waiting(database, approval)
        decider = who if who is not None else person()
        asked = not (json or code_stdin or code_env)
        if asked:
            _show(found, now())
        code = read_code(decider, stdin=code_stdin, variable=code_env)
        decided = _deciding(database, settings).approve(
            approval,
            person=decider,
            code=code,
            reason=reason,
            now=now(),
            without_undo=without_undo,
            # what was on the screen when the code was typed
            shown=digest or (found.digest.hex() if asked else ""),
        )
        environment = settings.environments[decided.environment]
        missing = max(decided.needed, environment.approvals_needed) - len(decided.approved_by)
        runs = bool(environment.executor)
        if wait and runs and decided.state is State.APPROVED:
            decided = _wait(Approvals(database), decided)
    if json:
        answer(describe(decided, now()))
    else:
        say(_approved(decided, missing=missing, runs=runs))
        _outcome(decided)
    if decided.state_at(now()) in {State.FAILED, State.WITHDRAWN, State.EXPIRED}:
        raise typer.Exit(1)


@app.command()
def deny(
    approval: ApprovalArgument,
    *,
    reason: Annotated[str, typer.Option("--reason", "-r", metavar="TEXT", help="Why; the agent reads it.")],
    who: PersonOption = None,
    code_stdin: CodeStdinOption = False,
    code_env: CodeEnvOption = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Deny a held statement. The agent reads the reason, and is not asked about again for a while.

    \b
    Example:
      dbshield approvals deny apr-k3x7w2mq --reason "orders of 2024 are still needed"
    """
    settings = read_settings(config)
    with open_database(settings) as database:
        _waiting(database, approval)
        decider = who if who is not None else person()
        code = read_code(decider, stdin=code_stdin, variable=code_env)
        denied = _deciding(database, settings).deny(approval, person=decider, code=code, reason=reason, now=now())
    if json:
        answer(describe(denied, now()))
    else:
        say(f"{denied.id} is denied; {denied.agent} is told: {denied.decisions[-1].reason}")


def describe(one: Approval, moment: datetime) -> dict[str, Any]:
    """An approval for machines."""
    return {
        "id": one.id,
        "state": one.state_at(moment).value,
        "environment": one.environment,
        "agent": one.agent,
        "access": one.access.value,
        "database": one.database,
        "session": one.session,
        "application": one.application,
        "statement": one.statement,
        "parameters": store_parameters(one.parameters),
        "settings": dict(one.settings),
        "digest": one.digest.hex(),
        "intact": one.intact,
        "destructive": one.destructive,
        "effects": list(one.effects),
        "findings": [dict(finding) for finding in one.findings],
        "requested_at": one.requested_at,
        "expires_at": one.expires_at,
        "needed": one.needed,
        "decisions": [
            {"person": said.person, "approves": said.approves, "reason": said.reason, "at": said.at, "counts": said.counts}
            for said in one.decisions
        ],
        "without_undo": one.without_undo,
        "preview": one.preview,
        "decided_at": one.decided_at,
        "started_at": one.started_at,
        "finished_at": one.finished_at,
        "executor": one.executor,
        "tag": one.tag,
        "error": one.error,
        "result": one.result,
        "undo": one.undo,
    }


def _deciding(database: Database, settings: Config) -> Deciding:
    return Deciding(database, People(database, Vault.load(settings.secret_key)), settings.environments)


def _waiting(database: Database, approval: str) -> Approval:
    """The approval, before anybody is asked for a code. Refused where it cannot be decided any more."""
    found = Approvals(database).get(approval)
    state = found.state_at(now())
    if state is not State.WAITING:
        raise wrong_state(found, "cannot be decided", expired=state is State.EXPIRED)
    return found


def _wait(approvals: Approvals, approved: Approval) -> Approval:
    """Until it has run, or can no longer run."""
    remark("Waiting for the executor; Ctrl-C stops waiting, and nothing else.")
    while approved.state_at(now()) in UNDER_WAY:
        time.sleep(LOOK_AGAIN)
        approved = approvals.get(approved.id)
    return approved


def _approved(one: Approval, *, missing: int, runs: bool) -> str:
    if one.state is State.WAITING:
        others = f"{missing} more" if missing > 1 else "one more person"
        return f"{one.id} has your approval; {others} must approve before it runs."
    if not runs:
        return (
            f"{one.id} is approved and recorded. dbshield runs nothing in {one.environment}, because "
            f"[environments.{one.environment}] has no executor: run the statement yourself."
        )
    return f"{one.id} is approved; it runs once, before {date(one.expires_at)}."


def _outcome(one: Approval) -> None:
    """What came of it, where something did."""
    match one.state:
        case State.DONE:
            say(f"It ran: {one.tag}.")
            if one.undo:
                say(f"`dbshield undo {one.undo}` brings back what it destroyed.")
        case State.FAILED | State.WITHDRAWN if one.error:
            _line(f"It did not run: {visible(str(one.error.get('message', '')))}", indent=2)
            if one.error.get("hint"):
                _line(f"  {visible(str(one.error['hint']))}", indent=2)
        case _:
            return


def _show(one: Approval, moment: datetime) -> None:
    state = one.state_at(moment)
    headline(state.value, f"  {one.id}, asked {_age(moment - one.requested_at)} ago, {_left(one, state, moment)}")
    if one.destructive:
        headline("destroys", "  data may be gone after it")
    if not one.intact:
        headline("critical", "  what is stored is not what was asked for: somebody changed it")
    _line(f"agent        {one.agent} ({one.access.value}) in {one.environment}, database {visible(one.database)}")
    if one.application:
        _line(f"application  {visible(one.application)}")
    say(f"digest       {one.digest.hex()}")
    for line in _statement_lines(one):
        _line(line, indent=STATEMENT_INDENT)
    for finding in one.findings:
        rule = f"{finding['rule']} {finding['name']}: "
        _line(f"held by      {rule}{visible(finding['message'].removeprefix(rule))}")
    for effect in one.effects:
        _line(f"effect       {visible(effect)}")
    for line in preview_lines(one.preview):
        _line(visible(line))
    for said in one.decisions:
        word = "approved by" if said.approves else "denied by"
        rest = "" if said.counts else ", which no longer counts: removed, or with a new secret since"
        why = f": {said.reason}" if said.reason else ""
        _line(f"{word:<12} {said.person}, {date(said.at)}{why}{rest}")
    without = ", without an undo point" if one.without_undo else ""
    say(f"needed       {one.needed} {'person' if one.needed == 1 else 'people'}{without}")
    _outcome(one)


def _line(text: str, *, indent: int = INDENT) -> None:
    say(folded(text, indent=indent))


def _statement_lines(one: Approval) -> Iterator[str]:
    """What would run, exactly; then the same laid out, where that is another text and certain."""
    exact = visible_lines(one.statement)
    yield "statement, exactly as it would run"
    yield from (f"    {line}" for line in exact)
    yield from (f"    {line}" for line in print_parameters(one.parameters))
    yield from (f"    under {name} = {value}" for name, value in print_settings(one.settings).items())
    laid_out = readable(one.statement)
    if laid_out is not None and laid_out.split() != one.statement.split():
        yield "the same, laid out"
        yield from (f"    {line}" for line in visible_lines(laid_out))


def _short(text: str) -> str:
    line = visible(" ".join(text.split()))
    return line if len(line) <= WHAT_MOST else f"{line[: WHAT_MOST - 1]}…"


def _age(length: timedelta) -> str:
    seconds = max(0, int(length.total_seconds()))
    for size, letter in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{letter}"
    return f"{seconds}s"


def _left(one: Approval, state: State, moment: datetime) -> str:
    if state in {State.WAITING, State.APPROVED}:
        return f"void in {_age(one.expires_at - moment)}"
    ended = one.finished_at or one.decided_at
    return f"ended {date(ended)}" if ended is not None else f"its time was over at {date(one.expires_at)}"
