"""docs/how-to/managed-postgresql.md: its commands in their order, by an owner of the tables that is no superuser."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from support import servers
from support.commands import run_command
from support.servers import Server

from dbshield.cluster import temporary_folder
from docs.blocks import blocks, commands

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "managed-postgresql.md").read_text("utf-8")
INSTALL, CREATE, STATUS = (written.words for written in commands(PAGE, "dbshield"))
(SETUP,) = (block.text for block in blocks(PAGE) if block.language == "sql")
OWNER = "postgresql://shop_owner@db.example.com/shop"


@pytest.fixture
def server() -> Iterator[Server]:
    """One of its own: the guard's roles belong to the whole cluster."""
    with servers.own_server(18, "managed") as server:
        server.clone("shop")
        with server.connect() as admin:
            admin.execute("create role shop_owner login createrole password 'owner'")
            admin.execute("create database dbshield_control")
            admin.execute(SETUP.encode())
            admin.execute("grant dbshield_agents to shop_owner with admin option")
        with server.connect("shop") as admin:
            admin.execute("reassign owned by app_owner to shop_owner")
        yield server


@pytest.fixture
def place() -> Iterator[Path]:
    folder = temporary_folder("managed-test-")
    yield folder
    shutil.rmtree(folder)


@pytest.mark.long
def test_an_owner_without_superuser_sets_it_up(server: Server, place: Path) -> None:
    cluster = server.cluster
    owner = make_conninfo("", host=cluster.host, port=cluster.port, dbname="shop", user="shop_owner")
    (place / "dbshield.toml").write_text(f'[environments.staging]\nupstream = "{owner}"\npassword_env = "OWNER_PASSWORD"\n')
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DBSHIELD_", "PG"))} | {
        "OWNER_PASSWORD": "owner",
        "DBSHIELD_STATE": str(place / "state"),
        "DBSHIELD_CONTROL__URL": server.dsn("dbshield_control"),
        "COLUMNS": "200",
    }

    def run(*words: str) -> str:
        done = run_command([owner if word == OWNER else word for word in words], cwd=place, env=environment, timeout=120.0)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("init")
    assert "not installed: the event triggers" in run(*INSTALL)
    made = run(*CREATE)
    role = re.search(r"dbshield_staging_\w+", made)
    assert role, made
    assert "row guard" in run(*STATUS)
    with server.connect("shop") as admin:
        admin.execute(f"set session authorization {role[0]}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="may not change"):
            admin.execute("delete from shop.order_items where order_id <= 51")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="must be owner"):
            admin.execute("drop table shop.order_items")
