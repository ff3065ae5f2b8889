"""`dbshield token`: what agents log in with."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from dbshield.cli.agent import show_token
from dbshield.cli.common import ConfigOption, JsonOption
from dbshield.cli.options import (
    AgentArgument,
    AnyEnvironmentOption,
    EnvironmentOption,
    TtlOption,
    now,
    open_agents,
    person,
    read_settings,
)
from dbshield.cli.output import answer, date, remark, say, table
from dbshield.config import Config
from dbshield.control.issuing import TokenInfo, scope_fields
from dbshield.control.scopes import make_scope
from dbshield.control.tokens import parse_duration
from dbshield.model import AccessLevel, TokenScope

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, no_args_is_help=True, help="Issue, list, rotate and revoke tokens."
)

TokenArgument = Annotated[str, typer.Argument(metavar="ID", help="The token's id, the third part of the token.")]


@app.command()
def issue(
    name: AgentArgument,
    *,
    environment: EnvironmentOption,
    ttl: TtlOption = None,
    access: Annotated[
        AccessLevel | None, typer.Option("--access", "-a", help="At most this, below the agent's own level.")
    ] = None,
    database: Annotated[
        list[str] | None, typer.Option("--database", "-d", metavar="NAME", help="For this database alone; several are possible.")
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option("--network", "-n", metavar="CIDR", help='From here alone, as in 10.0.0.0/8; "socket" for a Unix socket.'),
    ] = None,
    hours: Annotated[
        str, typer.Option("--hours", metavar="TEXT", help='When it works, as in "Mon-Fri 08:00-18:00 Europe/Berlin".')
    ] = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Give an agent another token; the earlier ones stay until they are revoked or expire.

    What is named narrows the token below its agent, and never widens it.

    \b
    Examples:
      dbshield token issue claude --environment staging --ttl 12h
      dbshield token issue claude -e production --access read --network 10.0.0.0/8 --hours "Mon-Fri 08:00-18:00 Europe/Berlin"
    """
    settings = read_settings(config)
    lifetime = parse_duration(ttl) if ttl is not None else None
    scope = make_scope(access=access, databases=database or (), networks=network or (), hours=hours)
    with open_agents(settings) as agents:
        issued = agents.issue_token(name=name, environment=environment, now=now(), by=person(), ttl=lifetime, scope=scope)
    narrowed = f", {_scope(scope)}" if scope_fields(scope) else ""
    show_token(settings, issued, f"Agent {name} has another token for {environment}{narrowed}", json=json)


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="This agent alone.")] = None,
    environment: AnyEnvironmentOption = None,
    stale: Annotated[bool, typer.Option("--stale", help="Only live ones that nobody has used for token_stale_days.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List tokens by their ids; the tokens themselves are kept nowhere.

    \b
    Examples:
      dbshield token list claude --environment staging
      dbshield token list --stale
    """
    settings = read_settings(config)
    moment = now()
    with open_agents(settings) as agents:
        listed = agents.list_tokens(name=name, environment=environment)
    if stale:
        listed = [token for token in listed if _stale(settings, token, moment)]
    if json:
        answer([_entry(token, moment, stale=_stale(settings, token, moment)) for token in listed])
        return
    rows = [
        (
            token.id,
            token.agent,
            token.environment,
            f"{token.state(moment)}{', stale' if _stale(settings, token, moment) else ''}",
            token.expires_at,
            token.last_used_at or "never",
            token.last_used_from or "-",
            _scope(token.scope) or "-",
            token.created_by,
        )
        for token in listed
    ]
    columns = ("token", "agent", "environment", "state", "expires", "last used", "from", "narrowed to", "created by")
    table(columns, rows, empty="There are no stale tokens." if stale else "There are no tokens.")


@app.command()
def rotate(
    token_id: TokenArgument,
    overlap: Annotated[
        str, typer.Option("--overlap", metavar="24h", help="How long the old one still works: m, h, d or w; 0: not at all.")
    ] = "24h",
    ttl: TtlOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Put a new token in the place of another: the same agent, narrowed alike. The old one ends after --overlap.

    \b
    Examples:
      dbshield token rotate k3v5mzq2x7ab
      dbshield token rotate k3v5mzq2x7ab --overlap 1h --ttl 7d --json
    """
    settings = read_settings(config)
    lifetime = parse_duration(ttl) if ttl is not None else None
    length = timedelta() if overlap.strip() == "0" else parse_duration(overlap)
    with open_agents(settings) as agents:
        rotated = agents.rotate_token(token_id=token_id, now=now(), by=person(), overlap=length, ttl=lifetime)
    issued = rotated.issued
    show_token(settings, issued, f"Agent {issued.agent} has a new token for {issued.environment}", json=json)
    if not length:
        remark(f"The old token {rotated.old} is revoked.")
    else:
        remark(f"The old token {rotated.old} works until {date(rotated.old_ends_at)}.")


@app.command()
def revoke(token_id: TokenArgument, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Revoke a token. Every proxy knows within a second, and ends the sessions that began with it.

    \b
    Example:
      dbshield token revoke k3v5mzq2x7ab
    """
    with open_agents(read_settings(config)) as agents:
        changed = agents.revoke_token(token_id=token_id, now=now(), by=person())
    if json:
        answer({"token_id": token_id, "revoked": changed})
    else:
        say(f"Token {token_id} is revoked." if changed else f"Token {token_id} was revoked before.")


def _stale(settings: Config, token: TokenInfo, moment: datetime) -> bool:
    environment = settings.environments.get(token.environment)
    return environment is not None and token.stale(moment, timedelta(days=environment.token_stale_days))


def _entry(token: TokenInfo, moment: datetime, *, stale: bool) -> dict[str, Any]:
    return {
        "token_id": token.id,
        "agent": token.agent,
        "environment": token.environment,
        "state": token.state(moment),
        "stale": stale,
        "created_at": token.created_at,
        "created_by": token.created_by,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
        "last_used_at": token.last_used_at,
        "last_used_from": token.last_used_from,
        "replaces": token.replaces,
        "scope": scope_fields(token.scope),
    }


def _scope(scope: TokenScope) -> str:
    """What a scope narrows, in words."""
    parts = [str(scope.access)] if scope.access is not None else []
    parts += [", ".join(names) for names in (scope.databases, scope.networks) if names]
    return "; ".join([*parts, scope.hours] if scope.hours else parts)
