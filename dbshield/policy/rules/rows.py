"""DS2xx: statements that destroy rows."""

from __future__ import annotations

from dbshield.model import Effect, Finding, Flag, Operation
from dbshield.policy.rules.base import ASK, Context, Rule

NAME_THE_ROWS = (
    "Name the rows: compare a column of the target, qualified with its name where other tables are read, "
    f"with a value in WHERE, {ASK}."
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
        return self.finding(effect) if effect.operation is Operation.DELETE and not effect.bounded else None


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
        return self.finding(effect) if effect.operation is Operation.UPDATE and not effect.bounded else None


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
    hint = f"Delete the rows that you mean by their key, {ASK}."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if effect.operation is not Operation.TRUNCATE:
            return None
        return None if Flag.TEMPORARY in effect.flags and Flag.CASCADE not in effect.flags else self.finding(effect)
