"""What a drill makes of its checks: one that failed decides, and nothing that was left out is taken for passed."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from dbshield.backup.checks import (
    REQUIRED,
    SHOWN,
    Check,
    Found,
    NotChecked,
    NoVerdict,
    Outcome,
    Verdict,
    checked,
    failure,
    is_bad_backup,
    verdict_of,
)
from dbshield.backup.damage import Absent, Damaged, WrongKey
from dbshield.backup.restore import DamagedMembers
from dbshield.errors import BackupError, ClusterError, ConfigError


def made(name: str, outcome: Outcome = Outcome.PASSED) -> Check:
    return Check(name=name, outcome=outcome, measure="1")


def test_all_that_is_required_has_to_pass() -> None:
    all_ = [made(name) for name in REQUIRED]
    assert verdict_of(all_) is Verdict.PASSED
    for name in REQUIRED:
        rest = [check for check in all_ if check.name != name]
        assert verdict_of(rest) is Verdict.ERROR
        assert verdict_of([*rest, made(name, Outcome.NOT_CHECKED)]) is Verdict.ERROR
        assert verdict_of([*rest, made(name, Outcome.ERROR)]) is Verdict.ERROR
        assert verdict_of([*rest, made(name, Outcome.FAILED)]) is Verdict.FAILED
    assert verdict_of([]) is Verdict.ERROR


def test_what_is_not_required_may_be_left_out_and_may_not_fail() -> None:
    all_ = [made(name) for name in REQUIRED]
    assert verdict_of([*all_, made("amcheck", Outcome.NOT_CHECKED)]) is Verdict.PASSED
    assert verdict_of([*all_, made("amcheck", Outcome.FAILED)]) is Verdict.FAILED
    assert verdict_of([*all_, made("amcheck", Outcome.ERROR)]) is Verdict.ERROR
    # One that failed decides, whatever else is not known.
    assert verdict_of([made("rows", Outcome.FAILED), made("amcheck", Outcome.ERROR)]) is Verdict.FAILED


def raising(error: Exception) -> Found:
    raise error


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Damaged("x"), Outcome.FAILED),
        (Absent("x"), Outcome.FAILED),
        (DamagedMembers(["a", "b"]), Outcome.FAILED),
        (WrongKey("x"), Outcome.ERROR),
        (BackupError("x"), Outcome.ERROR),
        (ClusterError("x"), Outcome.ERROR),
        (ConfigError("x"), Outcome.ERROR),
        (NoVerdict("x"), Outcome.ERROR),
        (OSError(28, "x"), Outcome.ERROR),
        (psycopg.OperationalError("x"), Outcome.ERROR),
        (psycopg.errors.DiskFull("x"), Outcome.ERROR),
        (psycopg.errors.AdminShutdown("x"), Outcome.ERROR),
        (psycopg.errors.FeatureNotSupported("x"), Outcome.ERROR),
        (psycopg.errors.DataCorrupted("x"), Outcome.FAILED),
        (psycopg.errors.UndefinedTable("x"), Outcome.FAILED),
        (NotChecked("x"), Outcome.NOT_CHECKED),
    ],
)
def test_who_is_to_blame(error: Exception, outcome: Outcome) -> None:
    assert checked("it", lambda: raising(error)).outcome is outcome


def test_the_log_of_the_server_tells_the_machine_from_the_backup(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    refused = BackupError("pg_restore failed (exit code 1): it said so")
    log.write_text("57P03 FATAL:  the database system is starting up\n00000 LOG:  ready\n")
    assert is_bad_backup(refused, log=log)
    begin = log.stat().st_size
    log.write_text(log.read_text() + '23505 ERROR:  duplicate key value violates unique constraint "x"\n')
    assert is_bad_backup(refused, log=log)
    log.write_text(log.read_text() + "53100 ERROR:  could not extend file\n")
    assert not is_bad_backup(refused, log=log)
    assert not is_bad_backup(refused, log=log, offset=begin)
    assert is_bad_backup(refused, log=log, offset=log.stat().st_size)
    # A line that only quotes such a state says nothing.
    log.write_text("22P02 ERROR:  invalid input\nDETAIL:  53100 ERROR:  x\n")
    assert is_bad_backup(refused, log=log)
    # No server, no verdict.
    log.write_text("22P04 ERROR:  missing data\n57014 ERROR:  canceling statement\n08006 FATAL:  connection to client lost\n")
    assert is_bad_backup(refused, log=log), "what pg_restore does to its other workers is not the machine's doing"
    assert is_bad_backup(refused, log=tmp_path / "none")
    assert not is_bad_backup(BackupError("pg_restore failed: server closed the connection unexpectedly"), log=log)
    assert not is_bad_backup(BackupError("pg_restore failed (killed by signal 9)"), log=log)


def test_problems_are_named_and_many_are_counted() -> None:
    check = checked("rows", lambda: Found(measure="3", problems=("a", "b")))
    assert (check.outcome, check.problems, check.measure) == (Outcome.FAILED, ("a", "b"), "3")
    many = failure("members", DamagedMembers([str(number) for number in range(SHOWN + 5)]))
    assert many.problems[-1] == "and 5 more"
    assert len(many.problems) == SHOWN + 1
    assert checked("rows", lambda: Found(measure="3")).tree()["outcome"] == "passed"
