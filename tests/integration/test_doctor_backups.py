"""What the doctor says of backups, from the catalogue and from the disks that destinations really lie on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from support.backups import Backups, backups_of
from support.servers import Server

from dbshield.backup.newest import newest_drill, newest_snapshot


@pytest.fixture
def backups(server18: Server, worker_id: str, tmp_path: Path) -> Iterator[Backups]:
    name = f"doctor_backups_{worker_id}"
    server18.clone(name)
    try:
        with backups_of(server18, name, tmp_path / "shield") as made:
            yield made
    finally:
        server18.drop(name)


def findings(backups: Backups) -> dict[str, dict[str, Any]]:
    """By their checks, those about backups and the schedule."""
    told = json.loads(backups.run("doctor", "--json").stdout)
    return {
        finding["check"]: finding
        for finding in told["findings"]
        if finding["check"].startswith(("backups.", "schedule.", "look.backups"))
    }


def drill(backups: Backups, snapshot: str, verdict: str, days: int) -> None:
    with backups.store() as database, database.transaction() as connection:
        connection.execute(
            text(
                "insert into dbshield.drills (snapshot, began, ended, verdict, checks, rto) values"
                " (:id, now() - make_interval(days => :days), now() - make_interval(days => :days), :verdict, '[]', '{}')"
            ),
            {"id": snapshot, "days": days, "verdict": verdict},
        )


def add_older(connection: Connection, like: str) -> None:
    """More than the doctor looks at, made half a year ago and recorded now, as when the catalogue hears of them afterwards."""
    columns = connection.scalar(
        text("""
            select string_agg(quote_ident(column_name), ', ') from information_schema.columns
            where table_schema = 'dbshield' and table_name = 'snapshots'
              and column_name not in ('id', 'began', 'number', 'recorded_at')
        """)
    )
    connection.execute(
        text(f"""
            insert into dbshield.snapshots (id, began, {columns})
            select '20260101t000000z-' || translate(lpad(n::text, 8, '0'), '0123456789', 'abcdefghij'),
                   now() - interval '180 days', {columns}
            from dbshield.snapshots, generate_series(1, 60) as n where id = :like
        """),
        {"like": like},
    )


def test_backups_and_drills_are_looked_at(backups: Backups) -> None:
    assert set(findings(backups)) == {"backups.none"}
    made = backups.backup()["snapshot"]
    found = findings(backups)
    assert set(found) == {"backups.same-device", "backups.no-drill"}
    # The destination is on the disk of the server, which the plan allows by name and the doctor does not forget.
    assert "of the database" in found["backups.same-device"]["subjects"][0]
    drill(backups, made, "passed", 9)
    assert set(findings(backups)) == {"backups.same-device", "backups.old-drill"}
    drill(backups, made, "passed", 2)
    assert set(findings(backups)) == {"backups.same-device"}
    drill(backups, made, "failed", 1)
    assert findings(backups)["backups.drill-failed"]["severity"] == "critical"
    # A clock that was ahead makes no snapshot young, and what the catalogue hears of later pushes none out.
    with backups.store() as database, database.transaction() as connection:
        connection.execute(text("set local session_replication_role = replica"))  # the catalogue lets nobody change one
        connection.execute(
            text("update dbshield.snapshots set began = now() + interval '1 year', recorded_at = now() - interval '121 hours'")
        )
        add_older(connection, made)
    assert findings(backups)["backups.old"]["what"] == "the newest snapshot is 5 days old"
    assert findings(backups)["backups.old"]["subjects"] == [made]
    with backups.config.open("a") as file:
        file.write('[schedule]\nsnapshot = "@daily"\n')
    assert findings(backups)["schedule.not-kept"]["subjects"] == ["no scheduler leads: nothing is run"]


def test_who_decides_is_told_of_the_newest_snapshot_and_drill(backups: Backups) -> None:
    with backups.store() as database:
        environment = "production"
        assert newest_snapshot(database, environment) is None
        assert newest_drill(database, environment) is None
        made = backups.backup()
        drill(backups, made["snapshot"], "passed", 3)
        drill(backups, made["snapshot"], "failed", 1)
        told = newest_snapshot(database, made["environment"])
        assert told is not None
        assert (told["id"], told["drill"]) == (made["snapshot"], "none yet")
        found = newest_drill(database, made["environment"])
        assert found is not None
        assert (found["verdict"], found["snapshot"]) == ("failed", made["snapshot"])


def test_a_catalogue_that_does_not_answer_is_not_silence(backups: Backups) -> None:
    backups.config.write_text(backups.config.read_text().replace(f'url = "{backups.control}"', 'url = "host=127.0.0.1 port=1"'))
    found = findings(backups)
    assert found["look.backups"]["severity"] == "not looked"
