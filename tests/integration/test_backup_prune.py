"""Retention at work: what goes at the destination and in the catalogue, and what does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from support.backups import Backups, backups_of
from support.servers import Server

from dbshield.backup.catalogue import Catalogue
from dbshield.errors import Refused

pytestmark = pytest.mark.one_server


@pytest.fixture
def backups(server: Server, database: str, tmp_path: Path) -> Iterator[Backups]:
    with backups_of(server, database, tmp_path / "shield") as made:
        yield made


def on_disk(backups: Backups) -> set[str]:
    return {path.parent.name for path in backups.destination.rglob("manifest.json")}


def change(backups: Backups, statement: str, **values: Any) -> None:
    with backups.store() as database, database.transaction() as connection:
        connection.execute(text(statement), values)


def move(backups: Backups, snapshot: str, values: str) -> None:
    """As its maker would have written it: a trigger keeps it from being changed afterwards."""
    with backups.store() as database, database.transaction() as connection:
        connection.execute(text("alter table dbshield.snapshots disable trigger keep"))
        connection.execute(text(f"update dbshield.snapshots set {values} where id = :id"), {"id": snapshot})
        connection.execute(text("alter table dbshield.snapshots enable trigger keep"))


def entries(backups: Backups, kind: str) -> list[dict[str, Any]]:
    with backups.store() as database, database.transaction() as connection:
        found = connection.scalars(text("select entry from dbshield.audit order by id")).all()
    told = [json.loads(entry) if isinstance(entry, str) else entry for entry in found]
    return [entry for entry in told if entry["event"] == kind]


def test_what_may_go_goes_and_the_catalogue_and_the_audit_say_so(backups: Backups) -> None:
    made = [backups.backup()["snapshot"] for _ in range(3)]
    backups.write_config(keep_last=1)
    change(backups, "update dbshield.snapshots set drilled = 'passed' where id = :id", id=made[0])
    planned = backups.json("backup", "prune", "--dry-run")
    assert planned["removed"] == [made[1]]
    assert on_disk(backups) == set(made), "a dry run removes nothing"
    assert "stays: the newest that a drill proved" in backups.cli("backup", "prune", "--dry-run")
    done = backups.json("backup", "prune")
    assert done["removed"] == [made[1]]
    assert done["objects"] > 3
    assert {kept["snapshot"]: kept["because"] for kept in done["kept"]}[made[0]] == ["the newest that a drill proved"]
    assert on_disk(backups) == {made[0], made[2]}
    assert not list(backups.destination.rglob(f"*{made[1]}*"))
    assert {snapshot["snapshot"]: snapshot["state"] for snapshot in backups.listed()}[made[1]] == "pruned"
    assert [(entry["snapshot"], entry["plan"], entry["environment"]) for entry in entries(backups, "backup-pruned")] == [
        (made[1], "nightly", "test")
    ]
    assert backups.json("backup", "prune")["removed"] == []


def test_a_clock_that_went_back_makes_no_snapshot_old(backups: Backups) -> None:
    """What was recorded last is the newest, whatever its maker's clock said."""
    made = [backups.backup()["snapshot"] for _ in range(3)]
    backups.write_config(keep_last=1)
    move(backups, made[2], "began = '2020-01-01'")
    assert backups.listed()[0]["snapshot"] == made[2]
    assert set(backups.json("backup", "prune")["removed"]) == {made[0], made[1]}
    assert on_disk(backups) == {made[2]}


def test_no_run_removes_more_than_it_may_and_the_oldest_go_first(backups: Backups) -> None:
    made = [backups.backup()["snapshot"] for _ in range(4)]
    backups.write_config(keep_last=1, prune_at_most=2)
    first = backups.json("backup", "prune")
    assert (first["removed"], first["later"]) == ([made[0], made[1]], [made[2]])
    assert backups.json("backup", "prune")["removed"] == [made[2]]
    assert on_disk(backups) == {made[3]}


def test_what_another_plan_was_made_upon_stays(backups: Backups) -> None:
    made = [backups.backup()["snapshot"] for _ in range(2)]
    backups.write_config(keep_last=1)
    change(
        backups,
        "insert into dbshield.snapshots (id, environment, plan, engine, kind, destination, state, began, ended, error, parent)"
        " values ('20260101t000000z-abcdefgh', 'test', 'other', 'physical', 'incremental', 's3://b', 'failed', now(), now(), 'x',"
        " :id)",
        id=made[0],
    )
    done = backups.json("backup", "prune")
    assert done["removed"] == []
    assert "another plan needs it" in str(done["kept"])
    assert on_disk(backups) == set(made)


def test_nothing_goes_while_a_backup_of_the_plan_runs(backups: Backups) -> None:
    made = [backups.backup()["snapshot"] for _ in range(2)]
    backups.write_config(keep_last=1)
    with backups.store() as database, Catalogue(database).alone("test", "nightly", datetime.now(UTC)):
        refused = backups.run("backup", "prune")
        with pytest.raises(Refused), Catalogue(database).alone("test", "nightly", datetime.now(UTC)):
            pass
    assert refused.returncode == 1
    assert "runs already" in refused.stderr
    assert on_disk(backups) == set(made)


def test_one_that_cannot_be_removed_is_named_and_hinders_no_other(backups: Backups) -> None:
    """The oldest lies in a store that does not answer."""
    made = [backups.backup()["snapshot"] for _ in range(3)]
    backups.write_config(keep_last=1)
    with backups.config.open("a") as file:
        file.write(
            '[backup.remote]\nenvironment = "test"\ndestination = "s3://nowhere/x"\nregion = "none"\n'
            'endpoint = "http://127.0.0.1:1"\nencryption = "none"\n'
        )
    backups.variables |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    move(backups, made[0], "destination = 's3://nowhere/x'")
    done = backups.json("backup", "prune", "--plan", "nightly", status=2)
    assert done["removed"] == [made[1]]
    assert list(done["problems"]) == [made[0]]
    assert {snapshot["snapshot"]: snapshot["state"] for snapshot in backups.listed()}[made[0]] == "complete"


def test_nothing_goes_while_what_is_to_stay_is_not_to_be_seen(backups: Backups) -> None:
    """As where the destination is not mounted."""
    made = [backups.backup()["snapshot"] for _ in range(2)]
    backups.write_config(keep_last=1)
    backups.destination.rename(backups.folder / "elsewhere")
    backups.destination.mkdir()
    assert "nothing was removed" in backups.run("backup", "prune").stderr
    assert {snapshot["state"] for snapshot in backups.listed()} == {"complete"}
    backups.destination.rmdir()
    (backups.folder / "elsewhere").rename(backups.destination)
    assert backups.json("backup", "prune")["removed"] == [made[0]]


def test_where_no_plan_goes_nothing_is_removed(backups: Backups, tmp_path: Path) -> None:
    made = [backups.backup()["snapshot"] for _ in range(2)]
    backups.write_config(keep_last=1, destination=f"file://{tmp_path / 'moved'}")
    newest = backups.backup()["snapshot"]
    done = backups.json("backup", "prune")
    assert done["removed"] == []
    assert {kept["snapshot"]: kept["because"] for kept in done["kept"]}[made[0]] == ["no plan goes to where it lies"]
    assert newest not in on_disk(backups)
    assert on_disk(backups) == set(made)
