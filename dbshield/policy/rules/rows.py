"""DS2xx: statements that destroy rows."""

from __future__ import annotations

from dbshield.model import Effect, Finding, Flag, Operation
from dbshield.policy.rules.base import ASK, Context, Rule, named

NAME_THE_ROWS = f"Name the rows: compare a column of the table with a value in WHERE, {ASK}."


def name_the_rows(effect: Effect, context: Context, *, example: str) -> str:
    """What to send instead of a statement that no condition bounds."""
    table, most = named(effect), context.policy.max_rows
    if context.kind == "merge":
        return (
            f"Name the rows: compare a column of {table} with one of the source in ON; at most {most} rows change at once, {ASK}."
        )
    return (
        f"Name the rows: compare a column of {table} with a value in WHERE, as in {example.format(table=table)}, "
        f"at most {most} rows in a transaction, {ASK}."
    )


class DeleteWithoutBound(Rule):
    """DELETE that no condition on the table bounds removes every row.

    Stopped:
        DELETE FROM orders
        DELETE FROM orders WHERE true
        DELETE FROM orders WHERE id = id
        DELETE FROM orders WHERE id = 7 OR 1 = 1
        DELETE FROM orders WHERE exists (select 1)
        DELETE FROM orders WHERE email LIKE '%'
        WITH gone AS (DELETE FROM orders RETURNING 1) SELECT count(*) FROM gone
        EXPLAIN ANALYZE DELETE FROM orders
        COPY (DELETE FROM orders RETURNING id) TO STDOUT
        PREPARE wipe AS DELETE FROM orders
        MERGE INTO orders o USING gone g ON true WHEN MATCHED THEN DELETE
    Allowed:
        DELETE FROM orders WHERE id = 7
        EXPLAIN DELETE FROM orders
    """

    id = "DS201"
    name = "rows.unbounded-delete"
    hint = NAME_THE_ROWS

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if effect.operation is not Operation.DELETE or effect.bounded:
            return None
        return self.finding(effect, hint=name_the_rows(effect, context, example="DELETE FROM {table} WHERE id IN (…)"))


class UpdateWithoutBound(Rule):
    """UPDATE that no condition on the table bounds overwrites every row.

    Stopped:
        UPDATE customers SET name = null
        UPDATE customers SET balance = DEFAULT WHERE balance = balance
        UPDATE customers SET name = 'x' WHERE $1
        MERGE INTO t USING s ON true WHEN MATCHED THEN UPDATE SET a = 1
    Allowed:
        UPDATE customers SET name = 'Ada' WHERE id = 7
        INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET a = 1
    """

    id = "DS202"
    name = "rows.unbounded-update"
    hint = NAME_THE_ROWS

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if effect.operation is not Operation.UPDATE or effect.bounded:
            return None
        return self.finding(effect, hint=name_the_rows(effect, context, example="UPDATE {table} SET … WHERE id IN (…)"))


class Truncate(Rule):
    """TRUNCATE removes every row at once, past row triggers, and with CASCADE those of other tables.

    Stopped:
        TRUNCATE shop.orders
        TRUNCATE TABLE shop.customers CASCADE
        truncate only a, only b restart identity
    Allowed:
        TRUNCATE pg_temp.scratch
        SELECT truncate FROM shop.audit
    """

    id = "DS203"
    name = "rows.truncate"
    hint = "Send DELETE … WHERE, some rows at a time, or ask a human to empty it."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if effect.operation is not Operation.TRUNCATE:
            return None
        if Flag.TEMPORARY in effect.flags and Flag.CASCADE not in effect.flags:
            return None
        table = named(effect)
        own = "" if effect.name.schema else f" A temporary table of your own is emptied with TRUNCATE pg_temp.{table}."
        most = context.policy.max_rows
        hint = f"Send DELETE with a WHERE, at most {most} rows of {table} in a transaction, or ask a human to empty it.{own}"
        return self.finding(effect, hint=hint)
