"""The scan of a workspace in which somebody left credentials, against a real server; and that nothing it says is a secret."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
import yaml
from support.servers import Server

from dbshield.cli.main import run
from dbshield.scan.attempt import attempt
from dbshield.scan.connections import find_connections

CommandLine = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shop(server18: Server, worker_id: str) -> Iterator[str]:
    """The name of a seeded database to log in to. The one that all others are cloned from is to be left alone."""
    name = f"scanned_{worker_id}"
    server18.clone(name)
    yield name
    server18.drop(name)


@pytest.fixture
def cli(
    server18: Server, shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> CommandLine:
    """The command line with production on the server, and an empty folder `work` beside the configuration."""
    for name in list(os.environ):
        if name.startswith("PG"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("READER", server18.passwords["read"])
    monkeypatch.setenv("DBSHIELD_CONFIG", str(tmp_path / "dbshield.toml"))
    cluster = server18.cluster
    (tmp_path / "dbshield.toml").write_text(
        f"""
        [environments.production]
        upstream = "postgresql://agent_read@{cluster.host}:{cluster.port}/{shop}"
        password_env = "READER"
        """,
        encoding="utf-8",
    )
    (tmp_path / "work").mkdir()

    def call(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run(["scan", *words])
        said = capfd.readouterr()
        for secret in (*server18.passwords.values(), *(quote(password) for password in server18.passwords.values())):
            assert secret not in said.out + said.err
        return code, said.out, said.err

    return call


def told(out: str) -> list[dict[str, Any]]:
    findings = json.loads(out)["findings"]
    assert isinstance(findings, list)
    return findings


@pytest.fixture
def url(server18: Server, shop: str) -> Callable[..., str]:
    """What leads to the database past the proxy, by an agent's access and the host's name."""

    def made(access: str, host: str = server18.cluster.host) -> str:
        return f"postgresql://agent_{access}:{quote(server18.passwords[access])}@{host}:{server18.cluster.port}/{shop}"

    return made


def test_a_credential_that_goes_around_the_proxy_is_named_and_not_shown(cli: CommandLine, url: Callable[..., str]) -> None:
    Path("work/.env").write_text(f"# old\nDATABASE_URL={url('write')}\n", encoding="utf-8")
    code, out, err = cli("work")
    assert code == 1
    (line,) = [line for line in out.splitlines() if line.startswith("around the proxy")]
    assert "work/.env:2" in line
    assert "production" in line
    assert "1 files read, 1 credentials, 1 around the proxy" in out
    assert "change the passwords" in err


def test_what_was_tried_tells_the_rights(cli: CommandLine, url: Callable[..., str]) -> None:
    Path("work/a.env").write_text(url("write"), encoding="utf-8")
    Path("work/b.env").write_text(url("write").replace("write-", "wrong-"), encoding="utf-8")
    code, out, _ = cli("work", "--try", "--json")
    first, second = told(out)
    assert code == 1
    assert first["tried"]["role"] == "agent_write"
    assert any(word.startswith("writes ") for word in first["tried"]["rights"])
    assert second["tried"] == {"connected": False, "failure": second["tried"]["failure"]}
    assert first["fingerprint"] != second["fingerprint"]


def test_an_address_that_no_comparison_knows_is_found_by_trying(cli: CommandLine, url: Callable[..., str]) -> None:
    """127.0.0.1 as one number, which the system's resolver reads as well."""
    Path("work/dsn").write_text(url("write", host="2130706433"), encoding="utf-8")
    code, out, _ = cli("work", "--json")
    assert (code, told(out)[0]["way"]) == (0, "elsewhere")
    code, out, _ = cli("work", "--try", "--json")
    assert (code, told(out)[0]["why"]) == (1, "it logs in to its cluster")


def test_the_password_of_the_environment_is_found_in_any_text(cli: CommandLine, server18: Server) -> None:
    Path("work/chat.txt").write_text(f"use {server18.passwords['read']}, it works", encoding="utf-8")
    code, out, _ = cli("work", "--json")
    assert code == 1
    assert [(one["way"], one["what"], one["line"]) for one in told(out)] == [("around the proxy", "password of production", 1)]


def test_what_leads_elsewhere_is_told_and_fails_only_on_demand(cli: CommandLine) -> None:
    Path("work/x").write_text("postgres://a:b@db.example.org/x\n" + "RAILWAY_TOKEN=0f3a8c51-7b6e-4e0e-9d6a-2f1c0b9a8d7e\n")
    code, out, _ = cli("work", "--json")
    assert code == 0
    assert [one["way"] for one in told(out)] == ["maybe", "elsewhere"]
    assert cli("work", "--any")[0] == 1
    assert "0f3a8c51" not in cli("work")[1]


def test_many_that_lead_elsewhere_do_not_hide_the_one_that_does_not(cli: CommandLine, url: Callable[..., str]) -> None:
    Path("work/a").write_text("".join(f"postgres://a:b{number}@db.example.org/x\n" for number in range(50)))
    Path("work/z").write_text(url("write"))
    _, out, _ = cli("work")
    lines = out.splitlines()
    assert lines[1].startswith("around the proxy")
    assert len(lines) == 24
    assert lines[-2:] == [
        "and 30 more that lead elsewhere, which --json has",
        "2 files read, 51 credentials, 1 around the proxy",
    ]
    assert len(told(cli("work", "--json")[1])) == 51


def test_a_clean_workspace_is_fine(cli: CommandLine, tmp_path: Path) -> None:
    Path("work/readme").write_text("nothing here")
    code, out, err = cli("work", "--any")
    assert (code, out) == (0, "1 files read, 0 credentials, 0 around the proxy\n")
    assert err == "No credentials were found.\n"


def test_wrong_usage_is_said(cli: CommandLine) -> None:
    assert cli("nowhere")[0] == 2
    assert cli()[0] == 2


def test_without_environments_it_says_so(cli: CommandLine) -> None:
    Path("dbshield.toml").write_text("", encoding="utf-8")
    Path("work/x").write_text("postgres://a:b@db.example.org/x\n")
    code, out, err = cli("work")
    assert code == 0
    assert "no environment is configured" in err
    assert "db.example.org" in out


def test_trying_changes_nothing_and_tells_a_superuser(server: Server, database: str) -> None:
    with server.connect() as admin:
        admin.execute("drop role if exists scan_super")
        admin.execute("create role scan_super superuser login password 'scan-super-password'")
    try:
        text = f"postgres://scan_super:scan-super-password@{server.cluster.host}:{server.cluster.port}/{database}"
        (found,) = find_connections(text, 1)
        tried = attempt(found)
    finally:
        with server.connect() as admin:
            admin.execute("drop role scan_super")
    assert tried is not None
    assert tried.connected
    assert tried.rights[0] == "superuser"
    assert tried.system_identifier is not None


def test_a_server_that_wants_the_password_in_clear_does_not_get_it(found_server: tuple[str, list[bytes]]) -> None:
    """Whoever leaves a credential in a workspace chooses the server that it names."""
    place, received = found_server
    (found,) = find_connections(f"postgres://u:clear-secret@{place}/x?sslmode=disable", 1)
    tried = attempt(found)
    assert tried is not None
    assert not tried.connected
    assert b"clear-secret" not in b"".join(received)
    assert received


@pytest.fixture
def found_server() -> Iterator[tuple[str, list[bytes]]]:
    """A server that asks everybody for the password in clear text."""
    import socket  # noqa: PLC0415
    import threading  # noqa: PLC0415

    received: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)

    def serve() -> None:
        try:
            while True:
                with listener.accept()[0] as peer:
                    peer.settimeout(20)
                    while data := peer.recv(4096):
                        received.append(data)
                        wants_encryption = data[4:8] in {bytes.fromhex("04d2162f"), bytes.fromhex("04d21630")}
                        peer.sendall(b"N" if wants_encryption else b"R\0\0\0\x08\0\0\0\x03")
        except OSError:
            return

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}", received
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(20)
    assert not thread.is_alive()


def test_the_hook_for_pre_commit_names_a_command_that_there_is(cli: CommandLine) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    program, command, *words = hook["entry"].split()
    Path("work/x").write_text("PGPASSWORD=abcdefgh\n")
    assert (program, command) == ("dbshield", "scan")
    assert cli(*words, "work/x")[0] == 1


def test_passwords_are_tried_with_the_role_of_the_text(url: Callable[..., str]) -> None:
    with psycopg.connect(url("read")) as connection:
        assert connection.info.user == "agent_read"
    (found,) = find_connections(url("read"), 1)
    tried = attempt(found)
    assert tried is not None
    assert (tried.connected, tried.role) == (True, "agent_read")
    assert not any(word.startswith("writes") for word in tried.rights)
