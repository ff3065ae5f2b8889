"""DS4xx: statements that weaken what guards the data inside the database."""

from __future__ import annotations

import re

from dbshield.model import Effect, Finding, ObjectKind, Operation
from dbshield.policy.rules.base import ASK, DENY, MAX_NAME, Context, Rule
from dbshield.policy.rules.control import set_value
from dbshield.policy.settings import OWN, OWN_SCHEMA, of_guard, refusal

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


class GuardSetting(Rule):
    """session_replication_role silences triggers and foreign keys, event_triggers what watches DROP and ALTER, and what begins
    with dbshield is dbshield's. No agent sets them, by SET, by set_config, in a body or for a function.

    Stopped:
        SET session_replication_role = replica
        SET LOCAL event_triggers = off
        SELECT set_config('session_replication_role', 'replica', true)
        DO $$ BEGIN SET session_replication_role = replica; END $$
        CREATE FUNCTION f() RETURNS int LANGUAGE sql SET session_replication_role = replica AS 'SELECT 1'
        SET dbshield.bypass = on
        RESET dbshield.base
    Allowed:
        SHOW session_replication_role
        RESET session_replication_role
    """

    id = "DS405"
    operations = frozenset({Operation.SET, Operation.CALL})
    name = "guard.setting"
    verdict = DENY

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        name, value = set_value(effect)
        if value is None and takes_back_our_own(effect):
            return self.finding(effect, message=f"reset {effect.name}", hint=f"Leave {effect.name} alone: {OWN}.")
        if value is None or not of_guard(name):
            return None
        return self.finding(effect, message=f"set {name}", hint=f"Leave {name[:MAX_NAME]} alone: {refusal(name, value)}.")


def takes_back_our_own(effect: Effect) -> bool:
    """RESET of a setting in which the session remembers what a transaction has changed."""
    ours = effect.name.name.lower().startswith(f"{OWN_SCHEMA}.")
    return ours and effect.operation is Operation.SET and effect.kind is ObjectKind.SETTING


class OwnSchema(Rule):
    """The schema dbshield holds the guard of this database, and roles of that name run it; agents neither change them nor call
    its functions.

    Stopped:
        CREATE TABLE dbshield.t (id integer)
        INSERT INTO dbshield.settings VALUES (1)
        SELECT dbshield.release()
        GRANT dbshield_guard TO current_user
        ALTER ROLE dbshield NOLOGIN
    Allowed:
        SELECT * FROM dbshield.status
    """

    id = "DS404"
    operations = frozenset(Operation) - {Operation.READ, Operation.SET}
    name = "guard.own-schema"
    verdict = DENY
    hint = NOBODY

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        name = effect.name.name
        schema = effect.kind is ObjectKind.SCHEMA and name == OWN_SCHEMA
        role = effect.kind is ObjectKind.ROLE and (name == OWN_SCHEMA or name.startswith(f"{OWN_SCHEMA}_"))
        return self.finding(effect) if schema or role or effect.name.schema == OWN_SCHEMA else None
