"""The configuration as text: the commented file that `dbshield init` writes, and the masked settings that `config show` prints.

Both are made from the fields themselves, so neither can fall behind them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dbshield.config import conninfo
from dbshield.config.alerts import AlertsConfig
from dbshield.config.backup import BackupConfig
from dbshield.config.console import ConsoleConfig
from dbshield.config.metrics import MetricsConfig, TracingConfig
from dbshield.config.model import AuditConfig, Config, ControlConfig, EnvironmentConfig, LogConfig, ProxyConfig
from dbshield.config.policy import INSTEAD, AgentConfig, EnvironmentOverride
from dbshield.config.schedule import ScheduleConfig

HEAD = """\
# dbshield: what stands between AI agents and PostgreSQL.
#
# Every setting here is commented out and shows its default. Each may also come from the environment, which wins over this file:
#     DBSHIELD_PROXY__WORKERS=2
# Paths are relative to this file. Passwords do not belong here: name a file or a variable that has them.
# `dbshield config check` says what is wrong, `dbshield config show` what is in force.

"""
EXAMPLES = {
    "upstream": "postgresql://dbshield@db.example.com:5432/shop?sslmode=verify-full",
    "destination": "s3://shop-backups/dbshield",
    "rule": "DS2xx",
    "verdict": "limit",
}
"""For settings that have no default."""

FIRST = frozenset({"url", "upstream", "destination"})
"""What a section is about stands at its beginning."""

EXAMPLE_AGENT = "claude"
TABLES: dict[type[BaseModel], frozenset[str]] = {
    EnvironmentConfig: frozenset({"overrides", "agents"}),
    AgentConfig: frozenset({"overrides"}),
}
"""Settings that are tables of their own, by section."""

SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("control", ControlConfig),
    ("proxy", ProxyConfig),
    ("schedule", ScheduleConfig),
    ("audit", AuditConfig),
    ("console", ConsoleConfig),
    ("metrics", MetricsConfig),
    ("tracing", TracingConfig),
    ("log", LogConfig),
)


def template(environment: str = "", given: Mapping[str, object] | None = None) -> str:
    """A whole `dbshield.toml`. With an environment's name and settings that environment is in force, else it is an example."""
    parts = [HEAD, _fields(Config, only=("state",))]
    parts += [f"\n[{name}]\n{_fields(model)}" for name, model in SECTIONS]
    if environment:
        parts.append(f"\n[environments.{environment}]\n{_fields(EnvironmentConfig, given or {})}")
    else:
        parts.append(f"\n# One section for each protected cluster.\n# [environments.production]\n{_fields(EnvironmentConfig)}")
    return "".join(parts) + _policy_examples(environment or "production")


def _policy_examples(environment: str) -> str:
    """The tables below an environment; commented out with their heads, since an empty one would say something."""
    overrides, agent = f"# [[environments.{environment}.overrides]]", f"# [environments.{environment}.agents.{EXAMPLE_AGENT}]"
    return (
        f"\n# Other verdicts for rules, as many as are needed; the first that fits speaks.\n{overrides}\n"
        f"{_fields(EnvironmentOverride)}"
        f"\n# A plan of backups. It names the environment that it backs up, or is called as that.\n# [backup.{environment}]\n"
        f"{_fields(BackupConfig)}"
        f"\n# A channel by which people are told what happened; as many as are needed.\n# [alerts.team]\n{_fields(AlertsConfig)}"
        f"\n# What holds for one agent. It may have overrides too, which are asked first.\n{agent}\n{_fields(AgentConfig)}"
    )


def shown(config: Config) -> dict[str, Any]:
    """Everything in force, as JSON knows it, with passwords masked."""
    tree = config.model_dump(mode="json")
    tree["control"]["url"] = conninfo.masked(config.control.url) if config.control.url else ""
    for name, environment in config.environments.items():
        tree["environments"][name]["upstream"] = conninfo.masked(environment.upstream)
    for name, plan in config.backup.items():
        tree["backup"][name]["source"] = conninfo.masked(plan.source) if plan.source else ""
    return tree


def toml(tree: Mapping[str, Any]) -> str:
    """A tree of texts, numbers, booleans, lists of them and tables; what is None is left out, since TOML has no such thing."""
    return "\n".join(_tables(tree, ())) + "\n"


def _tables(tree: Mapping[str, Any], place: tuple[str, ...]) -> list[str]:
    below = {key: value for key, value in tree.items() if isinstance(value, Mapping) or _is_list_of_tables(value)}
    lines = [f"{key} = {_value(value)}" for key, value in tree.items() if value is not None and key not in below]
    for key, value in below.items():
        name = ".".join((*place, key))
        if isinstance(value, Mapping):
            inner = _tables(value, (*place, key))
            if any(not isinstance(entry, Mapping) for entry in value.values()):
                lines += ["", f"[{name}]"]
            lines += inner
        else:
            for entry in value:
                lines += ["", f"[[{name}]]", *_tables(entry, (*place, key))]
    return lines


def _is_list_of_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, Mapping) for entry in value)


def _value(value: object) -> str:
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, tuple):
        value = list(value)
    # JSON's texts, numbers, booleans and lists of them are TOML's as well.
    return json.dumps(value, ensure_ascii=False)


def _fields(model: type[BaseModel], given: Mapping[str, object] | None = None, *, only: tuple[str, ...] = ()) -> str:
    lines = []
    # The address first: it is what a section is about.
    for name, field in sorted(model.model_fields.items(), key=lambda item: item[0] not in FIRST):
        if name in TABLES.get(model, ()) or (only and name not in only):
            continue
        lines.append(f"# {field.description}")
        if given and name in given:
            lines.append(f"{name} = {_value(given[name])}")
        else:
            lines.append(f"# {name} = {_value(_shown_default(name, field))}")
    return "\n".join(lines) + "\n"


def _shown_default(name: str, field: FieldInfo) -> object:
    if name in EXAMPLES:
        return EXAMPLES[name]
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is None and field.description == INSTEAD:
        default = EnvironmentConfig.model_fields[name].default
    return "" if default is None else default
