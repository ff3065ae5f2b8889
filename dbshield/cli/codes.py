"""Codes of the second factor, as commands take them: typed, from standard input, or from the environment.

Never an argument, which every process of the machine can read.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from dbshield.config.secret import read_secret
from dbshield.errors import ConfigError

CodeStdinOption = Annotated[bool, typer.Option("--code-stdin", help="Read the code from standard input.")]
CodeEnvOption = Annotated[str, typer.Option("--code-env", metavar="VARIABLE", help="The environment variable with the code.")]


def can_ask() -> bool:
    """Whether somebody is here who can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def read_code(person: str, *, stdin: bool, variable: str) -> str:
    """The six digits that the authenticator app of a person shows. ConfigError where there is nobody to ask."""
    if stdin and variable:
        raise ConfigError("--code-stdin and --code-env are both given", hint="Keep one.")
    if variable:
        return read_secret("--code-env", file=None, variable=variable) or ""
    if stdin:
        return sys.stdin.readline().strip()
    if not can_ask():
        raise ConfigError("nobody is here to be asked for a code", hint="Say --code-stdin or --code-env VARIABLE.")
    return ask_code(person)


def ask_code(person: str) -> str:
    """Asks on the terminal; what is typed is not shown."""
    return str(typer.prompt(f"Code of {person}", hide_input=True, err=True))
