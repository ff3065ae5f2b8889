"""`dbshield guard` as a person runs it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo
from support import servers
from support.servers import Server

from dbshield.cli.main import run

pytestmark = pytest.mark.one_server(by="module")

Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module", params=servers.majors(), ids=lambda major: f"pg{major}")
def guarded_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of its own: the guard's roles belong to the whole cluster. test_guard.py has the same one."""
    with servers.own_server(request.param, f"guard-commands-{request.param}") as server:
        yield server


@pytest.fixture
def guard(guarded_server: Server, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Runs `dbshield guard WORDS --dsn …` for a fresh database; its exit code and what it printed."""
    guarded_server.clone("commanded")

    def command(*words: str) -> tuple[int, str]:
        code = run(["guard", *words, "--dsn", guarded_server.dsn("commanded")])
        return code, capsys.readouterr().out

    yield command
    guarded_server.drop("commanded")


def parsed(text: str) -> Any:
    return json.loads(text)[0]


def test_from_install_to_uninstall(guard: Command, guarded_server: Server) -> None:
    code, text = guard("verify")
    assert (code, "is not installed" in text) == (1, True)
    code, text = guard("install", "--environment", "staging", "--json")
    done = parsed(text)
    assert (code, done["previous"], done["open"]) == (0, None, [])
    assert done["guarded"] == 10
    code, text = guard("verify")
    assert (code, text) == (0, "commanded: the guard is as it was shipped.\n")
    with guarded_server.connect("commanded") as admin:
        admin.execute("grant dbshield_agents to agent_read, agent_write, agent_migrate")
        admin.execute("alter event trigger dbshield_dropped disable")
    code, text = guard("verify", "--json")
    problem = parsed(text)["problems"][0]
    assert (code, "dbshield_dropped is disabled" in problem["what"]) == (1, True)
    assert "guard install" in problem["mend"]
    assert guard("install", "-e", "staging")[0] == 0
    assert guard("verify")[0] == 0
    code, text = guard("uninstall")
    assert (code, text) == (0, "commanded: the guard is removed.\n")
    assert guard("verify")[0] == 1


def test_status_names_what_closes_each_danger(guard: Command, guarded_server: Server) -> None:
    before = {line["danger"]: line["layer"] for line in parsed(guard("status", "--json")[1])["dangers"]}
    assert before["TRUNCATE"] == before["DELETE and UPDATE beyond the limit"] == "nothing"
    guard("install", "--environment", "staging", "--schemas", "shop, archive", "--proxy-address", "10.0.0.0/8")
    with guarded_server.connect("commanded") as admin:
        admin.execute("grant dbshield_agents to agent_read, agent_write, agent_migrate")
    found = {line["danger"]: line for line in parsed(guard("status", "--json")[1])["dangers"]}
    assert before.keys() == found.keys()
    layers = {name: line["layer"] for name, line in found.items()}
    assert layers["TRUNCATE"] == "truncate guard"
    assert layers["DELETE and UPDATE beyond the limit"] == "row guard"
    assert layers["DROP of anything, with or without CASCADE"] == "event trigger"
    assert layers["databases: CREATE"] == layers["files and programs of the server"] == "privilege"
    # The agent for migrations is a member of the owner here, which is what a careless team hands out.
    assert found["setval on a sequence"]["detail"] == found["REASSIGN OWNED"]["detail"] == "open for agent_migrate"
    login = "event trigger" if guarded_server.major >= 17 else "nothing"
    assert layers["an agent's login around the proxy"] == login
    with guarded_server.connect("commanded") as admin:
        admin.execute("alter event trigger dbshield_ddl_start disable")
    found = {line["danger"]: line for line in parsed(guard("status", "--json")[1])["dangers"]}
    assert found["DROP of anything, with or without CASCADE"]["detail"] == "open for agent_migrate"
    guard("uninstall")


def test_a_dry_run_changes_nothing(guard: Command) -> None:
    code, text = guard("install", "--environment", "staging", "--dry-run")
    assert code == 0
    assert text.startswith("begin;\n")
    assert text.endswith("commit;\n")
    assert guard("verify")[0] == 1


def test_what_is_missing_is_said(guarded_server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    for words, expected in (
        (["guard", "verify"], "neither --environment nor --dsn"),
        (["guard", "install", "--dsn", guarded_server.dsn("postgres")], "--environment is missing"),
        (["guard", "status", "--dsn", "host=db password=hush dbname=x"], "--dsn holds a password"),
        (
            ["guard", "status", "--dsn", make_conninfo(guarded_server.dsn("nowhere"), connect_timeout=5)],
            '"nowhere" does not exist',
        ),
    ):
        assert run(words) == 2
        said = capsys.readouterr().err
        assert expected in said
        assert "hush" not in said
