"""What every rule is: an id, a name, a docstring with examples that a test runs, and a judge of one effect.

A rule's docstring says in its first paragraph what it stops and why, then under `Stopped:` and `Allowed:` one statement a line.
An example is judged for the access level `migrate`, or for the one that stands before it in brackets. Python's escapes
(`\\u00a0`) stand for what cannot be seen. `Allowed` means that this rule does not speak; another may.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from dbshield.model import AccessLevel, Deny, Effect, Finding, Hold, ObjectKind, Operation, Verdict
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.policy import Policy

MAX_TEXT = 300
"""A message or hint is no longer than this, so that it fits where agents and chat windows show it."""

HOLD, DENY = Hold(), Deny()

CHANGES = frozenset(Operation) - {Operation.READ, Operation.CALL}
"""What most rules are about. Most effects are reads and calls, so few rules are asked about those."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a rule knows besides the effect. `kind` is the statement's command word."""

    policy: Policy
    functions: FunctionCatalogue
    kind: str = ""
    attributes: frozenset[str] = frozenset()

    @property
    def access(self) -> AccessLevel:
        return self.policy.access


ASK = "or ask a human to run it"
ASK_ADMINISTRATOR = "Ask whoever administers the server: no agent does this."

MAX_NAME = 60
"""Characters of a statement's own name in a hint, which may hold it twice. Longer ones are rare."""

ROW_WORDS = {
    Operation.INSERT: "INSERT into",
    Operation.UPDATE: "UPDATE of",
    Operation.DELETE: "DELETE from",
    Operation.TRUNCATE: "TRUNCATE of",
}


def short(text: str) -> str:
    """`text` cut to what a message may hold."""
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"


def named(effect: Effect) -> str:
    """The name of an effect's object as the statement spells it, for a hint."""
    name = str(effect.name)
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def words(effect: Effect) -> str:
    """An effect as a person says it: operation, what kind of thing, its name."""
    operation = ROW_WORDS.get(effect.operation, effect.operation.value)
    kind = effect.kind.value
    if effect.operation in ROW_WORDS and effect.kind is ObjectKind.TABLE:
        kind = ""
    if kind == ObjectKind.OTHER.value:
        kind = effect.detail if operation in {"drop", "create", "alter"} else ""
    if effect.operation is Operation.ALTER and effect.detail and effect.kind is not ObjectKind.OTHER:
        operation = f"alter ({' '.join(effect.detail.split())})"
    name = str(effect.name)
    return " ".join(part for part in (operation, kind, name if len(name) <= 140 else f"{name[:139]}…") if part)


class Rule:
    """One reason to stop."""

    id: ClassVar[str]
    name: ClassVar[str]
    verdict: ClassVar[Verdict] = HOLD
    """What it means by default, at every access level at which it speaks."""
    passes: ClassVar[frozenset[AccessLevel]] = frozenset()
    """The access levels at which it says nothing at all."""
    hint: ClassVar[str] = ""
    operations: ClassVar[frozenset[Operation]] = CHANGES
    """Effects with another operation are never shown to it."""
    given: ClassVar[Mapping[str, Any]] = {}
    """What its examples need of the Policy besides the access level."""

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        """The finding when this rule stops `effect`, else None."""
        raise NotImplementedError

    def finding(self, effect: Effect | None, *, message: str = "", hint: str = "", verdict: Verdict | None = None) -> Finding:
        """This rule's finding about `effect`; what is not given is the rule's own."""
        what = message or (words(effect) if effect else self.name)
        return Finding(
            rule=self.id,
            name=self.name,
            verdict=verdict or self.verdict,
            message=short(f"{self.id} {self.name}: {what}"),
            hint=short(hint or self.hint),
            effect=effect,
        )
