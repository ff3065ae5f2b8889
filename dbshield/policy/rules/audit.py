"""DS701: what cannot be written down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from dbshield.model import Effect, Finding, Operation
from dbshield.policy.rules.base import CHANGES, DENY, Context, Rule
from dbshield.policy.rules.frozen import writes


class Unaudited(Rule):
    """While the control database does not take the audit, agents write nothing: a write that nobody can prove is none that
    anybody should have made. Reads pass, and are written down when it is back. It holds in observing environments too.

    The examples are judged with `unaudited = true`.

    Stopped:
        INSERT INTO orders VALUES (1)
        UPDATE orders SET total = 1 WHERE id = 7
        CREATE TABLE t (id integer)
        SELECT * FROM orders WHERE id = 7 FOR UPDATE
        SELECT nextval('shop.invoice_number')
        EXECUTE something
    Allowed:
        SELECT * FROM orders
        SELECT now(), random()
        BEGIN
        COMMIT
        ROLLBACK
        EXPLAIN DELETE FROM orders WHERE id = 7
        COPY orders TO STDOUT
    """

    id = "DS701"
    name = "audit.away"
    verdict = DENY
    hint = "Go on with reading, and try again in a moment: the audit's database is away. Tell whoever runs dbshield if it lasts."
    operations = CHANGES | {Operation.CALL, Operation.READ}
    given: ClassVar[Mapping[str, Any]] = {"unaudited": True}

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        return self.finding(effect) if context.policy.unaudited and writes(effect, context) else None
