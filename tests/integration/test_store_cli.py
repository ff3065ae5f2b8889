"""The commands that people type, against a real control database."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from support.command_line import CommandLine, command_line, undisturbed
from support.control import empty_database, tables_database
from support.servers import Server

from dbshield.control.tokens import parse_token

pytestmark = pytest.mark.one_server

UPSTREAM = "postgresql://app@db.example.com/shop?sslmode=verify-full"


@pytest.fixture(autouse=True)
def _restore(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with undisturbed(monkeypatch):
        yield


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    return command_line(capfd, tmp_path, monkeypatch)


@pytest.fixture
def shield(server: Server, cli: CommandLine, tmp_path: Path) -> Iterator[CommandLine]:
    """The command line of an initialised dbshield with its control database on a server."""
    with tables_database(server) as dsn:
        (tmp_path / "dbshield.toml").write_text(
            f"""
            state = "state"
            [control]
            url = "{dsn}"
            [environments.staging]
            upstream = "{UPSTREAM}"
            [environments.production]
            upstream = "{UPSTREAM}"
            token_ttl_max_days = 40
            """,
            encoding="utf-8",
        )
        assert cli("init").code == 0
        yield cli


def test_an_agent_from_its_creation_to_its_end(shield: CommandLine) -> None:
    created = shield("agent", "create", "claude", "--environment", "staging", "--access", "write", "--json")
    assert created.code == 0
    assert list(created.json) == ["agent", "dsn", "token_id", "expires_at"]
    match = re.fullmatch(r"postgresql://claude\.staging:(dbs_[a-z0-9_]+)@127\.0\.0\.1:6432/shop", created.json["dsn"])
    assert match is not None
    token = parse_token(match[1])
    assert (token.id, token.environment) == (created.json["token_id"], "staging")
    assert psycopg.conninfo.conninfo_to_dict(created.json["dsn"])["password"] == token.text

    listed = shield("agent", "list", "--json").json
    assert [(agent["agent"], agent["access"], agent["role"], agent["live_tokens"]) for agent in listed] == [
        ("claude", "write", None, 1)
    ]
    assert token.secret not in shield("token", "list", "--json").out
    issued = shield("token", "issue", "claude", "-e", "staging", "--ttl", "12h", "--json").json
    revoked = shield("token", "revoke", token.id)
    assert (revoked.code, revoked.out) == (0, f"Token {token.id} is revoked.\n")
    assert shield("token", "revoke", token.id, "--json").json == {"token_id": token.id, "revoked": False}
    states = {entry["token_id"]: entry["state"] for entry in shield("token", "list", "claude", "-e", "staging", "--json").json}
    assert states == {token.id: "revoked", issued["token_id"]: "live"}
    assert [entry["agents"] for entry in shield("environment", "list", "--json").json] == [1, 0]

    asked = shield("agent", "remove", "claude", "-e", "staging")
    assert (asked.code, "--yes" in asked.err) == (2, True)
    removed = shield("agent", "remove", "claude", "-e", "staging", "--yes")
    assert (removed.code, removed.out) == (0, "Agent claude is gone from staging, and 1 token with it.\n")
    assert shield("agent", "list", "--json").json == []


def test_a_token_is_narrowed_listed_and_rotated(shield: CommandLine) -> None:
    first = shield("agent", "create", "claude", "-e", "staging", "-a", "write", "--json").json
    narrow = ("--access", "read", "--database", "shop", "--network", "10.0.0.0/8", "--network", "socket")
    hours = ("--hours", "mon-fri 08:00-18:00 Europe/Berlin")
    said = shield("token", "issue", "claude", "-e", "staging", *narrow, *hours)
    scope = "read; shop; 10.0.0.0/8, socket; Mon-Fri 08:00-18:00 Europe/Berlin"
    assert (said.code, f"another token for staging, {scope} until" in said.out) == (0, True)
    listed = shield("token", "list", "--json").json
    assert [(entry["scope"], entry["stale"], entry["last_used_at"]) for entry in listed] == [
        ({}, False, None),
        (
            {
                "access": "read",
                "databases": ["shop"],
                "networks": ["10.0.0.0/8", "socket"],
                "hours": "Mon-Fri 08:00-18:00 Europe/Berlin",
            },
            False,
            None,
        ),
    ]
    assert scope in shield("token", "list").out
    rotated = shield("token", "rotate", listed[1]["token_id"], "--overlap", "1h", "--json")
    assert (rotated.code, "works until" in rotated.err) == (0, True)
    assert parse_token(str(psycopg.conninfo.conninfo_to_dict(rotated.json["dsn"])["password"])).id == rotated.json["token_id"]
    newest = shield("token", "list", "--json").json[-1]
    assert (newest["replaces"], newest["scope"]) == (listed[1]["token_id"], listed[1]["scope"])
    at_once = shield("token", "rotate", first["token_id"], "--overlap", "0")
    assert (at_once.code, f"The old token {first['token_id']} is revoked." in at_once.err) == (0, True)
    assert shield("token", "rotate", first["token_id"]).code == 1
    stale = shield("token", "list", "--stale")
    assert (stale.out, stale.err) == ("", "There are no stale tokens.\n")


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--access", "migrate"), 1, "a token may not have more"),
        (("--database", "elsewhere"), 1, "has no database elsewhere"),
        (("--network", "10.0.0.1/8"), 2, "is no network"),
        (("--hours", "always"), 2, "names no hours"),
        (("--ttl", "1000d"), 1, "lives at most"),
    ],
)
def test_a_scope_that_cannot_be_is_not_issued(shield: CommandLine, options: tuple[str, ...], code: int, says: str) -> None:
    shield("agent", "create", "claude", "-e", "staging", "-a", "write")
    refused = shield("token", "issue", "claude", "-e", "staging", *options)
    assert (refused.code, refused.out, says in refused.err) == (code, "", True)
    assert len(shield("token", "list", "--json").json) == 1


def test_an_environment_is_frozen_and_thawed(shield: CommandLine) -> None:
    made = shield("environment", "freeze", "staging", "--reason", "incident 17", "--json")
    assert (made.code, made.json["reason"], made.json["until"]) == (0, "incident 17", None)
    timed = shield("environment", "freeze", "production", "-r", "release", "--until", "2999-05-01T18:00+02:00")
    assert timed.out == "production is frozen until 2999-05-01 16:00 UTC: release\n"
    assert shield("environment", "freeze", "production", "-r", "more", "--for", "2h").code == 0
    listed = {entry["environment"]: entry["freezes"] for entry in shield("environment", "list", "--json").json}
    assert [freeze["reason"] for freeze in listed["production"]] == ["release", "more"]
    assert listed["staging"][0]["frozen_by"]
    assert "until somebody thaws it: incident 17" in shield("environment", "list").out
    assert shield("environment", "thaw", "production").out == "production is thawed: 2 freezes are lifted.\n"
    assert shield("environment", "thaw", "staging", "--json").json == {"environment": "staging", "lifted": 1}
    assert [entry["freezes"] for entry in shield("environment", "list", "--json").json] == [[], []]


def test_the_policy_that_is_shown_knows_the_agent_and_the_freeze(shield: CommandLine, tmp_path: Path) -> None:
    shield("agent", "create", "claude", "-e", "staging", "-a", "write")
    shield("environment", "freeze", "staging", "-r", "incident 17", "--until", "2999-05-01T18:00Z")
    tree = shield("policy", "show", "-e", "staging", "--agent", "claude", "--json").json
    assert (tree["access"], tree["frozen"]["reason"], tree["frozen"]["from"]) == ("write", "incident 17", "control database")
    assert "until 2999-05-01 18:00 UTC: incident 17" in shield("policy", "show", "-e", "staging").out
    unknown = shield("policy", "show", "-e", "production", "--agent", "gpt", "--json")
    assert (unknown.json["access"], unknown.json["frozen"]) == ("migrate", None)
    assert "there is no agent gpt in production" in unknown.err
    path = tmp_path / "dbshield.toml"
    path.write_text(f"{path.read_text(encoding='utf-8')}\nfrozen_until = 2998-01-01T00:00:00Z\n", encoding="utf-8")
    listed = {entry["environment"]: entry for entry in shield("environment", "list", "--json").json}
    assert (listed["production"]["frozen"], listed["production"]["frozen_in_configuration"]) == (True, True)
    assert (listed["staging"]["frozen"], listed["staging"]["frozen_in_configuration"]) == (True, False)
    assert "in dbshield.toml until 2998-01-01 00:00 UTC" in shield("environment", "list").out


def test_people_read_the_same_in_words(shield: CommandLine) -> None:
    created = shield("agent", "create", "claude", "-e", "staging", "-a", "read")
    assert "Agent claude may read in staging until" in created.out
    assert "shown this once" in created.out
    assert created.out.count("dbs_staging_") == 1
    heads = ["agent", "environment", "access", "role", "tokens", "created", "frozen"]
    assert shield("agent", "list").out.splitlines()[0].split() == heads
    assert "claude" in shield("token", "list").out
    assert "db.example.com:5432" in shield("environment", "list").out


def test_a_role_of_its_own(shield: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pw").write_text("hunter2\n", encoding="utf-8")
    monkeypatch.setenv("ROLE_PASSWORD", "hunter3")
    create = ("agent", "create", "claude", "-a", "read", "--json", "--role", "claude_ro")
    assert shield(*create, "-e", "staging", "--role-password-file", "pw").code == 0
    assert shield(*create, "-e", "production", "--role-password-env", "ROLE_PASSWORD").code == 0
    assert [agent["role"] for agent in shield("agent", "list", "--json").json] == ["claude_ro", "claude_ro"]
    assert "absent cannot be read" in shield(*create, "-e", "staging", "--role-password-file", "absent").err
    assert "ABSENT is not set" in shield(*create, "-e", "staging", "--role-password-env", "ABSENT").err


WRONG = (
    ("agent create claude -e staging -a read", 1, "there is an agent claude in staging already"),
    ("agent create Claude -e staging -a read", 2, '"Claude" is not a name'),
    ("agent create gpt -e stagin -a read", 2, 'Did you mean "staging"?'),
    ("agent create gpt -e staging -a admin", 2, "'read', 'write', 'migrate'"),
    ("agent create gpt -e staging", 2, "--access"),
    ("agent create gpt -e staging -a read --ttl soon", 2, '"soon" is no length of time'),
    ("agent create gpt -e production -a read --ttl 41d", 1, "lives at most 40 days"),
    ("agent create gpt -e staging -a read --role-password-env X", 2, "without --role"),
    ("agent remove gpt -e staging --yes", 1, "there is no agent gpt in staging"),
    ("token issue gpt -e staging", 1, "there is no agent gpt in staging"),
    ("token revoke aaaaaaaaaaaa", 1, "there is no token aaaaaaaaaaaa"),
    ("token list gpt -e staging", 1, "there is no agent gpt in staging"),
    ("agent list --config absent.toml", 2, "absent.toml, which is no file"),
    ("agent rename a b", 2, "No such command"),
    ("environment freeze staging", 2, "--reason"),
    ("environment freeze stagin -r x", 2, 'Did you mean "staging"?'),
    ("environment freeze staging -r x --for 2h --until 2999-01-01", 2, "are both given"),
    ("environment freeze staging -r x --until later", 2, '"later" is no time'),
    ("environment freeze staging -r x --until 2020-01-01", 2, "over before it begins"),
    ("environment freeze staging -r x --for 0h", 2, '"0h" is no length of time'),
    ("environment thaw staging", 1, "nobody froze staging"),
)


def test_what_goes_wrong_is_one_sentence(shield: CommandLine) -> None:
    shield("agent", "create", "claude", "-e", "staging", "-a", "read")
    for words, code, said in WRONG:
        result = shield(*words.split())
        assert (result.code, result.out) == (code, ""), words
        assert said in result.err, words


def test_before_init_it_says_so(server: Server, cli: CommandLine, tmp_path: Path) -> None:
    with empty_database(server) as dsn:
        (tmp_path / "dbshield.toml").write_text(f'[control]\nurl = "{dsn}"\n', encoding="utf-8")
        result = cli("agent", "list")
        assert (result.code, result.err) == (2, "dbshield: the control database is empty\n  `dbshield init` makes its tables.\n")


def test_a_control_database_that_is_away(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "dbshield.toml").write_text('[control]\nurl = "postgresql://c:hunter2@127.0.0.1:1/c"\n', encoding="utf-8")
    result = cli("agent", "list")
    assert result.code == 2
    assert "does not answer" in result.err
    assert "hunter2" not in result.err


@pytest.mark.parametrize(
    ("proxy", "expected"),
    [
        ('listen = ["unix:/run/dbshield:6432"]', "@/shop?host=%2Frun%2Fdbshield&port=6432"),
        ('listen = ["[::1]:7000"]', "@[::1]:7000/shop"),
        (
            'advertise = "shield.example.com:443"\ntls_certificate = "c"\ntls_key = "k"',
            "@shield.example.com:443/shop?sslmode=require",
        ),
        ('listen = ["0.0.0.0:6432"]\nallow_plaintext = true', f"@{os.uname().nodename}:6432/shop"),
    ],
)
def test_the_connection_string_names_the_proxy(shield: CommandLine, tmp_path: Path, proxy: str, expected: str) -> None:
    path = tmp_path / "dbshield.toml"
    path.write_text(f"{path.read_text(encoding='utf-8')}\n[proxy]\n{proxy}\n", encoding="utf-8")
    dsn = shield("agent", "create", "claude", "-e", "staging", "-a", "read", "--json").json["dsn"]
    assert dsn.endswith(expected)
    assert psycopg.conninfo.conninfo_to_dict(dsn)["user"] == "claude.staging"


def test_without_a_state_folder_it_names_init(tmp_path: Path, cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBSHIELD_STATE", str(tmp_path / "absent"))
    result = cli("agent", "list")
    assert (result.code, "`dbshield init` makes it" in result.err) == (2, True)
