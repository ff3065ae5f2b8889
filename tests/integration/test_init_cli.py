"""What `dbshield init` writes, and what `dbshield config` says of it."""

from __future__ import annotations

import re
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command_line import CommandLine, command_line, undisturbed
from support.control import empty_database
from support.servers import Server

from dbshield.config import AgentConfig, Config, EnvironmentConfig, EnvironmentOverride, load_config
from dbshield.config.alerts import AlertsConfig
from dbshield.config.backup import BackupConfig
from dbshield.policy.policy import DEFAULT_MAX_ROWS, DEFAULT_MAX_ROWS_PER_HOUR

UPSTREAM = "postgresql://app@db.example.com/shop?sslmode=verify-full"


@pytest.fixture(autouse=True)
def _restore(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with undisturbed(monkeypatch):
        yield


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    return command_line(capfd, tmp_path, monkeypatch)


def test_init_writes_a_file_that_holds_and_never_writes_over_it(
    server: Server, cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pw").write_text("secret\n", encoding="utf-8")
    with empty_database(server) as dsn:
        monkeypatch.setenv("DBSHIELD_CONTROL__URL", dsn)
        monkeypatch.setenv("DBSHIELD_STATE", str(tmp_path / "state"))
        first = cli("init", "-e", "staging", "--upstream", UPSTREAM, "--password-file", "pw", "--json")
        assert first.code == 0
        assert first.json == {
            "config": "dbshield.toml",
            "config_written": True,
            "state": str(tmp_path / "state"),
            "key_made": True,
            "revision_before": None,
            "environments_registered": ["staging"],
        }
        text = (tmp_path / "dbshield.toml").read_text(encoding="utf-8")
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) in {0o700, 0o711}
        assert stat.S_IMODE((tmp_path / "state" / "secret.key").stat().st_mode) == 0o600
        again = cli("init", "--json").json
        assert (again["config_written"], again["key_made"], again["environments_registered"]) == (False, False, [])
        other = cli("init", "-e", "production", "--upstream", UPSTREAM)
        assert (other.code, "is there and is not written over" in other.err) == (2, True)
        assert (tmp_path / "dbshield.toml").read_text(encoding="utf-8") == text
        assert load_config().environments["staging"].password() == "secret"
        assert cli("config", "check").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-e", "staging"), "--environment and --upstream go together"),
        (("--password-env", "X"), "without --environment"),
        (("-e", "staging", "--upstream", "postgresql://u:hunter2@h/d"), "has a password in it"),
        (("-e", "Staging", "--upstream", UPSTREAM), "is not a name"),
        (("-e", "staging", "--upstream", "postgresql://h/d"), "names no user"),
        (("--config", "no/such/folder.toml"), "cannot be written"),
    ],
)
def test_init_refuses_before_it_writes(cli: CommandLine, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    result = cli("init", *words)
    assert (result.code, said in result.err, "hunter2" in result.err) == (2, True, False)
    assert list(tmp_path.iterdir()) == []


def test_every_setting_of_the_written_file_is_its_default(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dbshield.config.text import template  # noqa: PLC0415

    text = template()
    sections = ("control", "proxy", "schedule", "audit", "console", "metrics", "tracing", "log")
    assert tomllib.loads(text) == {section: {} for section in sections}
    # Without the comment signs in front of settings and sections, everything stands there with its default.
    bare = re.sub(r"^# (?=[a-z_]+ = |\[)", "", text, flags=re.MULTILINE)
    # Two settings have no default: for whom backups are sealed, and where an alert goes.
    recipient = "age1" + "q" * 58
    bare = bare.replace("encrypt_to = []", f'encrypt_to = ["{recipient}"]').replace('url_env = ""', 'url_env = "TEAM_URL"')
    path = tmp_path / "dbshield.toml"
    path.write_text(bare, encoding="utf-8")
    production = EnvironmentConfig(
        upstream="postgresql://dbshield@db.example.com:5432/shop?sslmode=verify-full",
        overrides=(EnvironmentOverride(rule="DS2xx", verdict="limit"),),
        agents={"claude": AgentConfig(mode="enforce", max_rows=DEFAULT_MAX_ROWS, max_rows_per_hour=DEFAULT_MAX_ROWS_PER_HOUR)},
    )
    expected = Config(
        environments={"production": production},
        backup={"production": BackupConfig(destination="s3://shop-backups/dbshield", encrypt_to=(recipient,))},
        alerts={"team": AlertsConfig(url_env="TEAM_URL")},
    )
    assert load_config(path) == expected


def test_config_check_and_show(cli: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "dbshield.toml"
    path.write_text(
        '[environments.staging]\nupstream = "postgresql://u:hunter2@127.0.0.1/d"\npassword_file = "absent"\n', encoding="utf-8"
    )
    checked = cli("config", "check", "--json")
    assert checked.code == 1
    assert checked.json["problems"] == [
        f"[environments.staging] password: the file {tmp_path}/absent cannot be read: No such file or directory"
    ]
    assert checked.json["remarks"] == [
        "[environments.staging] upstream holds a password in clear; use password_file or password_env"
    ]
    (tmp_path / "absent").write_text("pw", encoding="utf-8")
    assert cli("config", "check").out == "dbshield.toml: fine\n"
    shown = cli("config", "show")
    assert "hunter2" not in shown.out + cli("config", "show", "--json").out
    path.write_text(shown.out, encoding="utf-8")
    assert cli("config", "show").out == shown.out
    path.write_text("[proxi]\n", encoding="utf-8")
    broken = cli("config", "check")
    assert (broken.code, broken.out) == (
        1,
        'dbshield.toml: proxi: "proxi" is no setting here; did you mean "proxy"?\ndbshield.toml: 1 to mend\n',
    )
    assert cli("config", "check", "--config", "absent.toml").code == 2
