"""`dbshield config`: is the configuration right, and what is in force."""

from __future__ import annotations

from pathlib import Path

import typer

from dbshield.cli.common import ConfigOption, JsonOption
from dbshield.cli.output import answer, remark, say
from dbshield.config import Config, InvalidConfig, find_config, load_config
from dbshield.config.text import shown, toml
from dbshield.errors import ConfigError

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True, help="Check and show the configuration.")


@app.command()
def check(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Say whether the configuration is right: every key, and every file and variable that it names.

    Exit code 1 where it is not.

    \b
    Example:
      dbshield config check --config /etc/dbshield/dbshield.toml
    """
    path = find_config(config)
    source = str(path) if path is not None else "no file, the environment alone"
    remarks: tuple[str, ...] = ()
    try:
        read = load_config(config)
        problems, remarks = missing(read), read.remarks()
    except InvalidConfig as error:
        problems = [str(problem) for problem in error.problems]
    if json:
        answer({"file": str(path) if path is not None else None, "valid": not problems, "problems": problems, "remarks": remarks})
    else:
        for problem in problems:
            say(problem)
        for sentence in remarks:
            remark(f"remark: {sentence}")
        say(f"{source}: {f'{len(problems)} to mend' if problems else 'fine'}")
    raise typer.Exit(1 if problems else 0)


@app.command()
def show(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show every setting that is in force, with passwords masked.

    \b
    Example:
      dbshield config show --json
    """
    tree = shown(load_config(config))
    if json:
        answer(tree)
    else:
        say(toml(tree).rstrip())


def missing(config: Config) -> list[str]:
    """What the configuration names on this machine and is not there."""
    problems = []
    if not config.control.embedded:
        problems += _failure(config.control.dsn)
    for name, environment in config.environments.items():
        problems += [f"[environments.{name}] {sentence}" for sentence in _failure(environment.password)]
    for key, path in (("tls_certificate", config.proxy.tls_certificate), ("tls_key", config.proxy.tls_key)):
        problems += _unreadable(f"[proxy] {key}", path)
    return problems


def _failure(read: object) -> list[str]:
    try:
        if callable(read):
            read()
    except ConfigError as error:
        return [error.message]
    return []


def _unreadable(key: str, path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        with path.open("rb"):
            return []
    except OSError as error:
        return [f"{key}: {path} cannot be read: {error.strerror}"]
