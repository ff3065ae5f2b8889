"""What agents may do in an environment, as the configuration says it: [environments.X], its overrides and its agents' sections.

The numbers and the mode of an agent's section replace the environment's. Its protected tables and allowed functions add to them,
because a section about one agent must not take away what protects a table from everybody. Its overrides are asked first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dbshield.config.base import Name, Section, Texts
from dbshield.patterns import ESCAPE, ObjectPattern, matches
from dbshield.rule_ids import objection, weakened

Modes = Literal["enforce", "observe"]
INSTEAD = "instead of the environment's"
AGENT_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-*?")


def _patterns(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        ObjectPattern.parse(text)
    return texts


def _functions(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        pattern = ObjectPattern.parse(text)
        if any(sign in part.replace(f"{ESCAPE}{sign}", "") for part in (pattern.schema, pattern.name) for sign in "*?"):
            raise ValueError(f'"{text}" names more than one function; each is allowed by its own name, such as shop.close_month')
    return texts


def _agents(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        if not text or not AGENT_LETTERS.issuperset(text):
            raise ValueError(f'"{text}" is no pattern of agents; write their names, with * for any characters and ? for one')
    return texts


def _with_zone(value: object) -> object:
    """The empty text stands for no time. A time without a zone would mean another moment on each machine."""
    if value == "" or value is None:
        return None
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        raise ValueError("is no time; write one such as 2026-12-24T18:00:00+01:00") from None
    if time.tzinfo is None:
        raise ValueError("has no zone; write one such as 2026-12-24T18:00:00+01:00 or …Z for UTC")
    return time


Patterns = Annotated[Texts, AfterValidator(_patterns)]
Functions = Annotated[Texts, AfterValidator(_functions)]
Agents = Annotated[Texts, AfterValidator(_agents)]
Until = Annotated[datetime | None, BeforeValidator(_with_zone)]


class OverrideConfig(Section):
    """One of `overrides`: another verdict for a rule or a family of rules."""

    rule: str = Field(description="a rule (DS201) or a family (DS2xx); docs/reference/rules.md has them all")
    verdict: Literal["allow", "limit", "hold", "deny"] = Field(
        description="allow; limit: allow, and count the rows; hold: a human decides; deny"
    )
    objects: Patterns = Field(default=(), description="only for these tables or functions, schema.name with * and ?; empty: all")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if problem := objection(self.rule, self.verdict):
            raise ValueError(f"rule: {problem}")
        return self

    def remark(self) -> str:
        """What it weakens, in words; nothing where it only hardens."""
        softer = weakened(self.rule, self.verdict)
        if not softer:
            return ""
        where = f" on {', '.join(self.objects)}" if self.objects else ""
        return f"override of {self.rule} to {self.verdict}{where} weakens {', '.join(softer)}"


class EnvironmentOverride(OverrideConfig):
    """One of an environment's `overrides`."""

    agents: Agents = Field(default=(), description="only for these agents, names with * and ?; empty: all")

    def is_for(self, agent: str) -> bool:
        return not self.agents or any(matches(pattern, agent) for pattern in self.agents)


class AgentConfig(Section):
    """[environments.NAME.agents.AGENT]: what holds for one agent of the environment."""

    mode: Modes | None = Field(default=None, description=INSTEAD)
    max_rows: int | None = Field(default=None, ge=1, description=INSTEAD)
    max_rows_per_hour: int | None = Field(default=None, ge=0, description=INSTEAD)
    protected: Patterns = Field(default=(), description="besides the environment's")
    functions_allowed: Functions = Field(default=(), description="besides the environment's")
    overrides: tuple[OverrideConfig, ...] = Field(default=(), description="asked before the environment's")


class PolicyConfig(Section):
    """The part of [environments.NAME] that says what agents may do."""

    mode: Modes = Field(default="enforce", description="observe: everything passes, what would be stopped is only recorded")
    max_rows: int = Field(default=100, ge=1, description="rows that one transaction may change before a human is asked")
    max_rows_per_hour: int = Field(
        default=2000, ge=0, description="rows of one table that an agent may change in an hour; 0: no bound"
    )
    protected: Patterns = Field(
        default=(), description="tables that no agent writes without a human: schema.table with * and ?, such as billing.*"
    )
    frozen: bool = Field(default=False, description="agents write nothing, until frozen_until or until this is false again")
    frozen_until: Until = Field(default=None, description="agents write nothing before this time, such as 2027-01-04T08:00:00Z")
    functions_allowed: Functions = Field(
        default=(), description="functions that agents may call although they may change rows, such as shop.close_month"
    )
    overrides: tuple[EnvironmentOverride, ...] = Field(
        default=(), description="other verdicts for rules; the first that fits speaks"
    )
    agents: Mapping[Name, AgentConfig] = Field(default={}, description="what holds for single agents")

    def is_frozen(self, now: datetime) -> bool:
        """Whether the configuration freezes it at `now`, a time with a zone."""
        if self.frozen_until is not None:
            return now < self.frozen_until
        return self.frozen

    def policy_remarks(self) -> Iterator[str]:
        """What is weaker than it could be, a sentence each."""
        if self.mode == "observe":
            yield "mode is observe: nothing is stopped, only recorded"
        yield from (f"{remark}{self._for(item)}" for item in self.overrides if (remark := item.remark()))
        for name, agent in self.agents.items():
            if agent.mode == "observe" and self.mode != "observe":
                yield f"agents.{name} mode is observe: nothing is stopped, only recorded"
            yield from (f"agents.{name} {remark}" for item in agent.overrides if (remark := item.remark()))

    @staticmethod
    def _for(override: EnvironmentOverride) -> str:
        return f" for {', '.join(override.agents)}" if override.agents else ""
