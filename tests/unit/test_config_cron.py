from __future__ import annotations

import pytest
from pydantic import ValidationError

from dbshield.config.cron import parse
from dbshield.config.schedule import ScheduleConfig


@pytest.mark.parametrize(
    ("text", "field", "expected"),
    [
        ("0 2 * * *", "hours", (2,)),
        ("*/20 * * * *", "minutes", (0, 20, 40)),
        ("5-20/5,50 * * * *", "minutes", (5, 10, 15, 20, 50)),
        ("0 0 * feb,Apr *", "months", (2, 4)),
        ("0 0 * * 0", "weekdays", (0,)),
        ("0 0 * * 7", "weekdays", (0,)),
        ("0 0 * * fri-7", "weekdays", (0, 5, 6)),
        ("0 0 * * MON-FRI", "weekdays", (1, 2, 3, 4, 5)),
        ("0 0 * * *", "weekdays", (0, 1, 2, 3, 4, 5, 6)),
        ("0 0 * * */2", "weekdays", (0, 2, 4, 6)),
        ("0 0 29 2 *", "days", (29,)),
        (" 0  0\t1 * * ", "days", (1,)),
        ("@Weekly", "weekdays", (0,)),
    ],
)
def test_a_field_is_read(text: str, field: str, expected: tuple[int, ...]) -> None:
    assert getattr(parse(text), field) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "five fields"),
        ("0 2 * *", "five fields"),
        ("0 0 2 * * *", "five fields"),
        ("@reboot", "five fields"),
        ("60 2 * * *", '"60" is no minute; it goes from 0 to 59'),
        ("0 24 * * *", "is no hour"),
        ("0 0 0 * *", "is no day of the month"),
        ("0 0 * 13 *", "is no month"),
        ("0 0 * * 8", "is no day of the week"),
        ("0 0 * mon *", "is no month"),
        ("5/10 * * * *", "write 5-59/10"),
        ("20-10 * * * *", "ends before it begins"),
        ("0 0 * * sat-mon", "ends before it begins"),
        ("*/0 * * * *", "is no step"),
        ("*/ * * * *", "is no step"),
        ("-1 * * * *", "is no minute"),
        ("1,,2 * * * *", "is no minute"),
        ("² * * * *", "is no minute"),
        ("0 0 L * *", "is no day of the month"),
        ("0 0 1 * 1", "cron reads as either"),
        ("0 0 30 2 *", "never comes"),
        ("0 0 31 4,6 *", "never comes"),
    ],
)
def test_what_is_no_expression_is_refused_by_its_field(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why.replace("*", r"\*")):
        parse(text)


def test_the_section_says_what_is_wrong() -> None:
    with pytest.raises(ValidationError, match="is no time zone"):
        ScheduleConfig(timezone="Europe/Atlantis")
    with pytest.raises(ValidationError, match="is no time zone"):
        ScheduleConfig(timezone="../../etc/passwd")
    with pytest.raises(ValidationError, match="is no hour"):
        ScheduleConfig(snapshot="0 25 * * *")


def test_the_guards_key_may_be_written_as_its_job_is_called() -> None:
    assert ScheduleConfig.model_validate({"guard-verify": "0 6 * * *"}).guard_verify == "0 6 * * *"
    assert ScheduleConfig.model_validate({"guard_verify": "@daily"}).guard_verify == "0 0 * * *"
