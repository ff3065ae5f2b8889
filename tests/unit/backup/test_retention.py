from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbshield.backup.retention import Candidate, Rules, fates, wal_needed

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def snapshot(
    days: float,
    *,
    name: str = "",
    plan: str = "main",
    state: str = "complete",
    drilled: str | None = None,
    parent: str | None = None,
    number: int | None = None,
) -> Candidate:
    recorded = NOW - days * DAY
    return Candidate(
        id=name or f"{recorded:%Y%m%dt%H%M%S}",
        plan=plan,
        state=state,
        number=number if number is not None else -round(days * 86_400),
        recorded=recorded,
        drilled=drilled,
        parent=parent,
    )


def kept(snapshots: list[Candidate], rules: Rules) -> set[str]:
    return {fate.snapshot.id for fate in fates(snapshots, rules, NOW) if not fate.goes}


class TestWhatIsKept:
    def test_the_last_ones(self) -> None:
        made = [snapshot(days, name=f"d{days}") for days in range(5)]
        assert kept(made, Rules(last=2)) == {"d0", "d1"}

    def test_the_newest_though_nothing_is_to_be_kept(self) -> None:
        assert kept([snapshot(1, name="new"), snapshot(2, name="old")], Rules(last=0)) == {"new"}

    def test_the_newest_that_a_drill_proved(self) -> None:
        made = [snapshot(1, name="new"), snapshot(2, name="bad", drilled="failed"), snapshot(3, name="good", drilled="passed"),
                snapshot(4, name="older", drilled="passed")]  # fmt: skip
        assert kept(made, Rules(last=1, failed_for=DAY)) == {"new", "good"}

    def test_one_that_failed_its_drill_takes_nobodys_place(self) -> None:
        made = [snapshot(1, name="bad", drilled="failed"), snapshot(2, name="a"), snapshot(3, name="b"),
                snapshot(4, name="bad-too", drilled="failed"), snapshot(9, name="long-bad", drilled="failed")]  # fmt: skip
        assert kept(made, Rules(last=2)) == {"bad", "a", "b", "bad-too"}
        assert kept(made, Rules(last=0, failed_for=DAY)) == {"bad", "a"}

    def test_the_newest_is_what_came_last_though_a_clock_went_back(self) -> None:
        made = [snapshot(400, name="new", number=3), snapshot(0, name="a", number=1), snapshot(401, name="b", number=2)]
        assert kept(made, Rules(last=2)) == {"new", "b"}

    def test_what_is_held_for_a_reason_from_elsewhere(self) -> None:
        made = [
            snapshot(0, name="new"),
            snapshot(1, name="child", parent="base"),
            snapshot(2, name="base"),
            snapshot(3, name="x"),
        ]
        decided = fates(made, Rules(last=1), NOW, {"child": "somebody said so"})
        assert {fate.snapshot.id: fate.keep for fate in decided if not fate.goes} == {
            "new": ("the newest", "one of the last 1"),
            "child": ("somebody said so",),
            "base": ("another needs it",),
        }

    def test_the_newest_of_each_day_that_has_one(self) -> None:
        made = [snapshot(days, name=f"d{days}") for days in (0, 0.1, 1, 1.1, 7, 8)]
        assert kept(made, Rules(last=0, daily=3)) == {"d0", "d1", "d7"}

    @pytest.mark.parametrize(
        ("rules", "expected"),
        [
            # 2026-11-22 is a Sunday, so yesterday is of the same week and the Sunday before is not
            (Rules(last=0, weekly=2), {"d0", "d7"}),
            (Rules(last=0, monthly=2), {"d0", "d22"}),
            (Rules(last=0, yearly=2), {"d0", "d330"}),
        ],
    )
    def test_the_newest_of_each_period(self, rules: Rules, expected: set[str]) -> None:
        assert kept([snapshot(days, name=f"d{days}") for days in (0, 1, 7, 22, 23, 330, 400)], rules) == expected

    def test_periods_are_counted_in_utc_wherever_a_time_was_written(self) -> None:
        """Half past midnight in Auckland is the day before in UTC."""
        there = timezone(timedelta(hours=13))
        made = [
            Candidate(id="noon", plan="main", state="complete", number=2, recorded=datetime(2026, 11, 21, 12, tzinfo=UTC)),
            Candidate(id="before", plan="main", state="complete", number=1, recorded=datetime(2026, 11, 22, 0, 30, tzinfo=there)),
        ]
        assert kept(made, Rules(last=0, daily=2)) == {"noon"}

    def test_what_the_window_of_the_wal_begins_with(self) -> None:
        made = [snapshot(days, name=f"d{days}") for days in (0, 1, 2, 4, 5)]
        assert kept(made, Rules(last=0, wal_window=3 * DAY)) == {"d0", "d1", "d2", "d4"}

    def test_what_another_was_made_upon(self) -> None:
        made = [
            snapshot(0, name="c", parent="b"),
            snapshot(1, name="b", parent="a"),
            snapshot(2, name="a"),
            snapshot(3, name="z"),
        ]
        assert kept(made, Rules(last=1)) == {"a", "b", "c"}

    def test_one_that_is_being_made_and_one_that_failed_lately(self) -> None:
        made = [snapshot(30, name="run", state="running"), snapshot(1, name="lately", state="failed"),
                snapshot(30, name="long-ago", state="failed")]  # fmt: skip
        assert kept(made, Rules()) == {"run", "lately"}

    def test_a_failed_one_is_not_the_newest(self) -> None:
        assert kept([snapshot(1, name="failed", state="failed"), snapshot(2, name="whole")], Rules(last=0)) == {"failed", "whole"}

    def test_a_state_that_is_not_known(self) -> None:
        (fate,) = fates([snapshot(100, state="frozen")], Rules(), NOW)
        assert not fate.goes
        assert "not known" in fate.keep[0]

    def test_plans_do_not_know_of_each_other(self) -> None:
        assert kept([snapshot(0, name="a", plan="one"), snapshot(9, name="b", plan="two")], Rules(last=1)) == {"a", "b"}

    def test_no_more_than_so_many_a_run_and_the_oldest_first(self) -> None:
        decided = fates([snapshot(days, name=f"d{days}") for days in range(6)], Rules(last=1, at_most=2), NOW)
        assert {fate.snapshot.id for fate in decided if fate.goes} == {"d4", "d5"}
        assert {fate.snapshot.id for fate in decided if fate.later} == {"d1", "d2", "d3"}

    def test_none_goes_before_what_was_made_upon_it(self) -> None:
        made = [snapshot(0, name="new"), snapshot(5, name="child", parent="base"), snapshot(6, name="base")]
        assert kept(made, Rules(last=1, at_most=1)) == {"new", "base"}
        assert kept(made, Rules(last=1, at_most=2)) == {"new"}

    def test_none_at_all_where_none_may_go(self) -> None:
        decided = fates([snapshot(days, name=f"d{days}") for days in range(3)], Rules(last=1, at_most=0), NOW)
        assert not any(fate.goes for fate in decided)


counts = st.integers(0, 4)
rules_of = st.builds(
    Rules,
    last=counts,
    daily=counts,
    weekly=counts,
    monthly=counts,
    yearly=counts,
    wal_window=st.sampled_from([timedelta(), DAY, 10 * DAY]),
    at_most=st.integers(0, 12),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Candidate]:
    """Snapshots of two plans in the catalogue's order, at any times, each made upon an earlier one or upon none."""
    made: list[Candidate] = []
    for number in range(draw(st.integers(0, 12))):
        parents = [one.id for one in made]
        made.append(
            snapshot(
                draw(st.floats(0, 800)),
                name=f"s{number}",
                plan=draw(st.sampled_from(["main", "other"])),
                state=draw(st.sampled_from(["complete", "complete", "complete", "failed", "running"])),
                drilled=draw(st.sampled_from([None, "passed", "failed", "error"])),
                parent=draw(st.sampled_from([None, *parents])),
                number=number,
            )
        )
    return made


@given(made=histories(), rules=rules_of)
def test_the_laws(made: list[Candidate], rules: Rules) -> None:
    decided = fates(made, rules, NOW)
    gone = {fate.snapshot.id for fate in decided if fate.goes}
    assert sorted(fate.snapshot.id for fate in decided) == sorted(one.id for one in made), "each has one fate"
    assert len(gone) <= rules.at_most
    for plan in {one.plan for one in made}:
        complete = [one for one in made if one.plan == plan and one.state == "complete"]
        good = [one for one in complete if one.drilled != "failed"]
        proven = [one for one in complete if one.drilled == "passed"]
        assert not {one.id for one in complete[-1:] + good[-1:] + proven[-1:]} & gone
        assert not {one.id for one in good[max(0, len(good) - rules.last) :] if rules.last} & gone
    for one in made:
        assert one.id in gone or one.parent not in gone, "what is still there can be restored"
        assert one.state != "running" or one.id not in gone


@given(made=histories(), rules=rules_of)
def test_the_law_of_the_wal(made: list[Candidate], rules: Rules) -> None:
    """Whatever goes, any moment of the window comes back, from a snapshot that is still there, and so does now."""
    decided = list(fates([one for one in made if one.plan == "main"], rules, NOW))
    there = [fate.snapshot for fate in decided if not fate.goes]
    good = sorted((one for one in there if one.state == "complete" and one.drilled != "failed"), key=lambda one: one.number)
    needed = wal_needed(decided, rules, NOW)
    assert {one.id for one in needed} <= {one.id for one in good}
    assert bool(needed) == bool(good)
    assert {one.id for one in good[-1:]} <= {one.id for one in needed}
    assert {one.id for one in [one for one in good if one.drilled == "passed"][-1:]} <= {one.id for one in needed}
    begin = NOW - rules.wal_window
    assert {one.id for one in good if one.recorded >= begin} <= {one.id for one in needed}
    earlier = [one for one in good if one.recorded < begin]
    assert {one.id for one in earlier[-1:]} <= {one.id for one in needed}, "the window begins behind it"


@given(made=histories(), rules=rules_of)
def test_running_it_again_changes_its_mind_about_nothing_that_stays(made: list[Candidate], rules: Rules) -> None:
    """What was kept is kept as long as nothing new is there and no time has passed, but for what was only put off."""
    first = fates(made, rules, NOW)
    rest = [fate.snapshot for fate in first if not fate.goes]
    wanted = {fate.snapshot.id for fate in first if fate.keep}
    assert wanted <= {fate.snapshot.id for fate in fates(rest, rules, NOW) if fate.keep}
