"""DS4xx: statements that weaken what guards the data inside the database."""

from __future__ import annotations

import re

from dbshield.model import Effect, Finding, ObjectKind, Operation
from dbshield.policy.rules.base import ASK, DENY, Context, Rule
from dbshield.policy.settings import OWN_SCHEMA

NOBODY = "Leave it as it is: whoever administers the server changes it, over a connection of their own."

TRIGGERS = re.compile(r"(en|dis)able (always |replica )?(trig|rule)")


class EventTrigger(Rule):
    """Event triggers watch every DROP and ALTER; without them a direct connection is not watched at all.

    Stopped:
        CREATE EVENT TRIGGER first ON ddl_command_start EXECUTE FUNCTION shop.on_ddl()
        ALTER EVENT TRIGGER first DISABLE
        DROP EVENT TRIGGER first
    Allowed:
        SELECT * FROM pg_event_trigger
    """

    id = "DS401"
    name = "guard.event-trigger"
    verdict = DENY
    hint = NOBODY

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        return self.finding(effect) if effect.detail == "event trigger" else None


class TableTriggers(Rule):
    """Disabling triggers or rules, or firing them only on a replica, silences guards, audits and foreign keys.

    Stopped:
        ALTER TABLE shop.customers DISABLE TRIGGER ALL
        alter table shop.customers enable replica trigger customers_touch
        alter table shop.customers disable rule r
    Allowed:
        SELECT * FROM pg_trigger
    """

    id = "DS402"
    name = "guard.table-triggers"
    verdict = DENY
    hint = NOBODY

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        silenced = effect.operation is Operation.ALTER and TRIGGERS.match(effect.detail)
        return self.finding(effect) if silenced else None


class RowSecurity(Rule):
    """Row security hides rows from those who may not see them; a policy without a condition shows them to everybody.

    Stopped:
        ALTER TABLE shop.secrets DISABLE ROW LEVEL SECURITY
        ALTER TABLE shop.secrets NO FORCE ROW LEVEL SECURITY
        ALTER POLICY own_rows ON shop.secrets USING (true)
        CREATE POLICY everybody ON shop.secrets USING (true)
        CREATE POLICY everybody ON shop.secrets USING (id = id)
        CREATE POLICY nobody ON shop.secrets AS RESTRICTIVE USING (false)
    Allowed:
        ALTER TABLE shop.notes ENABLE ROW LEVEL SECURITY
        CREATE POLICY own_notes ON shop.notes USING (owner_name = current_user)
    """

    id = "DS403"
    name = "guard.row-security"
    hint = f"Leave the policies as they are, {ASK}."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if effect.kind is ObjectKind.POLICY and effect.operation is Operation.ALTER and effect.detail != "comment":
            return self.finding(effect)
        if effect.kind is ObjectKind.POLICY and effect.detail == "open":
            return self.finding(
                effect, hint=f"Give the policy a condition on a column, as in USING (owner = current_user), {ASK}."
            )
        off = effect.operation is Operation.ALTER and effect.detail in {"disable row security", "no force row security"}
        return self.finding(effect) if off else None


class OwnSchema(Rule):
    """The schema of the shield holds the guard of this database; agents neither change it nor call its functions.

    Stopped:
        CREATE TABLE dbshield.t (id integer)
        INSERT INTO dbshield.settings VALUES (1)
        SELECT dbshield.release()
    Allowed:
        SELECT * FROM dbshield.status
    """

    id = "DS404"
    operations = frozenset(Operation) - {Operation.READ, Operation.SET}
    name = "guard.own-schema"
    verdict = DENY
    hint = NOBODY

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        schema = effect.kind is ObjectKind.SCHEMA and effect.name.name == OWN_SCHEMA
        return self.finding(effect) if schema or effect.name.schema == OWN_SCHEMA else None
