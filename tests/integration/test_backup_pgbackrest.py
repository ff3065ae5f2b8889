"""The engine pgbackrest with the real pgBackRest: made, counted, drilled, restored, expired, and told where it is bad.

PostgreSQL 15 alone: Debian's pgBackRest 2.45 does not know 16 and later.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.backups import ONE_ACCOUNT, Backups, backups_of
from support.clusters import server_with_wal
from support.servers import SOURCES, Server
from support.stanzas import PASSPHRASE, Stanza
from support.waiting import until

from dbshield.backup.catalogue import Catalogue
from dbshield.cluster import Cluster, temporary_folder
from dbshield.config import load_config
from dbshield.doctor import backups as doctor_backups

pytestmark = pytest.mark.needs("pgbackrest")

TABLES = """
create table parts (id serial primary key, parent int references parts, code text unique, price numeric);
insert into parts (parent, code, price) select nullif(g / 10, 0), 'p' || g, g / 7.0 from generate_series(1, 2000) g;
"""


@pytest.fixture(scope="module")
def ground() -> Iterator[Path]:
    """A folder that the account of servers may enter."""
    folder = temporary_folder("dbshield-pgbackrest-test-")
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def stanza(ground: Path) -> Stanza:
    return Stanza(ground)


@pytest.fixture(scope="module")
def server(ground: Path, stanza: Stanza) -> Iterator[Server]:
    with server_with_wal(15, archive_mode="on", archive_command=stanza.archive_command()) as made:
        stanza.write(made.cluster)
        with made.connect() as admin:
            admin.execute("create database shop")
        with made.connect("shop") as source:
            source.execute(TABLES)
        yield made


@pytest.fixture(scope="module")
def planned(server: Server, stanza: Stanza, ground: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backups]:
    with backups_of(server, "shop", tmp_path_factory.mktemp("shield")) as made:
        made.variables["PGBACKREST_REPO1_CIPHER_PASS"] = PASSPHRASE
        made.write_config(
            engine="pgbackrest",
            stanza="main",
            pgbackrest_config=str(stanza.config),
            same_account="allowed",
            drill_folder=str(ground / "drills"),
            identity_file=str(made.identity),
        )
        made.cli("backup", "setup")
        stanza.run("stanza-create")
        yield made


@pytest.fixture
def backups(planned: Backups) -> Iterator[Backups]:
    """With the plan as all tests find it, whatever one of them makes of it: they may run in any order."""
    plan, variables = dict(planned.plan), dict(planned.variables)
    yield planned
    planned.plan, planned.variables = {}, variables
    planned.write_config(**plan)


@pytest.fixture
def upon(backups: Backups, stanza: Stanza) -> Backups:
    """With a full backup that others are made upon; a test may be the first to run."""
    if not stanza.backups():
        backups.backup()
    return backups


@pytest.fixture
def proven(upon: Backups) -> Backups:
    """With an incremental one that a drill has passed."""
    if not any(each["drilled"] == "passed" for each in upon.listed()):
        upon.backup()
        assert upon.json("restore-drill")["verdict"] == "passed"
    return upon


def outcomes(found: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["outcome"] for each in found["checks"]}


def problems(found: dict[str, Any]) -> str:
    return " ".join(text for each in found["checks"] for text in each["problems"])


def said(backups: Backups, status: int = 2, **changed: Any) -> str:
    """What `dbshield backup` says with other settings of the plan; it has to end with this status."""
    before = {name: backups.plan.get(name) for name in changed}
    backups.write_config(**changed)
    try:
        done = backups.run("backup")
    finally:
        backups.write_config(**before)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert PASSPHRASE not in done.stderr
    return done.stderr


def test_what_is_missing_is_named_with_the_next_step(backups: Backups, stanza: Stanza, ground: Path, server18: Server) -> None:
    before = stanza.backups()
    assert "Install the package pgbackrest" in said(backups, pgbackrest_program="/nonexistent/pgbackrest")
    assert "pgbackrest --stanza=other stanza-create" in said(backups, stanza="other")
    assert "pgbackrest_config /nonexistent cannot be read" in said(backups, pgbackrest_config="/nonexistent")
    near = backups.destination if ONE_ACCOUNT else stanza.repository
    assert f"{near} can be changed by the account of the database server" in said(backups, 1, same_account=None)
    backups.variables["PGBACKREST_REPO1_CIPHER_PASS"] = "another"
    assert "Look at the passphrase and credentials" in said(backups)
    backups.variables["PGBACKREST_REPO1_CIPHER_PASS"] = PASSPHRASE
    plain = ground / "plain.conf"
    plain.write_text(stanza.config.read_text().replace("aes-256-cbc", "none").replace("/repository", "/plain"))
    (ground / "plain").mkdir()
    stanza.account.own(ground / "plain", 0o750)
    del backups.variables["PGBACKREST_REPO1_CIPHER_PASS"]
    stanza.run("stanza-create", config=plain)
    assert "is not encrypted" in said(backups, 1, pgbackrest_config=str(plain))
    backups.variables["PGBACKREST_REPO1_CIPHER_PASS"] = PASSPHRASE
    # A server that archives nothing, and that is not the stanza's besides.
    cluster = server18.cluster
    other = f"host={cluster.socket_folder} port={cluster.port} user=postgres dbname=postgres"
    answer = said(backups, source=other, databases=["postgres"])
    assert "archives no WAL: its archive_mode is off" in answer
    assert "archive_command = 'pgbackrest --stanza=main archive-push %p'" in answer
    assert stanza.backups() == before
    # The doctor looks at where the data is, not only at where the little rest goes.
    settings = load_config(backups.config)
    plan = settings.backup["nightly"].model_copy(update={"destination": "s3://far-away/it"})
    outside, why = doctor_backups._outside(settings, "test", {"nightly": plan}, plan.destination)
    assert (outside, str(stanza.repository) in why) == (False, True), why


def test_one_is_made_proven_and_restored_and_another_upon_it(backups: Backups, stanza: Stanza, ground: Path) -> None:
    backups.write_config(pgbackrest_type="full")
    first = backups.backup()
    made = stanza.backups()[-1]
    assert (first["engine"], first["canary"], made["type"]) == ("pgbackrest", True, "full")
    assert made["annotation"] == {"dbshield": first["snapshot"]}
    backups.write_config(pgbackrest_type=None)
    with backups.server.connect("shop") as source:
        source.execute("update parts set price = price + 1 where id % 7 = 0")
    second = backups.backup()["snapshot"]
    with backups.server.connect("shop") as source:
        source.execute("delete from parts where id > 500; create table later (id int)")
    newest, oldest = [each for each in backups.listed() if each["state"] == "complete"][:2]
    assert (newest["kind"], oldest["kind"]) == ("incremental", "full")
    assert newest["parent"] == oldest["snapshot"] == first["snapshot"]
    # The size is that of the cluster, although the snapshot's own members are small.
    assert oldest["bytes"] > 20_000_000 > 3_000_000 > newest["stored_bytes"]

    # What fails is kept for a look; what passes leaves nothing.
    kept = {path.name for path in (ground / "drills").glob("kept-*")}
    found = backups.json("restore-drill")
    assert (found["verdict"], problems(found), found["snapshot"]) == ("passed", "", second)
    assert {"base-backup", "replay", "canary", "rows", "content", "amcheck", "page-checksums"} <= set(outcomes(found))
    assert set(outcomes(found).values()) == {"passed"}
    assert {path.name for path in (ground / "drills").iterdir()} == kept | {"lock"}
    assert backups.json("backup", "verify", second, "-i", str(backups.identity))["verified"]

    target = ground / "restored"
    done = backups.json("restore", "--to-folder", str(target))
    assert (done["snapshot"], done["tables_compared"]) == (second, 2)
    assert not list(target.glob("*.signal"))
    home = ground / "home" / "server"
    home.parent.mkdir(mode=0o711)
    home.mkdir()
    cluster = Cluster(home, binaries=SOURCES[15](), settings={"archive_mode": "off"})
    cluster.account.own(home, 0o700)
    target.rename(cluster.data)
    cluster.start(tethered=True)
    try:
        with psycopg.connect(cluster.dsn("shop")) as there:
            assert there.execute("select count(*), sum(price) > 0 from parts").fetchone() == (2000, True)
            assert there.execute("select to_regclass('later')").fetchone() == (None,)
    finally:
        cluster.stop("immediate")


@pytest.mark.usefixtures("upon")
def test_a_bad_one_fails_and_a_wrong_passphrase_is_no_verdict(backups: Backups, stanza: Stanza) -> None:
    made = backups.backup()["snapshot"]
    (label,) = (each["label"] for each in stanza.backups() if each["annotation"]["dbshield"] == made)
    # The label of an incremental one begins with that of its full one.
    full = stanza.repository / "backup" / "main" / label.partition("_")[0]
    with changed(largest(full / "pg_data")):
        found = backups.json("restore-drill", status=1)
        assert (found["verdict"], outcomes(found)["members"]) == ("failed", "failed"), found
        assert f"pgBackRest's backup {label} is damaged" in problems(found)
    segments = [each["archive"]["stop"] for each in stanza.backups() if each["label"] == label]
    (segment,) = (stanza.repository / "archive").rglob(f"{segments[0]}-*")
    hidden = segment.rename(segment.with_name("hidden"))
    found = backups.json("restore-drill", status=1)
    assert (found["verdict"], f"has no WAL segment {segments[0]}" in problems(found)) == ("failed", True), found
    hidden.rename(segment)
    with changed(stanza.repository / "backup" / "main" / label / "backup.manifest"):
        found = backups.json("restore-drill", status=1)
        assert f"pgBackRest's manifest of {label} is not the one that was signed" in problems(found)
    backups.variables["PGBACKREST_REPO1_CIPHER_PASS"] = "another"
    found = backups.json("restore-drill", status=2)
    backups.variables["PGBACKREST_REPO1_CIPHER_PASS"] = PASSPHRASE
    assert (found["verdict"], "cannot read the stanza" in problems(found)) == ("error", True)
    stanza.run("expire", f"--set={label}")
    gone = backups.json("backup", "verify", made, status=1)
    assert gone["problems"] == [f"pgBackRest's repository has no {label}"]
    assert f"has no {label}" in problems(backups.json("restore-drill", status=1))


@pytest.mark.usefixtures("proven")
def test_retention_expires_what_nothing_needs(backups: Backups, stanza: Stanza) -> None:
    backups.write_config(pgbackrest_type="full", keep_last=1, keep_failed_days=0)
    made = backups.backup()["snapshot"]
    backups.json("backup", "prune", "--plan", "nightly")
    # The newest that a drill proved stays, and what it was made upon.
    passed = {each["snapshot"] for each in backups.listed() if each["drilled"] == "passed"}
    assert {each["annotation"]["dbshield"] for each in stanza.backups()} > {made} | passed
    assert backups.json("restore-drill")["verdict"] == "passed"
    # A plan that went over to another engine does not lose sight of what the old one keeps elsewhere.
    backups.write_config(engine="physical", stanza=None)
    kept = backups.json("backup", "prune", "--plan", "nightly", status=2)
    assert set(kept["problems"].values()) >= {"it is in pgBackRest's repository, and the plan names no stanza any more"}
    assert passed < {each["snapshot"] for each in backups.listed() if each["state"] == "complete"}
    backups.write_config(engine="pgbackrest", stanza="main")
    backups.json("backup", "prune", "--plan", "nightly")
    assert [each["annotation"]["dbshield"] for each in stanza.backups()] == [made]
    assert [each["snapshot"] for each in backups.listed() if each["state"] == "complete"] == [made]


@pytest.mark.long
def test_what_happens_between_the_backup_and_the_count_is_in_it(backups: Backups, stanza: Stanza, ground: Path) -> None:
    """The server goes on by several segments, and has no WAL of them any more when it is asked."""
    cluster = backups.server.cluster
    later = f"""
for i in 1 2 3; do
  psql -qX -c "create table between_$i as select generate_series(1, 1000) i" -c "select pg_switch_wal()" >/dev/null
done
until [ -z "$(ls {cluster.data}/pg_wal/archive_status | grep ready)" ]; do sleep 0.1; done
psql -qX -c checkpoint -c checkpoint
"""
    backups.write_config(pgbackrest_type="incr", pgbackrest_program=str(program(ground, "moves-on", backups.server, later)))
    made = backups.backup()["snapshot"]
    found = backups.json("restore-drill", "-s", made)
    assert (found["verdict"], problems(found)) == ("passed", "")
    with backups.store() as store:
        manifest, record = Catalogue(store).details(made)
    assert manifest is not None
    assert record is not None
    assert sum(member["name"].startswith("wal/") for member in manifest["members"]) > 3
    names = {table["name"] for database in record["databases"] for table in database["tables"]}
    assert {"between_1", "between_2", "between_3"} <= names
    with backups.server.connect("shop") as source:
        source.execute("drop table between_1, between_2, between_3")


@pytest.mark.long
def test_wal_that_was_put_in_the_place_of_the_backups_own_is_told(backups: Backups, stanza: Stanza, ground: Path) -> None:
    """Who has the server has the passphrase and archive-push, later as well."""
    backups.write_config(pgbackrest_type="full", pgbackrest_program=None)
    made = backups.backup()["snapshot"]
    (name,) = (each["archive"]["stop"] for each in stanza.backups() if each["annotation"]["dbshield"] == made)
    other = ground / "pushed"
    other.mkdir()
    stanza.account.own(other, 0o700)
    stanza.run("archive-get", name, str(other / name))
    data = bytearray((other / name).read_bytes())
    data[-1] ^= 1
    (other / name).write_bytes(data)
    (segment,) = (stanza.repository / "archive").rglob(f"{name}-*")
    hidden = segment.rename(ground / "own")
    stanza.run("--no-archive-async", "archive-push", str(other / name))
    (pushed,) = (stanza.repository / "archive").rglob(f"{name}-*")
    try:
        assert pushed.name != segment.name
        found = backups.json("restore-drill", "-s", made, status=1)
        assert f"the WAL segment {name} in pgBackRest's archive is not the one of the backup" in problems(found)
    finally:
        pushed.unlink()
        hidden.rename(segment)
    assert backups.json("restore-drill", "-s", made)["verdict"] == "passed"


@pytest.mark.long
def test_a_tablespace_made_meanwhile_is_never_replayed_into_the_source(backups: Backups, stanza: Stanza, ground: Path) -> None:
    """Recovery would make it where it is on the source, and empty it there."""
    place = ground / "elsewhere"
    place.mkdir()
    stanza.account.own(place, 0o700)
    made_far = "create table far (n int) tablespace elsewhere"
    later = f"psql -qX -c \"create tablespace elsewhere location '{place}'\" -c '{made_far}' >/dev/null"
    backups.write_config(pgbackrest_type="full", pgbackrest_program=str(program(ground, "makes", backups.server, later)))
    made = backups.backup()["snapshot"]
    backups.write_config(pgbackrest_program=None)
    with backups.server.connect("shop") as source:
        source.execute("insert into far values (7)")
        source.execute("checkpoint")
        try:
            found = backups.json("restore-drill", "-s", made, status=1)
            # What lies there now, and not what is in memory.
            source.execute("alter table far set tablespace pg_default")
            assert source.execute("select n from far").fetchone() == (7,)
            assert (found["verdict"], "the WAL makes the tablespace" in problems(found)) == ("failed", True), found
        finally:
            source.execute("drop table far")
            source.execute("drop tablespace elsewhere")


@pytest.mark.long
def test_a_backup_whose_maker_is_killed_is_none_and_goes(backups: Backups, stanza: Stanza, ground: Path) -> None:
    # pgBackRest expires no full backup that is the only one; and what other tests have broken goes first.
    backups.write_config(pgbackrest_type="full", pgbackrest_program=None, keep_last=100, keep_failed_days=0)
    backups.backup()
    backups.json("backup", "prune", "--plan", "nightly")
    before = {each["label"] for each in stanza.backups()}
    made = ground / "made"
    later = f"touch {made}; exec sleep 600"
    backups.write_config(pgbackrest_program=str(program(ground, "kills", backups.server, later)))
    with backups.start("backup") as process:
        assert until(made.exists, deadline=120)
        process.kill()
        assert process.wait(60) == -9
    assert len({each["label"] for each in stanza.backups()} - before) == 1
    assert backups.listed()[0]["state"] == "interrupted"
    backups.write_config(pgbackrest_program=None)
    backups.json("backup", "prune", "--plan", "nightly")
    assert {each["label"] for each in stanza.backups()} == before


def program(ground: Path, name: str, server: Server, later: str) -> Path:
    """A pgBackRest after whose backup something happens."""
    path = ground / name
    variables = f"PGHOST={server.cluster.socket_folder} PGPORT={server.cluster.port} PGUSER=postgres PGDATABASE=shop"
    path.write_text(
        f'#!/bin/sh\nexport {variables}\npgbackrest "$@" || exit $?\ncase " $* " in *" backup "*)\n{later}\n;; esac\n'
    )
    path.chmod(0o755)
    return path


def largest(folder: Path) -> Path:
    """The largest file below a folder."""
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


@contextlib.contextmanager
def changed(path: Path) -> Iterator[None]:
    """One byte in the middle of a file is another one for as long as the block lasts."""
    before = path.read_bytes()
    place = len(before) // 2
    path.write_bytes(before[:place] + bytes([before[place] ^ 1]) + before[place + 1 :])
    try:
        yield
    finally:
        path.write_bytes(before)
