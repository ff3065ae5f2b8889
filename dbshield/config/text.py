"""The configuration as text: the commented file that `dbshield init` writes, and the masked settings that `config show` prints.

Both are made from the fields themselves, so neither can fall behind them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dbshield.config import conninfo
from dbshield.config.model import AuditConfig, Config, ControlConfig, EnvironmentConfig, LogConfig, ProxyConfig

HEAD = """\
# dbshield: what stands between AI agents and PostgreSQL.
#
# Every setting here is commented out and shows its default. Each may also come from the environment, which wins over this file:
#     DBSHIELD_PROXY__WORKERS=2
# Paths are relative to this file. Passwords do not belong here: name a file or a variable that has them.
# `dbshield config check` says what is wrong, `dbshield config show` what is in force.

"""
EXAMPLE = "postgresql://dbshield@db.example.com:5432/shop?sslmode=verify-full"
SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("control", ControlConfig),
    ("proxy", ProxyConfig),
    ("audit", AuditConfig),
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
    return "".join(parts)


def shown(config: Config) -> dict[str, Any]:
    """Everything in force, as JSON knows it, with passwords masked."""
    tree = config.model_dump(mode="json")
    tree["control"]["url"] = conninfo.masked(config.control.url) if config.control.url else ""
    for name, environment in config.environments.items():
        tree["environments"][name]["upstream"] = conninfo.masked(environment.upstream)
    return tree


def toml(tree: Mapping[str, Any]) -> str:
    """A tree of texts, numbers, booleans, lists of them and tables; what is None is left out, since TOML has no such thing."""
    return "\n".join(_tables(tree, ())) + "\n"


def _tables(tree: Mapping[str, Any], place: tuple[str, ...]) -> list[str]:
    lines = [f"{key} = {_value(value)}" for key, value in tree.items() if value is not None and not isinstance(value, Mapping)]
    for key, value in tree.items():
        if isinstance(value, Mapping):
            below = _tables(value, (*place, key))
            if any(not isinstance(entry, Mapping) for entry in value.values()):
                lines += ["", f"[{'.'.join((*place, key))}]"]
            lines += below
    return lines


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
    for name, field in sorted(model.model_fields.items(), key=lambda item: item[0] not in {"url", "upstream"}):
        if only and name not in only:
            continue
        lines.append(f"# {field.description}")
        if given and name in given:
            lines.append(f"{name} = {_value(given[name])}")
        elif name == "upstream":
            lines.append(f"# {name} = {_value(EXAMPLE)}")
        else:
            default = field.get_default(call_default_factory=True, validated_data={})
            lines.append(f"# {name} = {_value('' if default is None else default)}")
    return "\n".join(lines) + "\n"
