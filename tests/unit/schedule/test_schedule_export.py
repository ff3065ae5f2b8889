from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from dbshield.config import Config
from dbshield.config.cron import parse
from dbshield.schedule.export import calendar, crontab, units
from dbshield.schedule.jobs import Job, jobs_of


def config(**changed: object) -> Config:
    plan = {"destination": "s3://bucket/x", "encryption": "none", "environment": "shop"}
    return Config.model_validate(
        {
            "environments": {"shop": {"upstream": "host=db user=a dbname=shop"}},
            "backup": {"nightly": plan, "weekly": {**plan, "snapshot_at": "@weekly", "drill_at": "never"}},
            "schedule": {"timezone": "Europe/Berlin", "snapshot": "0 2 * * *", "drill": "0 5 * * 6", **changed},
        }
    )


def job(text: str, zone: str = "Europe/Berlin") -> Job:
    return Job(
        kind="snapshot",
        target="nightly",
        environment="shop",
        cron=parse(text),
        zone=ZoneInfo(zone),
        command=("backup", "--plan", "nightly", "--json"),
    )


def test_jobs_are_those_of_every_plan_and_environment() -> None:
    found = {job.name: job.cron.text for job in jobs_of(config(prune="30 4 * * *", guard_verify="@hourly"))}
    assert found == {
        "snapshot nightly": "0 2 * * *",
        "drill nightly": "0 5 * * 6",
        "prune nightly": "30 4 * * *",
        "snapshot weekly": "0 0 * * 0",
        "prune weekly": "30 4 * * *",
        "guard-verify shop": "0 * * * *",
    }


def test_jobs_of_one_plan_share_a_lane_and_others_do_not() -> None:
    lanes = {job.name: job.lane for job in jobs_of(config(prune="@daily", guard_verify="@daily"))}
    assert lanes["snapshot nightly"] == lanes["drill nightly"] == lanes["prune nightly"] != lanes["snapshot weekly"]
    assert lanes["guard-verify shop"] not in {lanes["snapshot nightly"], lanes["snapshot weekly"]}


def test_a_logical_plan_keeps_no_wal() -> None:
    assert not [job for job in jobs_of(config(wal="* * * * *")) if job.kind == "wal"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 2 * * *", "*-*-* 02:00:00"),
        ("*/15 * * * *", "*-*-* *:00,15,30,45:00"),
        ("5-20/5,50-52 1 * * *", "*-*-* 01:05,10,15,20,50..52:00"),
        ("0 2 * * 1-5", "Mon..Fri *-*-* 02:00:00"),
        ("0 2 * * 0,6", "Sat..Sun *-*-* 02:00:00"),
        ("0 2 * * 0,2,4", "Tue,Thu,Sun *-*-* 02:00:00"),
        ("0 0 1,15 1-3 *", "*-01..03-01,15 00:00:00"),
        ("59 23 29 2 *", "*-02-29 23:59:00"),
    ],
)
def test_systemd_is_told_the_same_time(text: str, expected: str) -> None:
    assert calendar(parse(text)) == expected


def test_a_crontab_has_the_zone_and_a_line_for_each_job() -> None:
    assert crontab([job("0 2 * * *")], ["dbshield", "--config", "/etc/100% sure.toml"]) == (
        "CRON_TZ=Europe/Berlin\n0 2 * * * dbshield backup --plan nightly --json --config '/etc/100\\% sure.toml'"
    )


def test_units_are_a_service_and_its_timer() -> None:
    made = units(job("0 2 * * *"), ["/opt/dbshield", "--config", "/etc/100%.toml"])
    assert list(made) == ["dbshield-snapshot-nightly.service", "dbshield-snapshot-nightly.timer"]
    assert (
        "ExecStart=/opt/dbshield backup --plan nightly --json --config /etc/100%%.toml"
        in made["dbshield-snapshot-nightly.service"]
    )
    assert "OnCalendar=*-*-* 02:00:00 Europe/Berlin" in made["dbshield-snapshot-nightly.timer"].splitlines()
    assert "Persistent=true" in made["dbshield-snapshot-nightly.timer"].splitlines()
