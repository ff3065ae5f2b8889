"""What holds for one agent in one environment, as a value: two agents with equal policies share one judge and its cache.

`policy_for` puts it together from the configuration. Which override speaks, and what none may loosen, stands in
docs/decisions/0010-overrides.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum, unique
from typing import TYPE_CHECKING

from dbshield.model import AccessLevel, Allow, Deny, Effect, Finding, Hold, Limit, ObjectKind, ObjectName, Operation, Verdict
from dbshield.patterns import ObjectPattern, matches
from dbshield.rule_ids import COUNTABLE, NEVER_LOOSENED, VERDICTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dbshield.config import EnvironmentConfig
    from dbshield.config.policy import OverrideConfig
    from dbshield.policy.functions import Function

DEFAULT_MAX_ROWS = 100
DEFAULT_MAX_ROWS_PER_HOUR = 2000

HIDDEN = "DS6"
"""Beginning of the ids of rules about what hides its writes."""

MEMBERS = frozenset({ObjectKind.COLUMN, ObjectKind.CONSTRAINT, ObjectKind.TRIGGER, ObjectKind.POLICY, ObjectKind.RULE})
"""Parts of a table; an effect names them `table.part`."""


@unique
class Mode(StrEnum):
    """Whether verdicts are carried out, or only recorded."""

    ENFORCE = "enforce"
    OBSERVE = "observe"


@unique
class OverrideVerdict(StrEnum):
    """What an override says; a Verdict without its number of rows. From the softest to the hardest."""

    ALLOW = "allow"
    LIMIT = "limit"
    HOLD = "hold"
    DENY = "deny"


RANKS = {word: rank for rank, word in enumerate(VERDICTS)}
"""How hard a verdict is, by its word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """Another verdict for a rule (`DS201`) or a family (`DS2xx`), for objects that match one of the patterns; for all of them
    where there is no pattern. `source` says where it was written: `environment` or `agent`."""

    rule: str
    verdict: OverrideVerdict
    objects: tuple[ObjectPattern, ...] = ()
    source: str = "environment"
    calls: bool = True

    def concerns(self, finding: Finding) -> bool:
        """Whether it has anything to say about this finding. What loosens must surely be about the object, what hardens may."""
        if not finding.rule.startswith(self.rule.removesuffix("xx")):
            return False
        loosens = RANKS[self.verdict] < RANKS[finding.verdict.word]
        if loosens and (finding.rule.startswith(NEVER_LOOSENED) or (not self.calls and _is_call(finding))):
            return False
        if self.verdict is OverrideVerdict.LIMIT and not finding.rule.startswith(COUNTABLE):
            return False
        if not self.objects:
            return True
        if finding.effect is None:
            return False
        return any(about(pattern, finding.effect, surely=loosens) for pattern in self.objects)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What one agent may do. Frozen and hashable.

    `max_rows` bounds the rows that one transaction may change, `max_rows_per_hour` those of one table in an hour (0: no bound).
    `overrides` stand in the order in which they are asked, `protected` are the tables that nobody writes without a human,
    `frozen` stops every write, `freeze_reason` is what the agent reads of it, and `agent_frozen` says that it is about the agent
    alone; `unaudited` stops every write while there is no
    audit, `functions_allowed` has the functions that a human lets through by name. `in_full` decides nothing: statements are
    written down as they were sent.
    """

    access: AccessLevel
    mode: Mode = Mode.ENFORCE
    max_rows: int = DEFAULT_MAX_ROWS
    max_rows_per_hour: int = DEFAULT_MAX_ROWS_PER_HOUR
    overrides: tuple[Override, ...] = ()
    protected: tuple[ObjectPattern, ...] = ()
    frozen: bool = False
    freeze_reason: str = ""
    agent_frozen: bool = False
    unaudited: bool = False
    functions_allowed: frozenset[ObjectName] = frozenset()
    in_full: bool = False

    @property
    def observes(self) -> bool:
        return self.mode is Mode.OBSERVE

    def verdict(self, word: OverrideVerdict) -> Verdict:
        """The verdict that an override's word stands for here."""
        match word:
            case OverrideVerdict.ALLOW:
                return Allow()
            case OverrideVerdict.LIMIT:
                return Limit(max_rows=self.max_rows)
            case OverrideVerdict.HOLD:
                return Hold()
            case OverrideVerdict.DENY:
                return Deny()

    def override(self, finding: Finding) -> Override | None:
        """The first override that has something to say about this finding; None where the rule has the last word."""
        return next((override for override in self.overrides if override.concerns(finding)), None)

    def allows(self, function: Function) -> bool:
        """Whether a human let this function through by name."""
        return bool(self.functions_allowed) and ObjectName(schema=function.schema, name=function.name) in self.functions_allowed

    @property
    def lets_hidden_writes_through(self) -> bool:
        """Whether a query may change rows, by a function that a human let through."""
        soft = (OverrideVerdict.ALLOW, OverrideVerdict.LIMIT)
        return bool(self.functions_allowed) or any(
            item.verdict in soft and item.rule.startswith(HIDDEN) for item in self.overrides
        )

    def for_definitions(self) -> Policy:
        """The same for statements whose expressions run later, in a view or as a default, where nobody would count what they
        change: no function is let through that a human let through in statements."""
        if not self.lets_hidden_writes_through:
            return self
        kept = tuple(replace(item, calls=False) for item in self.overrides)
        return replace(self, overrides=kept, functions_allowed=frozenset())

    def protecting(self, effect: Effect, *, sure_of_schema: bool) -> ObjectPattern | None:
        """The pattern that protects what `effect` is about, or None.

        A name without a schema may be of any, so it is protected where its own letters match. `billing.*` matches any letters;
        with `sure_of_schema` it says nothing about such a name.
        """
        for pattern in self.protected:
            surely = sure_of_schema and pattern.any_name and not effect.name.schema
            if about(pattern, effect, surely=surely):
                return pattern
        return None


def policy_for(
    environment: EnvironmentConfig,
    *,
    agent: str,
    access: AccessLevel,
    frozen: bool,
    freeze_reason: str = "",
    agent_frozen: bool = False,
) -> Policy:
    """The policy of `agent` in `environment`. `frozen` is whether it is frozen now, by whom and for whatever reason, and
    `agent_frozen` whether that is about this agent alone.

    Numbers and the mode of the agent's own section replace the environment's; protected tables and allowed functions add to
    them; its overrides are asked first.
    """
    own = environment.agents.get(agent)
    return Policy(
        access=access,
        mode=Mode((own and own.mode) or environment.mode),
        max_rows=environment.max_rows if own is None or own.max_rows is None else own.max_rows,
        max_rows_per_hour=(
            environment.max_rows_per_hour if own is None or own.max_rows_per_hour is None else own.max_rows_per_hour
        ),
        overrides=(
            *_overrides(own.overrides if own else (), "agent"),
            *_overrides((item for item in environment.overrides if item.is_for(agent)), "environment"),
        ),
        protected=tuple(dict.fromkeys(map(ObjectPattern.parse, (*environment.protected, *(own.protected if own else ()))))),
        frozen=frozen,
        freeze_reason=freeze_reason if frozen else "",
        agent_frozen=frozen and agent_frozen,
        functions_allowed=frozenset(map(_function, (*environment.functions_allowed, *(own.functions_allowed if own else ())))),
    )


def _overrides(written: Iterable[OverrideConfig], source: str) -> Iterable[Override]:
    for item in written:
        yield Override(
            rule=item.rule,
            verdict=OverrideVerdict(item.verdict),
            objects=tuple(map(ObjectPattern.parse, item.objects)),
            source=source,
        )


def _function(text: str) -> ObjectName:
    """A function's name as written in the configuration, which has checked it: a pattern without wildcards."""
    pattern = ObjectPattern.parse(text)
    return ObjectName(schema=pattern.schema.replace("\\", ""), name=pattern.name.replace("\\", ""))


def _is_call(finding: Finding) -> bool:
    return finding.effect is not None and finding.effect.operation is Operation.CALL


def about(pattern: ObjectPattern, effect: Effect, *, surely: bool) -> bool:
    """Whether `pattern` is about the object of `effect`, or about the table that it is a part of, or takes in all of a schema.

    With `surely` every reading of the name must match, otherwise any.
    """
    if effect.kind is ObjectKind.SCHEMA:
        return matches(pattern.schema, effect.name.name) and (pattern.any_name or not surely)
    if effect.kind not in MEMBERS:
        return pattern.matches(effect.name) if surely else pattern.may_match(effect.name)
    names = [ObjectName(schema=effect.name.schema, name=table) for table in _tables(effect.name.name)]
    return all(map(pattern.matches, names)) if surely else any(map(pattern.may_match, names))


def _tables(member: str) -> list[str]:
    """The tables that `table.part` may name; several where a name has a dot in it."""
    places = [place for place, character in enumerate(member) if character == "."]
    return [member[:place] for place in places] or [member]
