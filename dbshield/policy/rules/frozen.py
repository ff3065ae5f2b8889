"""DS313: a code freeze."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from dbshield.model import AccessLevel, Effect, Finding, ObjectKind, Operation
from dbshield.policy.function_lists import EXTENSIONS_ALLOWED, allowed_volatile
from dbshield.policy.functions import Function, Volatility
from dbshield.policy.rules.base import CHANGES, DENY, Context, Rule

SESSION_ONLY = frozenset({Operation.TRANSACTION, Operation.NOTIFY, Operation.SET})
JUDGED_BY_ARGUMENTS = frozenset({"set_config", "lo_open"})
"""Volatile built-in functions with rules of their own, which stop those calls of them that write."""


class Frozen(Rule):
    """A frozen agent, and every agent of a frozen environment, writes nothing: no rows, no definitions, no numbers of sequences.
    What was prepared by name is not executed, since it may write. Reads pass, but for views, row policies and functions that may
    write. It holds in observing environments too: a freeze is there until a human lifts it.

    The examples are judged with `frozen = true`.

    Stopped:
        INSERT INTO orders VALUES (1)
        UPDATE orders SET total = 1 WHERE id = 7
        CREATE TABLE t (id integer)
        CREATE TEMP TABLE t (id integer)
        ALTER TABLE orders ADD COLUMN note text
        SELECT * FROM orders WHERE id = 7 FOR UPDATE
        SELECT nextval('shop.invoice_number')
        EXECUTE something
        REFRESH MATERIALIZED VIEW shop.sales_by_day
        ANALYZE orders
    Allowed:
        SELECT * FROM orders
        SELECT now(), random(), set_config('application_name', 'agent', false)
        EXPLAIN DELETE FROM orders WHERE id = 7
        BEGIN
        LOCK TABLE orders IN ACCESS SHARE MODE
        DEALLOCATE something
        COPY orders TO STDOUT
        DECLARE c CURSOR FOR SELECT * FROM orders
        FETCH ALL FROM c
    """

    id = "DS313"
    name = "control.frozen"
    verdict = DENY
    operations = CHANGES | {Operation.CALL, Operation.READ}
    given: ClassVar[Mapping[str, Any]] = {"frozen": True}

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        policy = context.policy
        if not policy.frozen or not writes(effect, context):
            return None
        why = f" ({policy.freeze_reason})" if policy.freeze_reason else ""
        what = "this agent" if policy.agent_frozen else "this environment"
        return self.finding(
            effect, hint=f"Go on with reading: {what} is frozen{why}, and writing waits until a human lifts the freeze."
        )


def writes(effect: Effect, context: Context) -> bool:
    """Whether an effect may write anything, as far as anybody can tell before it runs."""
    match effect.operation:
        case Operation.READ:
            return context.functions.reaches and context.functions.writes_when_read(effect.name.name)
        case Operation.CALL:
            functions = context.functions.named(effect.name.schema, effect.name.name)
            return (
                not functions
                or any(map(_function_writes, functions))
                or (context.functions.reaches and any(map(context.functions.writes_when_called, functions)))
            )
        case Operation.EXECUTE:
            return effect.kind is not ObjectKind.STATEMENT or effect.detail not in {"deallocate", "deallocate all", "prepare"}
        case Operation.CURSOR:
            # One that was declared before the freeze may call a function that was let through.
            return context.policy.lets_hidden_writes_through and effect.detail in {"fetch", "move"}
        case Operation.LOCK:
            return effect.detail != "access share"
        case operation:
            return operation not in SESSION_ONLY


def _function_writes(function: Function) -> bool:
    if function.volatility is not Volatility.VOLATILE or function.name in JUDGED_BY_ARGUMENTS:
        return False
    if function.built_in:
        return allowed_volatile(function.name) in {None, AccessLevel.WRITE}
    return not (function.language == "c" and function.name in EXTENSIONS_ALLOWED)
