from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from apscheduler.triggers.cron import CronTrigger
from hypothesis import given
from hypothesis import strategies as st

from dbshield.config.cron import parse
from dbshield.schedule.due import COUNTED, Due, Ran, dues, newest_due, next_due, overdue, what_is_due

BERLIN = ZoneInfo("Europe/Berlin")
PARIS, LORD_HOWE = ZoneInfo("Europe/Paris"), ZoneInfo("Australia/Lord_Howe")
ZULU = ZoneInfo("UTC")
NIGHTLY = parse("30 2 * * *")
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def some(text: str, zone: ZoneInfo, after: str, count: int) -> list[str]:
    return [f"{due:%m-%d %H:%M}" for due in islice(dues(parse(text), zone, at(after)), count)]


def moments(first: int, last: int) -> st.SearchStrategy[datetime]:
    seconds = int((datetime(last, 1, 1, tzinfo=UTC) - datetime(first, 1, 1, tzinfo=UTC)).total_seconds())
    return st.integers(0, seconds).map(lambda second: datetime(first, 1, 1, tzinfo=UTC) + timedelta(seconds=second))


class TestWhenItIsDue:
    def test_a_time_that_is_left_out_is_due_after_the_gap_once(self) -> None:
        """On 29 March 2026 the clock in Berlin goes from 02:00 to 03:00: 02:30 becomes 03:30, 01:30 in UTC."""
        assert some("30 2 * * *", BERLIN, "2026-03-28", 3) == ["03-28 01:30", "03-29 01:30", "03-30 00:30"]
        assert some("30 2,3 * * *", BERLIN, "2026-03-28 12:00", 3) == ["03-29 01:30", "03-30 00:30", "03-30 01:30"]

    def test_a_time_that_comes_twice_is_due_once(self) -> None:
        """On 25 October 2026 the clock in Berlin shows 02:30 at 00:30 and at 01:30 in UTC. APScheduler itself takes both."""
        trigger = CronTrigger(hour=2, minute=30, timezone=BERLIN)
        first = trigger.get_next_fire_time(None, at("2026-10-24 12:00"))
        again = trigger.get_next_fire_time(first, first + timedelta(seconds=1))
        assert [moment.astimezone(UTC) for moment in (first, again)] == [at("2026-10-25 00:30"), at("2026-10-25 01:30")]
        assert some("30 2 * * *", BERLIN, "2026-10-24", 4) == ["10-24 00:30", "10-25 00:30", "10-26 01:30", "10-27 01:30"]

    def test_by_minutes_alone_no_hour_is_left_out_and_none_doubled(self) -> None:
        found = list(islice(dues(parse("*/30 * * * *"), BERLIN, at("2026-10-24 22:00")), 12))
        assert {later - sooner for sooner, later in pairwise(found)} == {timedelta(minutes=30)}
        found = list(islice(dues(parse("*/30 * * * *"), BERLIN, at("2026-03-28 22:00")), 12))
        assert {later - sooner for sooner, later in pairwise(found)} == {timedelta(minutes=30)}

    def test_a_clock_that_changes_by_half_an_hour(self) -> None:
        found = list(islice(dues(parse("15 2 * * *"), LORD_HOWE, at("2026-10-01")), 6))
        assert [f"{due.astimezone(LORD_HOWE):%d %H:%M}" for due in found] == [
            "02 02:15", "03 02:15", "04 02:45", "05 02:15", "06 02:15", "07 02:15",
        ]  # fmt: skip

    def test_weekdays_are_counted_as_cron_counts_them(self) -> None:
        """2026-11-22 is a Sunday. APScheduler's own from_crontab takes 0 for Monday."""
        assert some("0 1 * * 0", ZULU, "2026-11-20", 2) == ["11-22 01:00", "11-29 01:00"]
        assert some("0 1 * * 7", ZULU, "2026-11-20", 1) == ["11-22 01:00"]
        assert some("0 1 * * mon", ZULU, "2026-11-20", 1) == ["11-23 01:00"]
        assert str(CronTrigger.from_crontab("0 1 * * 0", timezone=UTC).get_next_fire_time(None, at("2026-11-20")))[:10] == (
            "2026-11-23"
        )

    def test_a_due_time_itself_is_not_after_itself(self) -> None:
        assert next_due(NIGHTLY, ZULU, at("2026-11-22 02:30")) == at("2026-11-23 02:30")
        assert next_due(NIGHTLY, ZULU, at("2026-11-22 02:29:59")) == at("2026-11-22 02:30")

    def test_a_leap_day(self) -> None:
        assert next_due(parse("0 0 29 2 *"), ZULU, at("2026-01-01")) == at("2028-02-29")

    @given(
        day=moments(2000, 2040),
        hour=st.integers(0, 23),
        minute=st.integers(0, 59),
        zone=st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Pacific/Chatham"]),
    )
    def test_once_a_day_is_once_on_every_day_of_the_calendar(self, day: datetime, hour: int, minute: int, zone: str) -> None:
        there = ZoneInfo(zone)
        found = list(islice(dues(parse(f"{minute} {hour} * * *"), there, day), 10))
        days = [due.astimezone(there).date() for due in found]
        assert [later - sooner for sooner, later in pairwise(days)] == [DAY] * 9
        assert found == sorted(found)
        assert found[0] > day

    @given(
        moment=moments(2026, 2027),
        text=st.sampled_from(["*/7 * * * *", "0 * * * *", "15 1,2,3 * * *", "0 3 * * 1-5", "0 0 1 * *", "59 23 28-31 2 *"]),
    )
    def test_every_due_time_shows_on_the_clock_and_none_comes_twice(self, moment: datetime, text: str) -> None:
        cron = parse(text)
        found = list(islice(dues(cron, PARIS, moment), 30))
        assert len(set(found)) == len(found)
        for due in found:
            shown = due.astimezone(PARIS)
            gap = (due - timedelta(hours=1)).astimezone(PARIS).utcoffset() != shown.utcoffset()
            assert gap or (shown.minute in cron.minutes and shown.hour in cron.hours and shown.day in cron.days)


class TestWhatIsDue:
    since = at("2026-11-20 12:00")

    def due(self, now: str, ran: Ran | None = None) -> Due | None:
        return what_is_due(NIGHTLY, ZULU, since=self.since, ran=ran, now=at(now))

    def test_nothing_is_due_from_before_it_was_scheduled(self) -> None:
        assert self.due("2026-11-21 02:29") is None
        assert self.due("2026-11-21 02:30") == Due(due=at("2026-11-21 02:30"))

    def test_what_was_missed_is_one_run(self) -> None:
        assert self.due("2026-11-24 12:00") == Due(due=at("2026-11-24 02:30"), missed=3)

    def test_what_ran_is_not_due_again(self) -> None:
        ran = Ran(due=at("2026-11-21 02:30"), state="failed", attempt=1)
        assert self.due("2026-11-21 12:00", ran) is None
        assert self.due("2026-11-23 12:00", ran) == Due(due=at("2026-11-23 02:30"), missed=1)

    @pytest.mark.parametrize("state", ["lost", "stopped"])
    def test_what_did_not_end_by_itself_is_due_once_more(self, state: str) -> None:
        due = at("2026-11-21 02:30")
        assert self.due("2026-11-21 12:00", Ran(due=due, state=state, attempt=1)) == Due(due=due, attempt=2)
        assert self.due("2026-11-21 12:00", Ran(due=due, state=state, attempt=2)) is None
        assert self.due("2026-11-22 12:00", Ran(due=due, state=state, attempt=1)) == Due(due=due + DAY)

    def test_a_long_time_without_a_scheduler_is_counted_up_to_a_bound(self) -> None:
        found = newest_due(parse("* * * * *"), ZULU, at("2020-01-01"), at("2026-11-22 12:00:30"))
        assert found == Due(due=at("2026-11-22 12:00"), missed=COUNTED)
        found = newest_due(NIGHTLY, ZULU, at("2020-01-01"), at("2026-11-22 12:00"))
        assert found == Due(due=at("2026-11-22 02:30"), missed=COUNTED)


class TestOverdue:
    def overdue(self, now: str, *, done: str | None = None, running: str | None = None) -> datetime | None:
        return overdue(
            NIGHTLY,
            ZULU,
            since=at("2026-11-20 12:00"),
            done=at(done) if done else None,
            running=at(running) if running else None,
            now=at(now),
            grace=HOUR,
        )

    def test_it_is_when_the_grace_is_over(self) -> None:
        assert self.overdue("2026-11-21 03:29") is None
        assert self.overdue("2026-11-21 03:30") == at("2026-11-21 02:30")

    def test_it_is_not_when_it_was_done(self) -> None:
        assert self.overdue("2026-11-21 12:00", done="2026-11-21 02:30") is None
        assert self.overdue("2026-11-23 12:00", done="2026-11-21 02:30") == at("2026-11-22 02:30")

    def test_a_long_run_is_overdue_when_the_next_is(self) -> None:
        assert self.overdue("2026-11-22 03:29", running="2026-11-21 02:30") is None
        assert self.overdue("2026-11-22 03:30", running="2026-11-21 02:30") == at("2026-11-21 02:30")
