"""The configuration: what is read from where, and what every mistake is answered with."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from dbshield.config import Config, InvalidConfig, ListenAddress, find_config, load_config
from dbshield.config.load import PATH_KEYS
from dbshield.errors import ConfigError

NOBODY = 65534
UPSTREAM = 'upstream = "postgresql://app@db.example.com/shop?sslmode=verify-full"'


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("DBSHIELD_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)


def write(folder: Path, text: str) -> Path:
    path = folder / "dbshield.toml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(InvalidConfig) as caught:
        load_config(path)
    return [str(problem).replace(f"{path.parent}/", "") for problem in caught.value.problems]


def test_defaults_stand_where_the_file_says_nothing(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, f"[environments.production]\n{UPSTREAM}\n"))
    production = config.environments["production"]
    assert config.proxy.listen == ("127.0.0.1:6432",)
    assert config.control.embedded
    assert production.databases == ("shop",)
    assert (production.token_ttl_days, production.token_ttl_max_days, production.max_rows) == (30, 90, 100)
    assert (production.server.host, production.server.port, production.server.user) == ("db.example.com", 5432, "app")
    assert production.server.sslmode == "verify-full"
    assert production.server.password is None
    assert type(config) is Config


def test_variables_stand_above_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBSHIELD_PROXY__WORKERS", "4")
    monkeypatch.setenv("DBSHIELD_PROXY__LISTEN", "127.0.0.1:7000,[::1]:7000")
    monkeypatch.setenv("DBSHIELD_ENVIRONMENTS__PRODUCTION__MAX_ROWS", "7")
    config = load_config(write(tmp_path, f"[proxy]\nworkers = 2\nmax_connections = 9\n[environments.production]\n{UPSTREAM}\n"))
    assert (config.proxy.workers, config.proxy.max_connections) == (4, 9)
    assert config.proxy.listen == ("127.0.0.1:7000", "[::1]:7000")
    assert config.environments["production"].max_rows == 7


def test_the_environment_alone_can_be_the_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DBSHIELD_ENVIRONMENTS__STAGING__UPSTREAM", "host=db user=app dbname=shop")
    assert load_config().environments["staging"].server.host == "db"


def test_a_service_that_kubernetes_announces_is_no_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBSHIELD_PORT", "tcp://10.0.0.1:6432")
    monkeypatch.setenv("DBSHIELD_PROXY_SERVICE_HOST", "10.0.0.1")
    assert load_config(write(tmp_path, "")).proxy.workers == 1


def test_files_are_searched_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    user = tmp_path / "home" / ".config" / "dbshield"
    user.mkdir(parents=True)
    in_home = write(user, "")
    assert find_config() == in_home
    write(tmp_path, "")
    assert find_config() == Path("dbshield.toml")
    monkeypatch.setenv("DBSHIELD_CONFIG", str(in_home))
    assert find_config() == in_home
    assert find_config(tmp_path / "dbshield.toml") == tmp_path / "dbshield.toml"


@contextlib.contextmanager
def no_rights_to(folder: Path) -> Iterator[None]:
    """Within the block nobody's folder but root's: whoever runs the tests may not enter it."""
    root = os.geteuid() == 0
    folder.chmod(0)
    try:
        if root:
            os.seteuid(NOBODY)
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o700)


def test_a_folder_that_may_not_be_entered_is_no_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sudo -u dbshield dbshield …` in a home, and a file that only dbshield's own account reads."""
    write(tmp_path, "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nowhere")
    with no_rights_to(tmp_path):
        assert find_config() is None
        with pytest.raises(ConfigError, match=r"dbshield\.toml may not be looked at: Permission denied"):
            find_config(tmp_path / "dbshield.toml")
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        with pytest.raises(ConfigError, match="may not be looked at") as caught:
            find_config()
    assert "the account that dbshield runs as" in caught.value.hint


@pytest.mark.parametrize("how", ["option", "variable"])
def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "")
    absent = tmp_path / "absent.toml"
    monkeypatch.setenv("DBSHIELD_CONFIG", str(absent))
    with pytest.raises(ConfigError, match=r"absent\.toml, which is no file"):
        load_config(absent if how == "option" else None)


def test_every_problem_is_named_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBSHIELD_PROXI__WORKERS", "2")
    monkeypatch.setenv("DBSHIELD_PROXY__WORKERS", "many")
    path = write(
        tmp_path,
        """
        colour = "red"
        [proxy]
        wrokers = 3
        [log]
        level = "loud"
        [environments.Prod]
        upstream = "postgresql://u@h/d"
        [environments.staging]
        [environments.production]
        upstream = "postgresql://u@h/d"
        max_row = 3
        """,
    )
    assert problems(path) == [
        'environment variable DBSHIELD_PROXI__WORKERS: "proxi" is no section; did you mean "proxy"?',
        "environment variable DBSHIELD_PROXY__WORKERS: input should be a valid integer, unable to parse string as an integer",
        'dbshield.toml: [proxy] wrokers: "wrokers" is no setting here; did you mean "workers"?',
        'dbshield.toml: [environments.Prod]: "Prod" is not a name: a lower-case letter, then up to 30 of a-z, 0-9 and -',
        "dbshield.toml: [environments.staging] upstream: is missing and has no default",
        'dbshield.toml: [environments.production] max_row: "max_row" is no setting here; did you mean "max_rows"?',
        "dbshield.toml: [log] level: input should be 'debug', 'info', 'warning' or 'error'",
        'dbshield.toml: colour: "colour" is no setting here; there are: '
        "state, control, proxy, environments, backup, schedule, alerts, audit, console, metrics, tracing, log",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[proxy]\nlisten = ["0.0.0.0:6432"]', "[proxy]: listen has 0.0.0.0:6432, which others reach, and there is no TLS"),
        ('[proxy]\nlisten = ["127.0.0.1:6432", "db.example.com:1"]', "[proxy]: listen has db.example.com:1, which others reach"),
        ('[proxy]\nlisten = ["127.0.0.1"]', '[proxy] listen: "127.0.0.1" is not an address'),
        ('[proxy]\nlisten = ["::1:6432"]', "IPv6 address without brackets; write [::1]:6432"),
        ('[proxy]\nlisten = ["localhost:0"]', "has the port 0; ports go from 1 to 65535"),
        ('[proxy]\nlisten = ["unix:run:6432"]', "needs an absolute folder"),
        ('[proxy]\nlisten = ["unix:/' + "x" * 100 + ':6432"]', "beyond 107 bytes"),
        ("[proxy]\nlisten = []", "[proxy] listen: "),
        ('[proxy]\ntls_key = "key.pem"', "[proxy]: tls_certificate and tls_key go together"),
        ("[proxy]\ntls_required = true", "[proxy]: tls_required needs tls_certificate and tls_key"),
        ('[proxy]\nadvertise = "0.0.0.0:1"', "no address that a client can connect to"),
        ("[proxy]\nworkers = 0", "[proxy] workers: input should be greater than or equal to 1"),
        ('[control]\npassword_file = "a"\npassword_env = "B"', "[control]: password_file and password_env are both given"),
        ('[control]\nurl = "postgresql://u:hunter2@[h/d"', "[control] url: is no connection string that libpq can read"),
        ('[environments.e]\nupstream = "postgresql://h/d"', "upstream: names no user"),
        ('[environments.e]\nupstream = "postgresql://u:hunter2@/d"', "upstream: names no host"),
        ('[environments.e]\nupstream = "postgresql://u@h"', "upstream: names no dbname"),
        ('[environments.e]\nupstream = "postgresql://u@h,i/d"', "names several hosts"),
        ('[environments.e]\nupstream = "postgresql://u@h/d?options=-cfoo%3Dbar"', "has the parameter options"),
        ('[environments.e]\nupstream = "postgresql://u@h/d?sslmode=maybe"', "has an unknown sslmode"),
        (
            '[environments.e]\nupstream = "postgresql://u@h/d"\ntoken_ttl_days = 91',
            "token_ttl_days is 91, beyond token_ttl_max_days, 90",
        ),
        ('[proxy]\nbalancers = ["10.0.0.1", "0.0.0.0/0"]', 'balancers has "0.0.0.0/0", which is no address of a load balancer'),
        ('[proxy]\nbalancers = ["::ffff:0:0/96"]', "no address of a load balancer"),
        ('[proxy]\nbalancers = ["socket"]', "no address of a load balancer"),
        (
            '[alerts.team]\nurl_env = "X"\nenvironments = ["e"]',
            "dbshield.toml: [alerts.team] is about the environment e, which is not",
        ),
        ("[proxy\n", "is not TOML"),
        ("environments = 7", "environments"),
    ],
)
def test_a_mistake_is_answered_with_what_to_write(tmp_path: Path, text: str, expected: str) -> None:
    (problem,) = problems(write(tmp_path, text))
    assert expected in problem
    assert "hunter2" not in problem


def test_listening_for_others_is_possible_when_it_is_meant(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, '[proxy]\nlisten = ["0.0.0.0:6432"]\nallow_plaintext = true'))
    assert not config.proxy.addresses[0].is_local
    config = load_config(write(tmp_path, '[proxy]\nlisten = ["[::]:6432"]\ntls_certificate = "c.pem"\ntls_key = "k.pem"'))
    assert config.proxy.tls
    assert config.remarks() == ("[proxy] tls_required is off: a client that does not ask for TLS sends its data in clear",)


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(
        write(tmp_path, f'state = "state"\n[audit]\nfile = "a.jsonl"\n[environments.e]\n{UPSTREAM}\npassword_file = "~/pw"')
    )
    assert config.state == tmp_path / "state"
    assert config.audit_file == tmp_path / "a.jsonl"
    assert config.secret_key == tmp_path / "state" / "secret.key"
    assert config.environments["e"].password_file == tmp_path / "home" / "pw"
    monkeypatch.setenv("DBSHIELD_AUDIT__FILE", "-")
    assert load_config(tmp_path / "dbshield.toml").audit_file is None


def test_the_password_comes_from_where_it_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(
        tmp_path,
        f"""
        [control]
        url = "postgresql://dbshield@h/control"
        password_env = "CONTROL_PASSWORD"
        [environments.a]
        {UPSTREAM}
        password_file = "password"
        [environments.b]
        {UPSTREAM}
        """,
    )
    config = load_config(path)
    (tmp_path / "password").write_text(" pass word \n", encoding="utf-8")
    assert config.environments["a"].password() == " pass word "
    (tmp_path / "password").write_text("rotated\r\n", encoding="utf-8")
    assert config.environments["a"].password() == "rotated"
    assert config.environments["b"].password() is None
    with pytest.raises(ConfigError, match="CONTROL_PASSWORD is not set"):
        config.control.dsn()
    monkeypatch.setenv("CONTROL_PASSWORD", "it's")
    assert r"password=it\'s" in config.control.dsn()


@pytest.mark.parametrize(
    ("content", "expected"), [(None, "No such file"), (b"", "is empty"), (b"\n", "is empty"), (b"\xff", "not UTF-8")]
)
def test_a_password_file_that_holds_none_is_an_error(tmp_path: Path, content: bytes | None, expected: str) -> None:
    config = load_config(write(tmp_path, f'[environments.a]\n{UPSTREAM}\npassword_file = "password"'))
    if content is not None:
        (tmp_path / "password").write_bytes(content)
    with pytest.raises(ConfigError, match=expected):
        config.environments["a"].password()


def test_a_password_in_clear_works_but_is_remarked_and_never_shown(tmp_path: Path) -> None:
    text = '[control]\nurl = "postgresql://c:hunter2@h/c"\n[environments.a]\nupstream = "postgresql://u:hunter2@10.0.0.1/d"'
    config = load_config(write(tmp_path, text))
    assert config.environments["a"].password() == "hunter2"
    assert config.control.dsn() == "postgresql://c:hunter2@h/c"
    assert "hunter2" not in repr(config)
    assert config.remarks() == (
        "[control] url holds a password in clear; use password_file or password_env",
        "[environments.a] upstream holds a password in clear; use password_file or password_env",
        "[environments.a] upstream has sslmode=prefer: whoever sits between can read along; use verify-full",
    )


@pytest.mark.parametrize(
    ("text", "host", "folder", "port", "local", "wildcard"),
    [
        ("127.0.0.1:6432", "127.0.0.1", "", 6432, True, False),
        ("localhost:1", "localhost", "", 1, True, False),
        ("[::1]:6432", "::1", "", 6432, True, False),
        ("[::]:6432", "::", "", 6432, False, True),
        ("0.0.0.0:6432", "0.0.0.0", "", 6432, False, True),
        ("db.example.com:65535", "db.example.com", "", 65535, False, False),
        ("unix:/run/dbshield:6432", "", "/run/dbshield", 6432, True, False),
    ],
)
def test_addresses(text: str, host: str, folder: str, port: int, local: bool, wildcard: bool) -> None:
    address = ListenAddress.parse(text)
    assert (address.host, address.folder, address.port) == (host, folder, port)
    assert (address.is_local, address.is_wildcard) == (local, wildcard)
    assert str(address) == text
    assert address.is_socket == bool(folder)
    if folder:
        assert address.socket_path == f"{folder}/.s.PGSQL.{port}"


def test_no_value_can_be_changed(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, ""))
    with pytest.raises(ValueError, match="frozen"):
        config.proxy.workers = 3


def test_every_path_in_a_file_is_relative_to_the_file() -> None:
    def pieces(annotation: object) -> Iterator[object]:
        yield annotation
        for inner in get_args(annotation):
            yield from pieces(inner)

    def keys(section: type[BaseModel]) -> Iterator[str]:
        for name, field in section.model_fields.items():
            for piece in pieces(field.annotation):
                if piece is Path:
                    yield name
                elif isinstance(piece, type) and issubclass(piece, BaseModel):
                    yield from keys(piece)

    found = set(keys(Config))
    assert {"state", "tls_key", "executor_password_file", "drill_folder"} <= found <= PATH_KEYS
