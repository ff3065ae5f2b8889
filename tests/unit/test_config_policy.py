"""What the configuration says of agents: where values come from, what mistakes are answered with, and what is remarked."""

from __future__ import annotations

import os
import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dbshield.config import Config, EnvironmentConfig, InvalidConfig, load_config
from dbshield.config.text import shown, toml
from dbshield.model import AccessLevel, ObjectName
from dbshield.patterns import ObjectPattern
from dbshield.policy.policy import Mode, Override, OverrideVerdict, Policy, policy_for
from docs.configuration import configuration_page

UPSTREAM = 'upstream = "postgresql://app@localhost/shop"\n'
FULL = f"""
[environments.production]
{UPSTREAM}
mode = "observe"
max_rows = 50
max_rows_per_hour = 500
protected = ["billing.*", "Shop.Ledger"]
frozen_until = 2026-12-24T18:00:00+01:00
functions_allowed = ["shop.close_month"]

[[environments.production.overrides]]
rule = "DS201"
verdict = "limit"
objects = ["scratch.*"]
agents = ["etl-?", "loader"]

[[environments.production.overrides]]
rule = "DS3xx"
verdict = "deny"

[environments.production.agents.claude]
mode = "enforce"
max_rows = 5
max_rows_per_hour = 0
protected = ["hr.*", "billing.*"]
functions_allowed = ['audit."Note it"']

[[environments.production.agents.claude.overrides]]
rule = "DS104"
verdict = "deny"
"""
NOW = datetime(2026, 12, 24, 16, 59, 59, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("DBSHIELD_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def load(text: str) -> Config:
    path = Path("dbshield.toml")
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def production(text: str = FULL) -> EnvironmentConfig:
    return load(text).environments["production"]


def patterns(*texts: str) -> tuple[ObjectPattern, ...]:
    return tuple(map(ObjectPattern.parse, texts))


def test_an_agents_section_replaces_numbers_and_adds_to_lists() -> None:
    policy = policy_for(production(), agent="claude", access=AccessLevel.WRITE, frozen=False)
    assert policy == Policy(
        access=AccessLevel.WRITE,
        mode=Mode.ENFORCE,
        max_rows=5,
        max_rows_per_hour=0,
        overrides=(
            Override(rule="DS104", verdict=OverrideVerdict.DENY, source="agent"),
            Override(rule="DS3xx", verdict=OverrideVerdict.DENY),
        ),
        protected=patterns("billing.*", "shop.ledger", "hr.*"),
        functions_allowed=frozenset({ObjectName(schema="shop", name="close_month"), ObjectName(schema="audit", name="Note it")}),
    )


@pytest.mark.parametrize(("agent", "scratch"), [("etl-1", True), ("etl-12", False), ("loader", True), ("load", False)])
def test_an_override_may_be_for_some_agents(agent: str, scratch: bool) -> None:
    policy = policy_for(production(), agent=agent, access=AccessLevel.READ, frozen=True, freeze_reason="release")
    limit = Override(rule="DS201", verdict=OverrideVerdict.LIMIT, objects=patterns("scratch.*"))
    assert policy == Policy(
        access=AccessLevel.READ,
        mode=Mode.OBSERVE,
        max_rows=50,
        max_rows_per_hour=500,
        overrides=(*((limit,) if scratch else ()), Override(rule="DS3xx", verdict=OverrideVerdict.DENY)),
        protected=patterns("billing.*", "shop.ledger"),
        frozen=True,
        freeze_reason="release",
        functions_allowed=frozenset({ObjectName(schema="shop", name="close_month")}),
    )


def test_without_a_word_the_policy_is_the_default_one() -> None:
    environment = production(f"[environments.production]\n{UPSTREAM}")
    policy = policy_for(environment, agent="a", access=AccessLevel.MIGRATE, frozen=False, freeze_reason="old")
    assert policy == Policy(access=AccessLevel.MIGRATE)


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("", False, False),
        ("frozen = true", True, True),
        ("frozen_until = 2026-12-24T18:00:00+01:00", True, False),
        ("frozen = true\nfrozen_until = 2026-12-24T17:00:00Z", True, False),
        ('frozen_until = "2026-12-24T17:00:00Z"', True, False),
        ('frozen = true\nfrozen_until = ""', True, True),
    ],
)
def test_a_freeze_ends_at_its_time(text: str, before: bool, after: bool) -> None:
    environment = production(f"[environments.production]\n{UPSTREAM}{text}")
    assert (environment.is_frozen(NOW), environment.is_frozen(NOW.replace(hour=17, minute=0, second=0))) == (before, after)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('mode = "watch"', "[environments.production] mode: input should be 'enforce' or 'observe'"),
        ("max_rows = 0", "max_rows: input should be greater than or equal to 1"),
        ("max_rows_per_hour = -1", "max_rows_per_hour: input should be greater than or equal to 0"),
        (
            'protected = ["billing"]',
            '[environments.production] protected: "billing" is not a pattern of names',
        ),
        ("frozen_until = 2026-12-24T18:00:00", "frozen_until: has no zone; write one such as 2026-12-24T18:00:00+01:00"),
        ('frozen_until = "soon"', "frozen_until: is no time; write one such as"),
        ('functions_allowed = ["shop.*"]', 'functions_allowed: "shop.*" names more than one function'),
        ("functions_allowed = [7]", "[environments.production] functions_allowed number 1: input should be a valid string"),
        ('overrides = [{ rule = "DS21", verdict = "deny" }]', 'number 1: rule: "DS21" is no rule; did you mean DS201 or DS210'),
        (
            'overrides = [{ rule = "DS201", verdict = "deny" }, { rule = "DS901", verdict = "hold" }]',
            '[[environments.production.overrides]] number 2: rule: DS901 is never loosened, only "deny" may be said of it',
        ),
        (
            'overrides = [{ rule = "DS201", verdict = "no" }]',
            "number 1, verdict: input should be 'allow', 'limit', 'hold' or 'deny'",
        ),
        ('overrides = [{ rule = "DS201" }]', "number 1, verdict: is missing and has no default"),
        (
            'overrides = [{ rul = "DS201", verdict = "deny", rule = "DS201" }]',
            'number 1, rul: "rul" is no setting here; did you mean "rule"',
        ),
        (
            'overrides = [{ rule = "DS201", verdict = "deny", agents = ["A b"] }]',
            'number 1, agents: "A b" is no pattern of agents',
        ),
        ('overrides = { rule = "DS201" }', "[environments.production] overrides: should be a list"),
        ("agents = 7", "[environments.production] agents: should be a table"),
        ("agents = { Bob = {} }", '[environments.production.agents.Bob]: "Bob" is not a name'),
        ("agents = { bob = { max_row = 1 } }", '[environments.production.agents.bob] max_row: "max_row" is no setting here'),
        (
            'agents = { bob = { overrides = [{ rule = "DS301", verdict = "allow" }] } }',
            "[[environments.production.agents.bob.overrides]] number 1: rule: DS301 is never loosened",
        ),
    ],
)
def test_a_mistake_is_answered_with_its_place_and_what_to_write(text: str, said: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        production(f"[environments.production]\n{UPSTREAM}{text}")
    (problem,) = map(str, caught.value.problems)
    assert said in problem


def test_what_weakens_is_remarked() -> None:
    config = load(FULL + '\n[[environments.production.overrides]]\nrule = "DS1xx"\nverdict = "hold"\n')
    assert config.remarks() == (
        "[environments.production] mode is observe: nothing is stopped, only recorded",
        "[environments.production] override of DS201 to limit on scratch.* weakens DS201 for etl-?, loader",
        "[environments.production] override of DS1xx to hold weakens DS102, DS103",
    )
    text = f"""[environments.production]\n{UPSTREAM}agents.bob = {{ mode = "observe" }}
agents.eve.overrides = [{{ rule = "DS201", verdict = "allow" }}]"""
    assert load(text).remarks() == (
        "[environments.production] agents.bob mode is observe: nothing is stopped, only recorded",
        "[environments.production] agents.eve override of DS201 to allow weakens DS201",
    )


def test_what_is_shown_can_be_read_back() -> None:
    config = load(FULL)
    text = toml(shown(config))
    assert "[[environments.production.agents.claude.overrides]]" in text
    assert "agents" in tomllib.loads(text)["environments"]["production"]
    assert load(text) == config


def test_the_environment_wins_and_may_speak_of_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBSHIELD_ENVIRONMENTS__PRODUCTION__FROZEN", "true")
    monkeypatch.setenv("DBSHIELD_ENVIRONMENTS__PRODUCTION__PROTECTED", "a.*, b.c")
    environment = production(f"[environments.production]\n{UPSTREAM}")
    assert (environment.frozen, environment.protected) == (True, ("a.*", "b.c"))


def test_the_example_of_the_reference_is_a_configuration() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", configuration_page(), re.DOTALL)
    (override,) = load(f"[environments.staging]\n{UPSTREAM}{example}").environments["staging"].overrides
    assert (override.rule, override.is_for("etl-nightly"), override.is_for("claude")) == ("DS201", True, False)
    assert override.remark()
