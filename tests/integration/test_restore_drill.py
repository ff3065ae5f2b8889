"""Drills of logical snapshots by the command line: a good one passes, and every way of being bad is told."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.backups import Backups, backups_of
from support.servers import Server
from support.waiting import until

from dbshield.backup.catalogue import Catalogue
from dbshield.backup.damage import Damaged
from dbshield.backup.drill_store import Drills, check
from dbshield.cluster import temporary_folder

EXTRA = """
create table shop.parts (id serial primary key, parent int references shop.parts, code text unique, price numeric);
insert into shop.parts (parent, code, price) select nullif(g / 10, 0), 'p' || g, g / 7.0 from generate_series(1, 2000) g;
create index parts_price on shop.parts (price);
"""


@pytest.fixture
def ground() -> Iterator[Path]:
    """A folder that the account of servers may enter, for throwaway clusters."""
    folder = temporary_folder("dbshield-drill-test-")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def backups(server: Server, database: str, tmp_path: Path, ground: Path) -> Iterator[Backups]:
    with made_ready(server, database, tmp_path, ground) as made:
        yield made


@pytest.fixture
def backups18(server18: Server, worker_id: str, tmp_path: Path, ground: Path) -> Iterator[Backups]:
    name = f"drill_{worker_id}"
    server18.clone(name)
    try:
        with made_ready(server18, name, tmp_path, ground) as made:
            yield made
    finally:
        server18.drop(name)


@contextmanager
def made_ready(server: Server, database: str, folder: Path, ground: Path) -> Iterator[Backups]:
    """A plan with a canary, whose drills find their identity in the configuration."""
    with server.connect(database) as connection:
        connection.execute(EXTRA)
    with backups_of(server, database, folder / "shield") as made:
        made.write_config(drill_folder=str(ground / "drills"), identity_file=str(made.identity))
        made.cli("backup", "setup")
        yield made


def drill(backups: Backups, *arguments: str, status: int = 0) -> dict[str, Any]:
    found = backups.json("restore-drill", *arguments, status=status)
    assert isinstance(found, dict)
    assert found["verdict"] == {0: "passed", 1: "failed", 2: "error"}[status]
    return found


def outcomes(found: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["outcome"] for each in found["checks"]}


def problems(found: dict[str, Any], name: str) -> str:
    (each,) = [each for each in found["checks"] if each["name"] == name]
    return f"{each['outcome']}: {'; '.join(each['problems'])}"


def left(ground: Path) -> list[str]:
    """What drills have left behind, other than their lock."""
    return sorted(path.name for path in (ground / "drills").iterdir() if path.name != "lock")


def test_a_good_snapshot_passes_and_leaves_a_signed_record(backups: Backups, ground: Path) -> None:
    made = backups.backup()
    with backups.server.connect(backups.database) as source:
        # What happens after the snapshot is in none of it.
        source.execute("delete from shop.order_items; drop index shop.parts_price")
    found = drill(backups)
    assert found["snapshot"] == made["snapshot"]
    assert set(outcomes(found).values()) == {"passed"}, found["checks"]
    assert list(outcomes(found)) == [
        "manifest", "members", "restored", "canary", "rows", "content", "extensions", "sequences", "schema", "indexes",
        "foreign-keys", "roles", "read-back", "amcheck", "page-checksums", "clock",
    ]  # fmt: skip
    assert all(each["measure"] for each in found["checks"])
    assert 0 < found["rpo_seconds"] < 120
    assert found["rpo_from"] == "canary"
    assert set(found["rto"]) == {"download", "start", "restore", "checks"}
    assert all(seconds > 0 for seconds in found["rto"].values())
    assert left(ground) == []
    assert found["evidence"] is None
    (listed,) = backups.listed()
    assert listed["drilled"] == "passed"
    with backups.store() as store:
        (kept,) = Drills(store).list(environment="test")
        trusted = Catalogue(store).trusted()
        check(kept, trusted)
        assert kept.drill.checks == found["checks"]
        with store.transaction() as connection:
            connection.exec_driver_sql("update dbshield.drills set verdict = 'failed'")
        with pytest.raises(Damaged):
            check(Drills(store).list()[0], trusted)
        audited = "select body::jsonb ->> 'verdict' from dbshield.audit where body::jsonb ->> 'event' = 'drill'"
        assert audited
    for path in map(Path, found["report"]):
        assert "passed" in path.read_text()
        assert path.stat().st_mode & 0o077 == 0
    assert "<svg" in Path(found["report"][1]).read_text()
