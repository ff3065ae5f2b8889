"""What holds for an agent, setting by setting and rule by rule, and where each comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from dbshield.config import AgentConfig, EnvironmentConfig
from dbshield.policy.catalogue import RULES
from dbshield.policy.policy import HIDDEN, RANKS, OverrideVerdict, Policy
from dbshield.policy.rules.base import Rule
from dbshield.rule_ids import COUNTABLE, NEVER_LOOSENED

DEFAULT: Final = "default"
ACCESS: Final = "access level"
LISTS: Final = ("protected", "functions_allowed")
NUMBERS: Final = ("mode", "max_rows", "max_rows_per_hour")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting: its value, and `default`, `environment` or `agent` for where it was written."""

    name: str
    value: Any
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleVerdict:
    """What a rule says: for `objects` (patterns; empty: for all others), and where that comes from."""

    rule: str
    name: str
    verdict: str
    objects: tuple[str, ...]
    source: str
    default: str

    @property
    def weakened(self) -> bool:
        return self.source not in {DEFAULT, ACCESS} and RANKS[self.verdict] < RANKS[self.default]


def settings(environment: EnvironmentConfig | None, agent: str | None, policy: Policy) -> Iterator[Setting]:
    """The numbers and lists of a policy; each entry of a list on its own, since they come from several places."""
    own = environment.agents.get(agent or "") if environment is not None else None
    for name in NUMBERS:
        yield Setting(name=name, value=getattr(policy, name), source=_source(name, environment, own))
    for name in LISTS:
        for section, source in ((environment, "environment"), (own, "agent")):
            for value in getattr(section, name, ()):
                yield Setting(name=name, value=value, source=source)


def _source(name: str, environment: EnvironmentConfig | None, own: AgentConfig | None) -> str:
    if own is not None and getattr(own, name) is not None:
        return "agent"
    return "environment" if environment is not None and name in environment.model_fields_set else DEFAULT


def verdicts(policy: Policy) -> Iterator[RuleVerdict]:
    """Every rule with its verdicts, in the order in which they are asked: the first whose objects match speaks."""
    for rule in RULES:
        yield from _of(rule, policy)


def _of(rule: Rule, policy: Policy) -> Iterator[RuleVerdict]:
    default = rule.verdict.word

    def says(verdict: str, source: str, objects: tuple[str, ...] = ()) -> RuleVerdict:
        return RuleVerdict(rule=rule.id, name=rule.name, verdict=verdict, objects=objects, source=source, default=default)

    if policy.access in rule.passes:
        yield says("allow", ACCESS)
        return
    for override in policy.overrides:
        if not rule.id.startswith(override.rule.removesuffix("xx")):
            continue
        if rule.id.startswith(NEVER_LOOSENED) and RANKS[override.verdict] < RANKS[default]:
            continue
        if override.verdict is OverrideVerdict.LIMIT and not rule.id.startswith(COUNTABLE):
            continue
        yield says(_carried_out(rule, override.verdict), override.source, tuple(map(str, override.objects)))
        if not override.objects:
            return
    yield says(default, DEFAULT)


def _carried_out(rule: Rule, verdict: OverrideVerdict) -> str:
    """What comes of an override: rows that change are counted, also where it allows the statement."""
    if verdict is OverrideVerdict.ALLOW and rule.id.startswith((*COUNTABLE, HIDDEN)):
        return OverrideVerdict.LIMIT.value
    return verdict.value


def warnings(policy: Policy) -> Iterator[str]:
    """What is weaker than dbshield's defaults, or than it could be, a sentence each."""
    if policy.observes:
        yield "mode is observe: nothing is stopped, only recorded"
    if not policy.max_rows_per_hour:
        yield "max_rows_per_hour is 0: no bound on the rows of a table in an hour"
    for function in sorted(map(str, policy.functions_allowed)):
        yield f"{function} may be called although it may change rows"
    for one in verdicts(policy):
        if one.weakened:
            where = f" on {', '.join(one.objects)}" if one.objects else ""
            yield f"{one.rule} {one.name}{where} is {one.verdict} instead of {one.default}"
