"""`dbshield token`: what agents log in with."""

from __future__ import annotations

from typing import Annotated

import typer

from dbshield.cli.agent import show_token
from dbshield.cli.judging import ConfigOption, JsonOption
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
from dbshield.cli.output import answer, say, table
from dbshield.control.tokens import parse_duration

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True, help="Issue, list and revoke tokens.")


@app.command()
def issue(
    name: AgentArgument,
    environment: EnvironmentOption,
    ttl: TtlOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Give an agent another token; the earlier ones stay until they are revoked or expire.

    \b
    Example:
      dbshield token issue claude --environment staging --ttl 12h
    """
    settings = read_settings(config)
    lifetime = parse_duration(ttl) if ttl is not None else None
    with open_agents(settings) as agents:
        issued = agents.issue_token(name=name, environment=environment, now=now(), by=person(), ttl=lifetime)
    show_token(settings, issued, f"Agent {name} has another token for {environment}", json=json)


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="This agent alone.")] = None,
    environment: AnyEnvironmentOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List tokens by their ids; the tokens themselves are kept nowhere.

    \b
    Example:
      dbshield token list claude --environment staging
    """
    moment = now()
    with open_agents(read_settings(config)) as agents:
        listed = agents.list_tokens(name=name, environment=environment)
    if json:
        answer(
            [
                {
                    "token_id": token.id,
                    "agent": token.agent,
                    "environment": token.environment,
                    "state": token.state(moment),
                    "created_at": token.created_at,
                    "created_by": token.created_by,
                    "expires_at": token.expires_at,
                    "revoked_at": token.revoked_at,
                }
                for token in listed
            ]
        )
        return
    rows = [
        (token.id, token.agent, token.environment, token.state(moment), token.expires_at, token.created_by) for token in listed
    ]
    table(("token", "agent", "environment", "state", "expires", "created by"), rows, empty="There are no tokens.")


@app.command()
def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="The token's id, the third part of the token.")],
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Revoke a token. Every proxy knows within a second.

    \b
    Example:
      dbshield token revoke k3v5mzq2x7ab
    """
    with open_agents(read_settings(config)) as agents:
        changed = agents.revoke_token(token_id=token_id, now=now())
    if json:
        answer({"token_id": token_id, "revoked": changed})
    else:
        say(f"Token {token_id} is revoked." if changed else f"Token {token_id} was revoked before.")
