"""Finding and reading `dbshield.toml`, with the environment on top of it.

Order, the first that says something wins: environment variables (`DBSHIELD_PROXY__WORKERS=2`), the file, the defaults. Every
error names the file or the variable, the key, and what was probably meant. Values are never repeated: one may be a secret.
"""

from __future__ import annotations

import contextlib
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from dbshield.config.model import Config
from dbshield.config.names import near
from dbshield.errors import ConfigError

FILE_NAME = "dbshield.toml"
PREFIX = "DBSHIELD_"
NESTED = "__"
CONFIG_VARIABLE = "DBSHIELD_CONFIG"
FILE_MAX_BYTES = 1 << 20
"""Nobody writes a megabyte of settings; a larger file is a mistake such as a device or a log."""

PATH_KEYS = frozenset({"state", "password_file", "key_file", "tls_certificate", "tls_key", "file"}) | frozenset(
    {"work", "binaries", "credentials_file", "url_file", "executor_password_file", "administrator_password_file"}
    | {"identity_file", "assertions", "drill_folder", "report_folder", "wal_spool", "pgbackrest_config", "pgbackrest_program"}
)
"""Keys of paths: in a file they are relative to the file's own folder, not to wherever a service happened to start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong: `where` names the file and key or the variable."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class InvalidConfig(ConfigError):
    """The configuration was found and is not valid; `problems` has everything that is wrong, not only the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)), hint="`dbshield config check` looks at the configuration alone.")
        self.problems = tuple(problems)


def find_config(explicit: Path | None = None) -> Path | None:
    """The file that is read: `--config`, `$DBSHIELD_CONFIG`, or the first that exists of the three usual places.

    Nothing where there is none of the usual ones. A working folder that may not be entered has none: it is somebody's home, from
    where `sudo -u` was called. ConfigError where a file that was asked for is not there, or another folder may not be entered.
    """
    if explicit is not None:
        return _must_exist(explicit, "--config")
    if named := os.environ.get(CONFIG_VARIABLE):
        return _must_exist(Path(named).expanduser(), f"${CONFIG_VARIABLE}")
    base = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    here = Path(FILE_NAME)
    with contextlib.suppress(PermissionError):
        if here.is_file():
            return here
    for path in (base / "dbshield" / FILE_NAME, Path("/etc/dbshield") / FILE_NAME):
        if _is_file(path):
            return path
    return None


def load_config(path: Path | None = None) -> Config:
    """The whole configuration. `path` is what `--config` says; without it the usual places are searched.

    Where no file is anywhere, the defaults and the environment are the configuration. Raises ConfigError.
    """
    file = find_config(path)
    written = _read_toml(file) if file is not None else {}
    problems = _unknown_variables()
    try:
        read = _Reader(**written)
    except ValidationError as error:
        problems += [_explain(detail, file) for detail in error.errors(include_url=False, include_input=False)]
        raise InvalidConfig(problems) from None
    except SettingsError as error:
        raise ConfigError(f"environment: {error}") from None
    if problems:
        raise InvalidConfig(problems)
    return Config(**{name: getattr(read, name) for name in Config.model_fields})


class _Environment(EnvSettingsSource):
    """The environment as pydantic-settings reads it, but a text that is no JSON stays a text, so that lists need no brackets."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return json.loads(value)
        except ValueError:
            return value


class _Reader(Config, BaseSettings):
    """The configuration with its sources. Only this module sees it as more than a Config."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter=NESTED, extra="forbid", frozen=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return _Environment(settings_cls), init_settings


def _is_file(path: Path) -> bool:
    """ConfigError where nobody may tell."""
    try:
        return path.is_file()
    except PermissionError as error:
        raise ConfigError(
            f"{path} may not be looked at: {error.strerror}",
            hint="Give the command as the account that dbshield runs as, or name another file with --config.",
        ) from error


def _must_exist(path: Path, who: str) -> Path:
    if not _is_file(path):
        raise ConfigError(f"{who} names {path}, which is no file", hint="`dbshield init --config FILE` writes one.")
    return path


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            text = stream.read(FILE_MAX_BYTES + 1)
        if len(text) > FILE_MAX_BYTES:
            raise ConfigError(f"{path}: is larger than {FILE_MAX_BYTES} bytes, so it is no configuration")
        tree = tomllib.loads(text.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfig([Problem(where=str(path), message=f"is not TOML: {error}")]) from None
    _anchor_paths(tree, path.absolute().parent)
    return tree


def _anchor_paths(tree: dict[str, Any], folder: Path) -> None:
    for key, value in tree.items():
        if isinstance(value, dict):
            _anchor_paths(value, folder)
        elif key in PATH_KEYS and isinstance(value, str) and value not in {"", "-"}:
            tree[key] = str(folder / Path(value).expanduser())


def _unknown_variables() -> list[Problem]:
    """Variables that look like settings of a section that there is none of.

    Other variables with the prefix stay alone: `DBSHIELD_PORT=tcp://…` is what Kubernetes sets for a service of that name.
    """
    problems = []
    for variable in sorted(os.environ):
        section, delimiter, _ = variable.removeprefix(PREFIX).partition(NESTED)
        if not variable.startswith(PREFIX) or not delimiter or section.lower() in Config.model_fields:
            continue
        problems.append(
            Problem(
                where=f"environment variable {variable}", message=_unknown("section", section.lower(), list(Config.model_fields))
            )
        )
    return problems


def _unknown(what: str, word: str, known: Sequence[str]) -> str:
    close = near(word, known)
    tail = f'did you mean "{close}"?' if close else f"there are: {', '.join(known)}"
    return f'"{word}" is no {what}; {tail}'


def _explain(detail: ErrorDetails, file: Path | None) -> Problem:
    location = tuple(str(part) for part in detail["loc"] if part != "[key]")
    where = _where(location, file)
    match detail["type"]:
        case "extra_forbidden":
            return Problem(where=where, message=_unknown("setting here", location[-1], _fields_at(location[:-1])))
        case "missing":
            return Problem(where=where, message="is missing and has no default")
        case "value_error":
            return Problem(where=where, message=str(detail.get("ctx", {}).get("error", detail["msg"])))
        case "tuple_type":
            return Problem(where=where, message="should be a list")
        case "dict_type" | "mapping_type" | "model_type":
            return Problem(where=where, message="should be a table")
        case _:
            message = detail["msg"]
            return Problem(where=where, message=message[:1].lower() + message[1:])


def _where(location: tuple[str, ...], file: Path | None) -> str:
    variable = PREFIX + NESTED.join(location).upper()
    for name in os.environ:
        if name.upper() == variable:
            return f"environment variable {name}"
    source = str(file) if file is not None else "settings"
    if number := next((place for place, part in enumerate(location) if part.isdigit()), 0):
        key = ".".join(location[number + 1 :])
        entry = f"number {int(location[number]) + 1}{', ' + key if key else ''}"
        if _model_at(location[: number + 1]) is not None:
            return f"{source}: [[{'.'.join(location[:number])}]] {entry}"
        return f"{_place(source, location[: number - 1], location[number - 1])} {entry}"
    if not location or _model_at(location) is not None:
        return _place(source, location, "")
    return _place(source, location[:-1], location[-1])


def _place(source: str, sections: Sequence[str], key: str) -> str:
    """`FILE: [SECTION] KEY`, of which only the file is there always."""
    words = [f"[{'.'.join(sections)}]"] if sections else []
    if key:
        words.append(key)
    return f"{source}: {' '.join(words)}" if words else source


def _model_at(location: tuple[str, ...]) -> type[BaseModel] | None:
    """The section at a place in the tree; nothing where the place is a value or is not known."""
    model: type[BaseModel] = Config
    parts = list(location)
    while parts:
        field = model.model_fields.get(parts.pop(0))
        if field is None:
            return None
        annotation: Any = field.annotation
        origin = get_origin(annotation)
        if isinstance(origin, type) and issubclass(origin, (Mapping, tuple)) and parts:
            annotation = get_args(annotation)[1 if issubclass(origin, Mapping) else 0]
            parts.pop(0)
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return None
        model = annotation
    return model


def _fields_at(location: tuple[str, ...]) -> list[str]:
    model = _model_at(location)
    return list(model.model_fields) if model is not None else []
