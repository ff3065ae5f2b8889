"""DS210: tables that the configuration protects by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from dbshield.model import Effect, Finding, Flag, ObjectKind, Operation
from dbshield.patterns import ObjectPattern
from dbshield.policy.policy import MEMBERS
from dbshield.policy.rules.base import ASK, Context, Rule

ROWS = frozenset({Operation.INSERT, Operation.UPDATE, Operation.DELETE})
"""What the server counts, and tells the true name of, while it runs."""

CHANGED = frozenset({Operation.TRUNCATE, Operation.REPLACE, Operation.ALTER, Operation.DROP})

CASCADING = frozenset({Operation.TRUNCATE, Operation.DROP})
"""What takes other tables with it that its text does not name, uncounted."""


class ProtectedTable(Rule):
    """A table that `protected` names is written only by a human's decision, and neither changed nor emptied nor replaced.

    A name without a schema is held where its own letters match. Where a pattern takes in a whole schema (`billing.*`) such a name
    says nothing; then the server tells before the commit which tables were written, those behind views and triggers too (DS222).
    The examples are judged with `protected = ["billing.*", "shop.ledger"]`.

    Stopped:
        INSERT INTO billing.invoices VALUES (1)
        UPDATE billing.invoices SET paid = true WHERE id = 7
        DELETE FROM ledger WHERE id = 7
        MERGE INTO shop.ledger l USING shop.news n ON l.id = n.id WHEN MATCHED THEN UPDATE SET total = n.total
        COPY billing.invoices FROM STDIN
        WITH w AS (INSERT INTO billing.invoices VALUES (1) RETURNING id) SELECT * FROM w
        ALTER TABLE billing.invoices ADD COLUMN note text
        ALTER TABLE invoices ADD COLUMN note text
        TRUNCATE shop.ledger
        TRUNCATE shop.orders CASCADE
        DROP SCHEMA billing
        CREATE TABLE billing.invoices_2027 (id integer)
        CREATE TRIGGER t BEFORE INSERT ON shop.ledger FOR EACH ROW EXECUTE FUNCTION shop.f()
        PREPARE pay AS UPDATE billing.invoices SET paid = true WHERE id = $1
        REFRESH MATERIALIZED VIEW billing.totals
    Allowed:
        SELECT * FROM billing.invoices
        INSERT INTO invoices VALUES (1)
        UPDATE shop.orders SET total = 1 WHERE id = 7
        ALTER TABLE shop.orders ADD COLUMN note text
        CREATE TEMP TABLE ledger (id integer)
        CREATE TABLE invoices (id integer)
        CREATE VIEW shop.paid AS SELECT * FROM billing.invoices WHERE paid
        VACUUM billing.invoices
    """

    id = "DS210"
    name = "rows.protected-table"
    hint = f"Work on tables that are not protected, {ASK}."
    given: ClassVar[Mapping[str, Any]] = {"protected": tuple(map(ObjectPattern.parse, ("billing.*", "shop.ledger")))}

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        policy = context.policy
        if not policy.protected or Flag.TEMPORARY in effect.flags:
            return None
        operation = effect.operation
        if Flag.CASCADE in effect.flags and operation in CASCADING:
            return self.finding(effect, hint=f"Leave out CASCADE: it may reach a protected table, {ASK}.")
        if operation in ROWS:
            protecting = policy.protecting(effect, sure_of_schema=True)
        elif operation in CHANGED or (operation is Operation.CREATE and effect.kind in MEMBERS):
            protecting = policy.protecting(effect, sure_of_schema=False)
        elif operation is Operation.CREATE or (operation is Operation.MAINTAIN and effect.detail.startswith("refresh")):
            # What is new has no rows yet, so only a name that is written out counts.
            protecting = policy.protecting(effect, sure_of_schema=True) if effect.name.schema else None
        else:
            protecting = None
        if protecting is None:
            return None
        if not effect.name.schema and effect.kind is not ObjectKind.SCHEMA:
            # Which schema is protected stands in no statement of the agent, so it is not told.
            return self.finding(effect, hint=f"Name the table with its schema if you mean one that is not protected, {ASK}.")
        return self.finding(effect)
