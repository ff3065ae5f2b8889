"""What `check` and `policy` share: which policy is meant, the judge for it, and the lines of a file.

It does not load what speaks with the control database, which takes longer than to judge.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from dbshield.cli.common import find_environment
from dbshield.config import Config
from dbshield.control.policies import policy_at
from dbshield.errors import ConfigError, DbshieldError
from dbshield.model import AccessLevel
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy

AccessOption = Annotated[
    AccessLevel, typer.Option("--access", "-a", help="The access level of the agent that would send it.", show_default=True)
]
PolicyEnvironmentOption = Annotated[
    str | None, typer.Option("--environment", "-e", metavar="NAME", help="Judge by this environment's policy in dbshield.toml.")
]
PolicyAgentOption = Annotated[
    str | None, typer.Option("--agent", metavar="NAME", help="By what holds for this agent there; needs --environment.")
]


def written_policy(
    config: Config | None, *, environment: str | None, agent: str | None, access: AccessLevel, freezes: bool = True
) -> Policy:
    """The policy as dbshield.toml says it; without an environment, the one that dbshield is born with.

    Whether a human froze the environment stands in the control database, which is not asked. Without `freezes`, what
    dbshield.toml freezes is left out as well. Raises ConfigError.
    """
    if environment is None:
        if agent is not None:
            raise ConfigError("an agent was named without its environment", hint="Name --environment as well.")
        return Policy(access=access)
    if config is None:
        raise ConfigError("there is no configuration to take the environment from")
    found = find_environment(config, environment)
    policy = policy_at(found, agent=agent or "", access=access, freeze=None, now=datetime.now(UTC))
    return policy if freezes else replace(policy, frozen=False, freeze_reason="")


def judge_by(policy: Policy, config: Config | None = None) -> Judge:
    """A judge without a database: nothing is known of functions other than PostgreSQL's own."""
    functions = FunctionCatalogue.builtin()
    if config is None:
        return Judge(policy=policy, functions=functions)
    return Judge(policy=policy, functions=functions, max_statement_bytes=config.proxy.max_statement_bytes)


def encoded(sql: str) -> bytes:
    """The bytes that a client would send; a lone surrogate stays invalid, so that the judge stops it."""
    return sql.encode("utf-8", "surrogatepass")


def opened(file: Path | None) -> BinaryIO:
    """A file, or standard input without one. Raises DbshieldError."""
    if file is None or str(file) == "-":
        return sys.stdin.buffer
    try:
        return file.open("rb")
    except OSError as error:
        raise DbshieldError(f"{file}: {error.strerror or error}", hint="Name a file that can be read.") from error


def json_lines(source: BinaryIO, *, form: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file, one a line, each with the number of its line. `form` is what a line should look like. Raises
    DbshieldError where one has no `id` or no `sql`."""
    for number, line in enumerate(source, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DbshieldError(f"line {number}: not JSON: {error}", hint=f"Each line is {form}.") from error
        if not isinstance(value, dict) or not isinstance(value.get("sql"), str) or "id" not in value:
            raise DbshieldError(f'line {number}: no "id" and "sql" in it', hint=f"Each line is {form}.")
        yield number, value
