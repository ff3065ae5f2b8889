"""Chains of incremental snapshots with a tablespace: made, drilled, and told where a member of one lacks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.backups import Backups, backups_of
from support.clusters import server_with_wal
from support.waiting import until

from dbshield.cluster import temporary_folder

TABLES = """
create table near (n int primary key, t text);
create table far (n int primary key, t text) tablespace elsewhere;
insert into near select g, repeat('near', 20) from generate_series(1, 5000) g;
insert into far select g, repeat('far', 20) from generate_series(1, 5000) g;
"""
SUMMARIZED = "select count(*) > 0 from pg_available_wal_summaries()"


@pytest.fixture(scope="module")
def ground() -> Iterator[Path]:
    folder = temporary_folder("dbshield-chain-test-")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def backups(tmp_path_factory: pytest.TempPathFactory, ground: Path) -> Iterator[Backups]:
    with server_with_wal(18) as server:
        place = server.cluster.folder / "space"
        place.mkdir()
        server.cluster.account.own(place, 0o700)
        with server.connect() as admin:
            admin.execute("create database shop")
            admin.execute("alter system set summarize_wal = on")
            admin.execute("select pg_reload_conf()")
            admin.execute(f"create tablespace elsewhere location '{place}'")
        with server.connect("shop") as source:
            source.execute(TABLES)
        with backups_of(server, "shop", tmp_path_factory.mktemp("chain") / "shield") as made:
            made.write_config(
                engine="physical",
                incremental=True,
                full_every=3,
                drill_folder=str(ground / "drills"),
                identity_file=str(made.identity),
            )
            made.cli("backup", "setup")
            yield made


@pytest.fixture(scope="module")
def chain(backups: Backups) -> list[dict[str, Any]]:
    """A full one and two upon it, with changes in between."""
    made = [backups.backup()]
    for number in (1, 2):
        with backups.server.connect("shop") as source:
            source.execute(f"update far set t = 'changed {number}' where n between {number * 100} and {number * 100 + 9}")
            source.execute(f"delete from near where n = {number}")
            source.execute(f"create table later{number} tablespace elsewhere as select g from generate_series(1, 100) g")
            assert until(lambda: source.execute(SUMMARIZED).fetchone() == (True,))
        made.append(backups.backup())
    return made


@pytest.fixture
def broken(backups: Backups, chain: list[dict[str, Any]]) -> str:
    """The newest of the chain, after a drill that it failed; a test may be the first to run."""
    newest = str(chain[-1]["snapshot"])
    if {each["snapshot"]: each["drilled"] for each in backups.listed()}[newest] != "failed":
        folder = backups.destination / "test"
        with changed(folder):
            shutil.rmtree(folder / newest / "tablespaces")
            assert backups.json("restore-drill", "--snapshot", newest, status=1)["verdict"] == "failed"
    return newest


def problems(found: dict[str, Any]) -> list[str]:
    return [f"{each['name']}: {text}" for each in found["checks"] for text in each["problems"]]


@contextmanager
def changed(folder: Path) -> Iterator[None]:
    """What happens in a folder is undone."""
    copy = folder.with_name(f"{folder.name}-copy")
    shutil.copytree(folder, copy)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        copy.rename(folder)


def test_a_chain_is_made_and_its_newest_restores(backups: Backups, chain: list[dict[str, Any]], ground: Path) -> None:
    full, first, second = chain
    assert [each["why_full"] for each in chain] == ["there is no snapshot of the plan yet", None, None]
    assert [each["kind"] for each in chain] == ["full", "incremental", "incremental"]
    assert [each["parent"] for each in chain] == [None, full["snapshot"], first["snapshot"]]
    assert first["stored_bytes"] < full["stored_bytes"] / 2
    listed = {each["snapshot"]: each for each in backups.listed()}
    assert (listed[second["snapshot"]]["kind"], listed[second["snapshot"]]["parent"]) == ("incremental", first["snapshot"])
    found = backups.json("restore-drill", "--snapshot", second["snapshot"])
    assert (found["verdict"], problems(found)) == ("passed", [])
    (base,) = [each for each in found["checks"] if each["name"] == "base-backup"]
    assert base["measure"].endswith("in each of a chain of 3")
    assert [path.name for path in (ground / "drills").iterdir()] == ["lock"]
    # What others need stays.
    backups.write_config(keep_last=1)
    try:
        kept = {each["snapshot"]: each["because"] for each in backups.json("backup", "prune", "--dry-run")["kept"]}
    finally:
        backups.write_config(keep_last=None)
    assert "another needs it" in kept[full["snapshot"]]
    assert "another needs it" in kept[first["snapshot"]]


def test_a_chain_that_lacks_something_fails_with_its_name(backups: Backups, chain: list[dict[str, Any]]) -> None:
    full, first, second = (each["snapshot"] for each in chain)
    folder = backups.destination / "test"
    with changed(folder):
        (folder / first / "tablespaces").rename(folder / "away")
        found = backups.json("restore-drill", "--snapshot", second, status=1)
        (said,) = problems(found)
        assert said.startswith("members: tablespaces/")
        assert said.endswith(f"of {first} is not there")
    with changed(folder):
        data = bytearray((folder / full / "base.tar").read_bytes())
        data[len(data) // 2] ^= 1
        (folder / full / "base.tar").write_bytes(data)
        found = backups.json("restore-drill", "--snapshot", second, status=1)
        assert problems(found) == [f"members: {full}: base.tar is not what was written: its SHA-256 differs"]
    with changed(folder):
        shutil.rmtree(folder / full)
        gone = f"{full}, which {first} was made upon, is not there"
        assert problems(backups.json("restore-drill", "--snapshot", second, status=1)) == [f"members: {gone}"]
        assert backups.json("backup", "verify", second, status=1)["problems"] == [gone]


def test_a_new_chain_begins_where_the_old_one_cannot_go_on(backups: Backups, broken: str) -> None:
    backups.write_config(full_every=7)
    made = backups.backup()
    assert (made["kind"], made["parent"]) == ("full", None)
    assert made["why_full"] == f"{broken} failed its drill"
    backups.write_config(full_every=1)
    assert backups.backup()["why_full"] == "the chain has 1 snapshots, and full_every is 1"
    backups.write_config(full_every=7)
    kept = backups.state / "chains" / "nightly"
    (copy,) = kept.iterdir()
    assert copy.stat().st_mode & 0o077 == 0
    copy.write_bytes(copy.read_bytes() + b" ")
    assert backups.backup()["why_full"] == f"the backup_manifest of {copy.name} is not kept on this machine"
    with backups.server.connect() as admin:
        admin.execute("alter system set summarize_wal = off")
        admin.execute("select pg_reload_conf()")
        assert until(lambda: admin.execute("show summarize_wal").fetchone() == ("off",))
        done = backups.run("backup")
        assert done.returncode == 2
        assert "needs summarize_wal = on" in done.stderr
        assert "alter system set summarize_wal = on" in done.stderr
