"""Hours in which a token works: what people may write, and which moments lie in them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbshield.control.hours import DAYS, MAX_LENGTH, Hours, Window, parse_hours
from dbshield.errors import ConfigError

BERLIN = "Mon-Fri 08:00-18:00 Europe/Berlin"
WINDOWS = st.builds(
    lambda first, last, begin, end: Window(first=first, last=last, begin=begin, end=end),
    st.integers(0, 6),
    st.integers(0, 6),
    st.integers(0, 1439),
    st.integers(0, 1440),
).filter(lambda window: window.begin != window.end)
MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Pacific/Apia"]).map(ZoneInfo)
HOURS = st.builds(
    lambda windows, zone: Hours(windows=tuple(windows), zone=zone), st.lists(WINDOWS, min_size=1, max_size=3), ZONES
)


@pytest.mark.parametrize(
    ("text", "moment", "inside"),
    [
        (BERLIN, "2026-05-04T06:00+00:00", True),  # Monday, 08:00 there in summer
        (BERLIN, "2026-05-04T05:59:59+00:00", False),
        (BERLIN, "2026-01-05T06:59+00:00", False),  # 07:59 there in winter
        (BERLIN, "2026-05-04T15:59:59+00:00", True),
        (BERLIN, "2026-05-04T16:00+00:00", False),
        (BERLIN, "2026-05-02T10:00+00:00", False),  # Saturday
        ("daily 22:00-06:00 UTC", "2026-05-04T23:00+00:00", True),
        ("daily 22:00-06:00 UTC", "2026-05-04T05:59+00:00", True),
        ("daily 22:00-06:00 UTC", "2026-05-04T06:00+00:00", False),
        ("Fri 22:00-06:00 UTC", "2026-05-09T05:00+00:00", True),  # Saturday morning belongs to Friday
        ("Fri 22:00-06:00 UTC", "2026-05-08T05:00+00:00", False),
        ("Sat-Mon 00:00-24:00 UTC", "2026-05-03T12:00+00:00", True),
        ("Sat-Mon 00:00-24:00 UTC", "2026-05-05T12:00+00:00", False),
        ("Tue 08:00-09:00, Wed 10:00-11:00 UTC", "2026-05-06T10:30+00:00", True),
        ("Tue 08:00-09:00, Wed 10:00-11:00 UTC", "2026-05-05T10:30+00:00", False),
        ("mon 08:00-09:00 UTC", "2026-05-04T08:30+00:00", True),
    ],
)
def test_which_moments_lie_in_them(text: str, moment: str, inside: bool) -> None:
    assert parse_hours(text).contain(datetime.fromisoformat(moment)) is inside


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no hours"),
        ("08:00-18:00", "names no hours"),
        ("08:00-18:00 UTC", "no span of hours"),
        ("Mon-Fri 8-18 UTC", "no span of hours"),
        ("Mon-Fri 08:00-18:00", "no time zone"),
        ("Mon-Fri 08:00-18:00 Nowhere/Atlantis", "no time zone"),
        ("Mon-Fri 08:00-18:00 ../../etc/passwd", "no time zone"),
        ("Mon-Fri 08:00-18:00, UTC", "no span of hours"),
        ("Moon 08:00-18:00 UTC", "are no days"),
        ("Mon-Fry 08:00-18:00 UTC", "are no days"),
        ("Mon 08:00-08:00 UTC", "empty span"),
        ("Mon 24:00-08:00 UTC", "empty span"),
        ("Mon 08:60-09:00 UTC", "no time of day"),
        ("Mon 08:00-24:01 UTC", "no time of day"),
        ("Mon 08:00-09:00 UTC" + " " * MAX_LENGTH, "at most"),
    ],
)
def test_what_is_no_schedule_is_said(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        parse_hours(text)
    assert caught.value.hint


@given(HOURS)
def test_hours_read_back(hours: Hours) -> None:
    assert parse_hours(str(hours)) == hours


@given(st.text(max_size=60))
def test_any_other_text_is_a_configuration_error(text: str) -> None:
    try:
        again = parse_hours(text)
    except ConfigError:
        return
    assert parse_hours(str(again)) == again


@given(HOURS, MOMENTS)
def test_a_moment_lies_in_them_as_their_words_say(hours: Hours, moment: datetime) -> None:
    """Against a walk through the days: a window begins on each of its days and goes on for its length."""
    there = moment.astimezone(hours.zone).replace(tzinfo=None)
    expected = False
    for window in hours.windows:
        length = (window.end - window.begin) % 1440 or 1440
        for back in (0, 1):
            day = there.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=back)
            named = [(window.first + step) % 7 for step in range((window.last - window.first) % 7 + 1)]
            begin = day + timedelta(minutes=window.begin)
            expected |= day.weekday() in named and begin <= there < begin + timedelta(minutes=length)
    assert hours.contain(moment) is expected


@given(HOURS, MOMENTS, st.integers(-12, 12))
def test_the_same_moment_by_another_clock_is_the_same(hours: Hours, moment: datetime, offset: int) -> None:
    elsewhere = moment.astimezone(timezone(timedelta(hours=offset)))
    assert hours.contain(elsewhere) is hours.contain(moment)


def test_every_day_has_its_name() -> None:
    """Monday is 0, as datetime counts."""
    assert [str(Window(first=day, last=day, begin=0, end=1))[:3] for day in range(7)] == list(DAYS)
