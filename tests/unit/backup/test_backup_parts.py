"""Small parts of backups: the record and its comparison, work folders, what a destination is, the samples of large tables."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.waiting import until

from dbshield.backup import record
from dbshield.backup.binaries import programs
from dbshield.backup.damage import Damaged
from dbshield.backup.destination import disks, mount_of
from dbshield.backup.fingerprint import sample_of
from dbshield.backup.logical import _literal
from dbshield.backup.record import (
    Canary,
    DatabaseRecord,
    Record,
    SequenceRecord,
    TableRecord,
    compare_sequences,
    compare_tables,
)
from dbshield.backup.run import plan_named
from dbshield.backup.work import sweep, work_folder
from dbshield.cluster import embedded_binaries
from dbshield.config import BackupConfig, Config
from dbshield.errors import BackupError, ConfigError

ORDERS = TableRecord(schema="shop", name="orders", rows=10, fingerprint="1:2")
DATABASE = DatabaseRecord(
    name="shop",
    folder="5",
    owner="postgres",
    encoding="UTF8",
    collation="C",
    character_type="C",
    extensions={"plpgsql": "1.0"},
    tables=(ORDERS,),
    sequences=(SequenceRecord(schema="shop", name="ids", last=7),),
    schema_sha256="0" * 64,
)


def test_a_record_comes_back_from_its_text() -> None:
    kept = Record(
        taken="2026-05-01T12:00:00Z",
        settings={"max_connections": "100"},
        roles={"app": {"login": True}},
        members=(("app", "claude"),),
        databases=(DATABASE,),
        canary=Canary(database="shop", before="a", before_at="b", after="c", after_at="d"),
    )
    assert record.parse(kept.text()) == kept
    assert record.parse(replace(kept, canary=None, no_canary="none").text()).no_canary == "none"
    for text in (b"{}", b"null", b'{"format": 2}', kept.text().replace(b'"rows"', b'"lines"')):
        with pytest.raises(Damaged):
            record.parse(text)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ((ORDERS,), []),
        ((), ["shop: shop.orders: not there, expected 10 rows"]),
        ((replace(ORDERS, rows=9),), ["shop: shop.orders: 9 rows, expected 10 rows"]),
        ((replace(ORDERS, fingerprint="1:3"),), ["shop: shop.orders: 10 rows of other content, expected the content 1:2"]),
        ((replace(ORDERS, sample=4),), ["shop: shop.orders: 1 in 4, expected a sample of 1 in 1"]),
        ((ORDERS, replace(ORDERS, name="more")), ["shop: shop.more: 10 rows, expected no such table"]),
        ((replace(ORDERS, rows=None, fingerprint=None, skipped="foreign"),), ["shop: shop.orders: not there, expected 10 rows"]),
    ],
)
def test_what_differs_is_named(found: tuple[TableRecord, ...], expected: list[str]) -> None:
    assert [str(difference) for difference in compare_tables(DATABASE, replace(DATABASE, tables=found))] == expected


@pytest.mark.parametrize(("last", "count"), [(7, 0), (8, 0), (6, 1), (None, 1)])
def test_a_sequence_may_be_ahead_and_not_behind(last: int | None, count: int) -> None:
    found = replace(DATABASE, sequences=(SequenceRecord(schema="shop", name="ids", last=last),))
    assert len(compare_sequences(DATABASE, found)) == count
    assert len(compare_sequences(DATABASE, replace(DATABASE, sequences=()))) == 1


@given(st.integers(0, 1 << 50), st.integers(1, 1 << 40))
def test_a_sample_keeps_the_budget_and_is_a_power_of_two(size: int, budget: int) -> None:
    n = sample_of(size, budget, has_key=True)
    assert n & (n - 1) == 0
    assert size <= budget * n
    assert n == 1 or size > budget * (n // 2)
    assert sample_of(size, budget, has_key=False) == (1 if size <= budget else 0)


def test_a_work_folder_is_gone_afterwards_and_while_it_lives_nobody_removes_it(tmp_path: Path) -> None:
    with work_folder(tmp_path / "base") as work:
        (work.make("data") / "rows").write_text("in clear")
        assert work.folder.stat().st_mode & 0o777 == 0o700
        with work_folder(tmp_path / "base") as other:
            assert other.folder != work.folder
            assert sweep(tmp_path / "base") == ()
        assert (work.folder / "data/rows").exists()
    assert not list((tmp_path / "base").glob("work-*"))


def test_a_killed_process_leaves_its_work_to_the_next(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from dbshield.backup.work import work_folder
with work_folder(Path(sys.argv[1])) as work:
    (work.folder / "secret").write_text("in clear")
    print("ready", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert sweep(tmp_path) == ()
        process.send_signal(signal.SIGKILL)
        process.wait()
    (left,) = tmp_path.glob("work-*")
    assert (left / "secret").exists()
    assert until(lambda: sweep(tmp_path) == (left.name,))
    assert not left.exists()


def test_a_program_that_outlives_its_parent_keeps_the_folder(tmp_path: Path) -> None:
    with work_folder(tmp_path) as work, subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(work.lock,)) as child:
        # As if the parent had gone: the child's descriptor still holds the lock.
        handle = os.open(work.folder / "lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(handle)
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait() == 0


def test_others_may_not_write_where_the_work_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(BackupError, match="others may write"), work_folder(tmp_path):
        pass


def test_the_programs_are_those_of_the_server(tmp_path: Path) -> None:
    found = programs(18, embedded_binaries().folder)
    assert found.major == 18
    with pytest.raises(BackupError, match=r"PostgreSQL 17, and its programs are not here.*version 18") as caught:
        programs(17, embedded_binaries().folder)
    assert "postgresql-client-17" in caught.value.hint
    with pytest.raises(BackupError, match="nothing"):
        programs(18, tmp_path)


def test_a_folder_is_on_a_file_system(tmp_path: Path) -> None:
    mount = mount_of(tmp_path)
    assert mount.device == tmp_path.stat().st_dev
    assert mount.kind
    assert disks(0) == frozenset()


@pytest.mark.parametrize("text", ["", "x'; drop table t; --", "00000003-0000001B-1'"])
def test_no_text_passes_for_the_name_of_a_snapshot(text: str) -> None:
    with pytest.raises(BackupError):
        _literal(text)
    assert _literal("00000003-0000001B-1") == "00000003-0000001B-1"


PLAN = {"destination": "file:///backups", "encryption": "none"}
RECIPIENT = "age1sn5385wl0hn23llhyv8x2mwwguqz7nkgey9mmpj3cwdxlv8x9dqqe50htg"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"destination": "backups"}, "begins with none of"),
        ({"destination": "file://backups"}, "is no folder"),
        ({"destination": "file:///a/../b"}, "has .. in it"),
        ({"destination": "s3:///prefix"}, "names no bucket"),
        ({"destination": "s3://key:secret@bucket"}, "has more than a place"),
        ({"destination": "s3://bucket/?x=1"}, "has more than a place"),
        ({"encryption": "age"}, "encrypt_to is missing"),
        ({"encrypt_to": [RECIPIENT]}, "although encrypt_to names recipients"),
        ({"encryption": "age", "encrypt_to": ["AGE-SECRET-KEY-1QQ"]}, "which is secret"),
        ({"encryption": "age", "encrypt_to": ["ssh-ed25519 AAAA"]}, "no age recipient"),
        ({"source": "postgresql://db"}, "names no user"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        BackupConfig.model_validate(PLAN | change)
    assert "secret@" not in str(caught.value)


def test_a_plan_is_named_or_the_only_one(tmp_path: Path) -> None:
    environments = {"live": {"upstream": "host=/run user=a dbname=b"}}
    one = Config.model_validate({"environments": environments, "backup": {"live": PLAN}})
    assert plan_named(one, None) == ("live", one.backup["live"])
    allowed = dict.fromkeys(("same_device", "same_account", "same_credentials"), "allowed")
    weak = PLAN | {"environment": "live"} | allowed
    two = Config.model_validate({"environments": environments, "backup": {"live": PLAN, "weekly": weak}})
    for name, message in ((None, "several plans"), ("other", 'no plan of backups "other"')):
        with pytest.raises(ConfigError, match=message):
            plan_named(two, name)
    with pytest.raises(ConfigError, match="there is no plan"):
        plan_named(Config.model_validate({"environments": environments}), None)
    with pytest.raises(ValueError, match="backs up the environment other, which is not configured"):
        Config.model_validate({"environments": environments, "backup": {"other": PLAN}})
    remarks = " ".join(two.remarks())
    assert all(f"[backup.weekly] {word}" in remarks for word in ("encryption is none", *allowed))
