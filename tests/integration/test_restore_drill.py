"""Drills of logical snapshots by the command line: a good one passes, and every way of being bad is told."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.backups import Backups, backups_of
from support.doctoring import doctored, filling
from support.servers import Server
from support.waiting import until

from dbshield.backup.catalogue import Catalogue
from dbshield.backup.damage import Damaged
from dbshield.backup.drill import Wish, run_drill
from dbshield.backup.drill_store import Drills, check
from dbshield.backup.engine import Silent
from dbshield.cluster import temporary_folder
from dbshield.config import load_config

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
        "manifest", "members", "restored", "canary", "rows", "content", "extensions", "sequences", "schema", "roles",
        "indexes", "foreign-keys", "read-back", "amcheck", "page-checksums", "clock",
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
        with store.transaction() as connection:
            audited = connection.exec_driver_sql("select verdict from dbshield.audit where kind = 'drill'").scalars().all()
        assert audited == ["passed"]
    for path in map(Path, found["report"]):
        assert "passed" in path.read_text()
        assert path.stat().st_mode & 0o077 == 0
    assert "<svg" in Path(found["report"][1]).read_text()


# Sabotage --------------------------------------------------------------------------------------------------------------------


def objects(backups: Backups, snapshot: str) -> dict[str, Path]:
    folder = backups.destination / "test" / snapshot
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def largest(backups: Backups, snapshot: str) -> tuple[str, Path]:
    return max(objects(backups, snapshot).items(), key=lambda item: item[1].stat().st_size)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_whatever_is_changed_at_the_destination_fails(backups18: Backups, ground: Path) -> None:
    made = backups18.backup()["snapshot"]
    name, path = largest(backups18, made)
    good = path.read_bytes()
    flip(path, len(good) // 2)
    assert problems(drill(backups18, status=1), "members") == f"failed: {name} is not what was written: its SHA-256 differs"
    path.write_bytes(good[:-7])
    assert problems(drill(backups18, status=1), "members") == f"failed: {name} has only {len(good) - 7} of {len(good)} bytes"
    path.unlink()
    found = drill(backups18, status=1)
    assert problems(found, "members") == f"failed: {name} of {made} is not there"
    # Nothing was restored, so nothing is said of what would have been.
    assert list(outcomes(found)) == ["manifest", "members", "clock"]
    path.write_bytes(good)
    manifest = objects(backups18, made)["manifest.json"]
    flip(manifest, 60)
    found = drill(backups18, status=1)
    assert problems(found, "manifest") == f"failed: the manifest of {made} is not what was signed"
    assert left(ground) == []
    (listed,) = backups18.listed()
    assert listed["drilled"] == "failed"
    manifest.unlink()
    assert "is not there" in problems(drill(backups18, status=1), "manifest")


def test_a_swapped_snapshot_fails(backups18: Backups) -> None:
    first, second = backups18.backup()["snapshot"], backups18.backup()["snapshot"]
    folder = backups18.destination / "test"
    (folder / second).rename(folder / "away")
    (folder / first).rename(folder / second)
    said = problems(drill(backups18, status=1), "manifest")
    assert said == f"failed: test/{second} holds the manifest of test/{first}"


def test_a_destination_that_is_away_and_a_wrong_key_are_no_verdict(backups18: Backups) -> None:
    backups18.backup()
    away = backups18.destination.with_name("away")
    backups18.destination.rename(away)
    assert "is not there" in problems(drill(backups18, status=2), "manifest")
    away.rename(backups18.destination)
    other = backups18.folder / "other.txt"
    backups18.cli("backup", "key", "--identity", str(other))
    found = drill(backups18, "--identity-file", str(other), status=2)
    assert problems(found, "members").startswith("error: ")
    assert "is sealed for another key" in problems(found, "members")
    backups18.write_config(identity_file=None)
    assert "no identity was given" in drill(backups18, status=2)["error"]
    done = backups18.run("restore-drill", "--snapshot", "20200101")
    assert (done.returncode, 'there is no snapshot "20200101"' in done.stderr) == (2, True)


@pytest.mark.parametrize(("blocks", "where"), [(100, "members"), (20_000, "start")])
def test_a_full_disk_is_no_verdict(backups18: Backups, ground: Path, blocks: int, where: str) -> None:
    with backups18.server.connect(backups18.database) as source:
        source.execute("create table shop.large as select repeat('x', 100000) as t")
    backups18.backup()
    process = backups18.start("restore-drill", "--json", file_blocks=blocks)
    out, said = process.communicate(timeout=120)
    assert process.returncode == 2, said
    found = json.loads(out)
    assert found["verdict"] == "error"
    assert problems(found, where).startswith("error: ")
    assert left(ground) == []
    assert not list((backups18.state / "backup").glob("work-*"))


def in_one_file(folder: Path, change: Callable[[bytes], bytes], *, of: bytes, name: str = "*.dat") -> None:
    (path,) = [path for path in folder.rglob(name) if of in path.read_bytes()]
    path.write_bytes(change(path.read_bytes()))


def lose_two_rows(folder: Path) -> None:
    def lose(data: bytes) -> bytes:
        lines = data.splitlines(keepends=True)
        kept = [line for line in lines if b"\tp1998\t" not in line and b"\tp1999\t" not in line]
        assert len(kept) == len(lines) - 2
        return b"".join(kept)

    in_one_file(folder, lose, of=b"\tp1999\t")


def change_one_value(folder: Path) -> None:
    in_one_file(folder, lambda data: data.replace(b"\tp1999\t", b"\tp1999 \t"), of=b"\tp1999\t")


def lose_an_index(folder: Path) -> None:
    made = b"CREATE INDEX parts_price ON shop.parts USING btree (price);"
    nothing = b"SELECT 1;".ljust(len(made))
    in_one_file(folder, lambda data: data.replace(made, nothing), of=made, name="toc.dat")


def break_a_row(folder: Path) -> None:
    in_one_file(folder, lambda data: data.replace(b"\tp1999\t", b"\t"), of=b"\tp1999\t")


def raise_a_role(folder: Path) -> None:
    path = folder / "globals.sql"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line.replace(b"NOCREATEROLE", b"CREATEROLE") if b"agent_write" in line else line for line in lines))


@pytest.mark.parametrize(
    ("change", "name", "said"),
    [
        (lose_two_rows, "rows", "shop.parts: 1998 rows, expected 2000 rows"),
        (change_one_value, "content", "shop.parts: 2000 rows of other content"),
        (lose_an_index, "schema", "the schema is another one"),
        (break_a_row, "restored", "pg_restore failed"),
        (raise_a_role, "roles", "the role agent_write has other attributes: createrole"),
    ],
)
def test_what_only_the_restored_copy_shows_fails(
    backups18: Backups, ground: Path, change: Callable[[Path], None], name: str, said: str
) -> None:
    made = doctored(backups18, backups18.backup()["snapshot"], change)
    found = drill(backups18, status=1)
    assert found["snapshot"] == made
    assert said in problems(found, name)
    assert problems(found, name).startswith("failed: ")
    # The evidence stands, its server does not run.
    evidence = Path(found["evidence"])
    assert left(ground) == [evidence.name]
    assert (evidence / "data" / "PG_VERSION").exists()
    assert not (evidence / "data" / "postmaster.pid").exists()
    assert "failed" in Path(found["report"][0]).read_text()


def test_a_clock_that_went_back_is_no_verdict(backups18: Backups) -> None:
    backups18.backup()
    config = load_config(backups18.config)
    with backups18.store() as store:
        early = run_drill(config, Wish(), store, clock=lambda: datetime.now(UTC) - timedelta(hours=1), progress=Silent())
        times = iter([datetime.now(UTC) + timedelta(hours=3), datetime.now(UTC)])
        moved = run_drill(config, Wish(), store, clock=lambda: next(times), progress=Silent())
    for drilled, said in ((early, "after this machine's now: a clock went back"), (moved, "this machine's clock was moved by")):
        assert drilled.drill.verdict == "error"
        assert drilled.drill.rpo_seconds is None
        (clock,) = [each for each in drilled.drill.checks if each["name"] == "clock"]
        assert said in clock["problems"][0]
        assert drilled.drill.ended >= drilled.drill.began


def test_a_server_that_dies_is_no_verdict(backups18: Backups, ground: Path) -> None:
    with backups18.server.connect(backups18.database) as source:
        source.execute("create table shop.slow as select g, repeat('x', 500) as t from generate_series(1, 100000) g")
    backups18.backup()
    process = backups18.start("restore-drill", "--json")
    assert until(lambda: filling(ground, "drills") or process.poll() is not None)
    data = filling(ground, "drills")
    assert data is not None
    os.kill(int((data / "postmaster.pid").read_text().split("\n", 1)[0]), signal.SIGKILL)
    out, said = process.communicate(timeout=120)
    assert process.returncode == 2, said
    verdict = json.loads(out)
    assert verdict["verdict"] == "error"
    assert "error" in outcomes(verdict).values()
    assert left(ground) == []


def test_a_killed_drill_leaves_nothing(backups18: Backups, ground: Path) -> None:
    backups18.backup()
    process = backups18.start("restore-drill")
    data = "drills/work-*/cluster/server/data"
    assert until(lambda: filling(ground, "drills") or process.poll() is not None)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert until(lambda: not list(ground.glob(data)))
    assert len(left(ground)) == 1
    assert [listed["drilled"] for listed in backups18.listed()] == [None]
    drill(backups18)
    assert left(ground) == []
    process = backups18.start("restore-drill")
    assert until(lambda: filling(ground, "drills") or process.poll() is not None)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert left(ground) == []


def test_assertions_of_the_user_and_what_was_kept(backups18: Backups, ground: Path) -> None:
    backups18.backup()
    folder = backups18.folder / "assertions"
    (folder / backups18.database).mkdir(parents=True)
    (folder / "orphans.sql").write_text(
        "select i.* from shop.order_items i left join shop.orders o on o.id = i.order_id where o.id is null;"
    )
    (folder / backups18.database / "orders.sql").write_text("select count(*) > 5000 from shop.orders")
    found = drill(backups18, "--assertions", str(folder), "--keep")
    assert outcomes(found)["assertion orphans.sql"] == "passed"
    assert outcomes(found)[f"assertion {backups18.database}/orders.sql"] == "passed"
    assert left(ground) == [Path(found["evidence"]).name]
    for text, status, said in (
        ("select 'secret of ' || code from shop.parts where id < 4", 1, "failed: it gives 3 rows, and should give none, or true"),
        ("select false", 1, "failed: it says false"),
        ("select * from shop.no_such_table", 2, 'error: wrong.sql: relation "shop.no_such_table" does not exist'),
        ("delete from shop.parts", 2, "error: wrong.sql: cannot execute DELETE in a read-only transaction"),
        ("select true; select false", 2, "error: wrong.sql is more than one statement"),
    ):
        (folder / "wrong.sql").write_text(text)
        found = drill(backups18, "--assertions", str(folder), status=status)
        assert problems(found, "assertion wrong.sql") == said
        assert outcomes(found)["assertion orphans.sql"] == "passed"
    # What a query gave is in no report: it may be anybody's data.
    assert not any("secret of p1" in path.read_text() for path in (backups18.state / "reports").iterdir())
    found = drill(backups18, "--assertions", "/nonexistent", status=2)
    assert "is not there" in problems(found, "assertions")
    # Who named a folder believes that something is asked.
    (backups18.folder / "nothing").mkdir()
    found = drill(backups18, "--assertions", str(backups18.folder / "nothing"), status=2)
    assert problems(found, "assertions").startswith("error: there is no assertion in ")
