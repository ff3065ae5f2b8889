"""docs/how-to/protect-a-database.md, from the first look to the first refusal: its commands in their order, on a real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from support import servers
from support.commands import Command, run_command
from support.ports import free_port
from support.servers import Server
from support.waiting import until

from dbshield.cluster import temporary_folder
from docs.blocks import commands

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "protect-a-database.md").read_text("utf-8")
WRITTEN = [written.words for written in commands(PAGE, "dbshield")]
FINE: dict[str, set[int]] = {"doctor": {0, 1}, "scan": {1}}
"""Exit codes of what finds something on this server."""


@pytest.fixture
def server() -> Iterator[Server]:
    """One of its own: the guard's roles belong to the whole cluster."""
    with servers.own_server(18, "protect") as server:
        server.clone("shop")
        with server.connect() as admin:
            admin.execute("create database dbshield_control")
        yield server


@pytest.fixture
def place() -> Iterator[Path]:
    folder = temporary_folder("protect-test-")
    yield folder
    shutil.rmtree(folder)


class Team:
    """Who follows the page, on this server instead of the page's."""

    def __init__(self, server: Server, place: Path) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("DBSHIELD_", "PG"))}
        self.place = place
        self.commands = list(WRITTEN)
        self.environment = clean | {
            "ADMIN_PASSWORD": "of no use over a socket",
            "DBSHIELD_STATE": str(place / "state"),
            "DBSHIELD_CONTROL__URL": server.dsn("dbshield_control"),
            "DBSHIELD_PROXY__LISTEN": f"127.0.0.1:{free_port()}",
            "DBSHIELD_CONSOLE__LISTEN": f"127.0.0.1:{free_port()}",
            "COLUMNS": "200",
        }
        cluster = server.cluster
        upstream = make_conninfo("", host=cluster.host, port=cluster.port, dbname="shop", user="agent_read")
        (place / "password").write_text(server.passwords["read"])
        (place / "workspace").mkdir()
        (place / "workspace" / ".env.old").write_text(f"PASSWORD={server.passwords['read']}\n")
        self.instead = {
            "postgresql://dbshield@db.example.com/shop?sslmode=verify-full": upstream,
            "postgresql://postgres@db.example.com/shop": server.dsn("shop"),
            "/run/secrets/shop": str(place / "password"),
            "~/work/shop": str(place / "workspace"),
        }

    def says(self, *begin: str) -> str:
        """Runs the page's next command that begins so; what it printed."""
        words = self.commands.pop(0)
        assert words[: len(begin)] == begin
        done = run_command([self.instead.get(word, word) for word in words], cwd=self.place, env=self.environment, timeout=120.0)
        assert done.returncode in FINE.get(words[0], {0}), done.stdout + done.stderr
        return done.stdout

    def setting(self, text: str) -> None:
        """A line more in the environment's section."""
        file = self.place / "dbshield.toml"
        file.write_text(re.sub(r"(^\[environments\.staging\]\n)", rf"\g<1>{text}\n", file.read_text(), flags=re.MULTILINE))


@pytest.mark.long
def test_each_step_leads_to_the_next(server: Server, place: Path) -> None:
    team = Team(server, place)
    team.says("init")
    assert "guard" in team.says("doctor")
    assert ".env.old:1" in team.says("scan")
    assert "create event trigger" in team.says("guard", "install")
    assert "guarded" in team.says("guard", "install")
    team.setting('mode = "observe"')
    found = re.search(r"postgresql://\S+", team.says("agent", "create"))
    assert found
    assert team.commands.pop(0) == ("up",)
    with (place / "up.log").open("wb") as out:
        up = Command(["up"], cwd=place, env=team.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        log = place / "up.log"
        listens = f'"address": "{team.environment["DBSHIELD_PROXY__LISTEN"]}"'
        assert until(lambda: listens in log.read_text() or up.poll() is not None, deadline=120), log.read_text()
        with psycopg.connect(found[0].strip("\"'"), autocommit=True) as agent:
            assert agent.execute("delete from shop.settings").rowcount == 3
            entries = [json.loads(line)["entry"] for line in team.says("audit", "search").splitlines()]
            assert [entry["observed"] for entry in entries if "DS201" in entry["rules"]] == ["hold"]
            file = place / "dbshield.toml"
            file.write_text(file.read_text().replace('mode = "observe"', ""))
            up.send_signal(signal.SIGHUP)
            assert until(lambda: "policy-changed" in (place / "state" / "audit.jsonl").read_text())
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="DS201"):
                agent.execute("delete from shop.products")
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(60)
