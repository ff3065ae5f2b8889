"""Roles of agents, as far as no server is needed: the table of rights, marks, names, settings of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbshield.cli.main import run
from dbshield.config import EnvironmentConfig
from dbshield.config.names import NAME_PATTERN
from dbshield.errors import ConfigError
from dbshield.guard.roles import LONGEST, role_name
from dbshield.guard.roles_look import _elements
from dbshield.guard.roles_rights import RIGHTS, On, privileges, rights_of
from dbshield.model import AccessLevel

UPSTREAM = "postgresql://app@db.example.com/shop"
NAMES = st.from_regex(NAME_PATTERN, fullmatch=True)


def test_a_reader_only_reads() -> None:
    assert {right.privilege for right in rights_of(AccessLevel.READ, guarded=True)} == {"CONNECT", "USAGE", "SELECT"}
    assert privileges(AccessLevel.READ, On.SEQUENCE, guarded=True) == ()


def test_each_level_has_what_the_one_below_has_and_more() -> None:
    read, write, migrate = (set(rights_of(access, guarded=True)) for access in AccessLevel)
    assert read < write < migrate == set(RIGHTS)


def test_what_destroys_by_itself_needs_the_guard() -> None:
    assert set(rights_of(AccessLevel.MIGRATE, guarded=False)) == set(rights_of(AccessLevel.WRITE, guarded=True))
    assert all(right.guarded == (right.privilege in {"CREATE", "MEMBER"}) for right in RIGHTS)


def test_the_page_of_rights_has_every_right_with_its_reason() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "rights.md").read_text(encoding="utf-8")
    for right in RIGHTS:
        assert any(line.startswith(f"| {right.privilege} |") and right.why in line for line in page.splitlines())


@given(NAMES, NAMES, NAMES, NAMES)
def test_two_agents_never_share_a_role(environment: str, agent: str, other_environment: str, other: str) -> None:
    names = [role_name(environment, agent), role_name(other_environment, other)]
    assert all(len(name.encode()) <= LONGEST for name in names)
    assert (names[0] == names[1]) == ((environment, agent) == (other_environment, other))


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("", []),
        ('"$user", public', ["$user", "public"]),
        ('Shop,"Odd ""name""", "a, b"', ["shop", 'Odd "name"', "a, b"]),
    ],
)
def test_a_search_path_is_read_as_the_server_reads_it(written: str, names: list[str]) -> None:
    assert list(_elements(written)) == names


def test_the_administrators_password_is_never_in_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="holds a password"):
        EnvironmentConfig(upstream=UPSTREAM, administrator="postgresql://postgres:hush@db/shop")
    section = EnvironmentConfig(
        upstream=UPSTREAM, administrator="postgresql://postgres@db/shop", administrator_password_env="ADMIN_PASSWORD"
    )
    with pytest.raises(ConfigError, match="ADMIN_PASSWORD is not set"):
        section.administrator_password()
    monkeypatch.setenv("ADMIN_PASSWORD", "hush")
    assert section.administrator_password() == "hush"
    assert "hush" not in repr(section)
    with pytest.raises(ValueError, match="keep one"):
        EnvironmentConfig(upstream=UPSTREAM, administrator_password_env="A", administrator_password_file=Path("b"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("create claude -a read --dsn postgresql://postgres:hush@db/shop", "--dsn holds a password"),
        ("create claude -a read --password-env ADMIN", "a password was given without --dsn"),
        ("create claude -a read --dsn postgresql://postgres@db/shop --password-env A --password-file b", "are both given"),
        ("create claude -a read --dsn postgresql://postgres@db/shop --role own", "--role and --dsn are both given"),
        ("create claude -a read --schemas shop", "--schemas was given, and no role is made"),
        ("rotate claude", "no administrator is named"),
        ("remove claude --yes --heir shop_owner", "--heir was given without an administrator"),
    ],
)
def test_wrong_usage_is_said(words: str, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "dbshield.toml"
    config.write_text(f'state = "{tmp_path}/state"\n[environments.staging]\nupstream = "{UPSTREAM}"\n', encoding="utf-8")
    assert run(["agent", *words.split(), "-e", "staging", "--config", str(config)]) == 2
    told = capfd.readouterr().err
    assert said in told
    assert "hush" not in told
