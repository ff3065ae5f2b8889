"""`dbshield environment`: the protected databases."""

from __future__ import annotations

from collections import Counter

import typer

from dbshield.cli.options import ConfigOption, JsonOption, now, open_agents, read_settings
from dbshield.cli.output import answer, table

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True, help="List the protected databases.")


@app.callback()
def group() -> None:
    """List the protected databases."""


@app.command("list")
def list_(json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the environments of dbshield.toml and how many agents each has.

    \b
    Example:
      dbshield environment list --json
    """
    settings = read_settings(config)
    with open_agents(settings) as agents:
        counted = Counter(agent.environment for agent in agents.list_agents(now=now()))
    found = [
        {
            "environment": name,
            "host": environment.server.host,
            "port": environment.server.port,
            "sslmode": environment.server.sslmode,
            "databases": environment.databases,
            "max_rows": environment.max_rows,
            "agents": counted[name],
        }
        for name, environment in settings.environments.items()
    ]
    if json:
        answer(found)
        return
    rows = [
        (
            entry["environment"],
            f"{entry['host']}:{entry['port']}",
            entry["sslmode"],
            ", ".join(settings.environments[str(entry["environment"])].databases),
            entry["agents"],
        )
        for entry in found
    ]
    table(
        ("environment", "server", "sslmode", "databases", "agents"),
        rows,
        empty="There are none; add [environments.NAME] to dbshield.toml.",
    )
