"""The two options of every command, and the environment that is meant. Light: it loads neither the readers nor a driver."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dbshield.config import Config, EnvironmentConfig, load_config, near
from dbshield.errors import ConfigError

ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The dbshield.toml to use.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]


def load_with_trial(path: Path | None) -> Config:
    """The configuration; beside `dbshield up` on a trial with the trial's environment, which stands in no file."""
    config = load_config(path)
    if config.environments:
        return config
    from dbshield.cluster.trial import with_running_trial  # noqa: PLC0415  (a driver, which only a trial needs)

    return with_running_trial(config)


def find_environment(config: Config, name: str) -> EnvironmentConfig:
    """Raises ConfigError where there is none of this name."""
    try:
        return config.environments[name]
    except KeyError:
        close = near(name, config.environments)
        there = ", ".join(config.environments) or "none; add [environments.NAME]"
        raise ConfigError(
            f'the environment "{name}" is not configured', hint=f'Did you mean "{close}"?' if close else f"There are: {there}."
        ) from None
