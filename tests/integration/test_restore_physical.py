"""Physical snapshots, drilled and restored: replayed to the place that was counted, and told where they are bad."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.backups import Backups, backups_of
from support.clusters import server_with_wal
from support.doctoring import doctored
from support.servers import SOURCES, Server

from dbshield.backup import tablespaces
from dbshield.cluster import Cluster, temporary_folder

TABLES = """
create table parts (id serial primary key, parent int references parts, code text unique, price numeric);
insert into parts (parent, code, price) select nullif(g / 10, 0), 'p' || g, g / 7.0 from generate_series(1, 2000) g;
create table far (n int primary key, t text) tablespace elsewhere;
insert into far select g, 'far' || g from generate_series(1, 1000) g;
create role reader login password 'reads';
grant select on parts to reader;
"""

QUIET = """
    select current_setting('archive_mode') = 'off' and current_setting('listen_addresses') = ''
        and current_setting('primary_conninfo') = '' and not exists (select from pg_replication_slots)
        and exists (select from pg_subscription where subenabled) and current_setting('max_logical_replication_workers') = '0'
        and not exists (select from pg_stat_activity where backend_type like 'logical replication%')
"""
"""A drill archives nothing, is on no network, keeps no slot, and its subscriptions have nobody who would work for them."""


def with_tablespace(server: Server, admin: psycopg.Connection[Any]) -> None:
    place = server.cluster.folder / "space"
    place.mkdir()
    server.cluster.account.own(place, 0o700)
    admin.execute(f"create tablespace elsewhere location '{place}'")


@pytest.fixture
def ground() -> Iterator[Path]:
    """A folder that the account of servers may enter."""
    folder = temporary_folder("dbshield-physical-test-")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(params=[15, 18], ids=lambda major: f"pg{major}")
def backups(request: pytest.FixtureRequest, tmp_path: Path, ground: Path) -> Iterator[Backups]:
    # What must not come along: an archive that a copy would write into.
    archive = {"archive_mode": "on", "archive_command": "exit 1"}
    with server_with_wal(request.param, **archive) as server:
        with server.connect() as admin:
            admin.execute("create database shop")
            admin.execute("alter system set work_mem = '7MB'")
            with_tablespace(server, admin)
        with server.connect("shop") as source:
            source.execute(TABLES)
            # What would take changes away from the server that is alive, and what keeps WAL for somebody else.
            source.execute("create subscription feed connection 'host=127.0.0.1 port=1' publication p with (connect = false)")
            source.execute("alter subscription feed enable")
            source.execute("select pg_create_physical_replication_slot('standby', true)")
        with backups_of(server, "shop", tmp_path / "shield") as made:
            made.write_config(engine="physical", drill_folder=str(ground / "drills"), identity_file=str(made.identity))
            made.cli("backup", "setup")
            yield made


def outcomes(found: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["outcome"] for each in found["checks"]}


def problems(found: dict[str, Any]) -> list[str]:
    return [f"{each['name']}: {text}" for each in found["checks"] for text in each["problems"]]


@pytest.mark.one_server
def test_a_good_one_passes_and_is_restored(backups: Backups, ground: Path) -> None:
    made = backups.backup()["snapshot"]
    with backups.server.connect("shop") as source:
        source.execute("delete from parts where id > 500; create table later (id int)")
    assertions = ground / "assertions"
    assertions.mkdir()
    (assertions / "quiet.sql").write_text(QUIET)
    found = backups.json("restore-drill", "--assertions", str(assertions))
    assert (found["verdict"], problems(found)) == ("passed", [])
    assert outcomes(found)["assertion quiet.sql"] == "passed"
    assert {"base-backup", "replay", "canary", "rows", "content", "amcheck", "page-checksums"} <= set(outcomes(found))
    assert set(outcomes(found).values()) == {"passed"}
    assert found["engine"] == "physical"
    assert [path.name for path in (ground / "drills").iterdir()] == ["lock"]

    target = ground / "restored"
    done = backups.json("restore", "--to-folder", str(target))
    assert done["snapshot"] == made
    assert done["tables_compared"] >= 2
    # The original's own settings are back, and no recovery is asked for.
    assert "work_mem" in (target / "postgresql.auto.conf").read_text()
    assert not list(target.glob("*.signal"))
    (link,) = (target / "pg_tblspc").iterdir()
    assert link.readlink().parent == target / "tablespaces"
    home = ground / "home" / "server"
    home.parent.mkdir(mode=0o711)
    cluster = Cluster(home, binaries=SOURCES[backups.server.major](), settings={"archive_mode": "off"})
    home.mkdir()
    cluster.account.own(home, 0o700)
    # By hand what a restore to this very folder would have made.
    target.rename(cluster.data)
    tablespaces.settle(cluster.data)
    cluster.start(tethered=True)
    try:
        with psycopg.connect(cluster.dsn("shop")) as there:
            assert there.execute("select count(*) from parts").fetchone() == (2000,)
            assert there.execute("select to_regclass('later')").fetchone() == (None,)
            assert there.execute("show work_mem").fetchone() == ("7MB",)
            (place,) = there.execute("select pg_tablespace_location(oid) from pg_tablespace where oid > 9999").fetchone() or ("",)
            assert Path(str(place)).parent == cluster.data / "tablespaces"
            assert there.execute("select count(*), max(n) from far").fetchone() == (1000, 1000)
    finally:
        cluster.stop("immediate")


@pytest.mark.one_server
def test_a_bad_one_fails(backups: Backups, ground: Path) -> None:
    made = backups.backup()["snapshot"]
    target = ground / "restored"

    def lose_the_wal(folder: Path) -> None:
        shutil.rmtree(folder / "wal")

    def change_a_page(folder: Path) -> None:
        data = bytearray((folder / "base.tar").read_bytes())
        place = data.index(b"p1999") + 1
        data[place : place + 1] = b"2"
        (folder / "base.tar").write_bytes(data)

    for change, said in ((lose_the_wal, "the WAL of the snapshot ends before"), (change_a_page, "pg_verifybackup: ")):
        doctored(backups, made, change)
        found = backups.json("restore-drill", status=1)
        assert found["verdict"] == "failed"
        assert said in " ".join(problems(found))
    done = backups.run("restore", "--to-folder", str(target), "-s", made, "--table", "public.parts")
    assert (done.returncode, "single tables come from logical snapshots alone" in done.stderr) == (2, True), done.stderr
    assert not target.exists()
