"""DS3xx: statements that reach past what an agent was given."""

from __future__ import annotations

from dbshield.model import AccessLevel, Effect, Finding, Flag, ObjectKind, Operation
from dbshield.policy.allowed import LEVELS, least_access
from dbshield.policy.extension_lists import HARMLESS_EXTENSIONS
from dbshield.policy.rules.base import ASK, ASK_ADMINISTRATOR, DENY, HOLD, MAX_NAME, Context, Rule
from dbshield.policy.settings import of_guard, refusal

MAY = {AccessLevel.READ: "run queries", AccessLevel.WRITE: "query and change rows"}
"""What an agent may do that is not at the highest level."""

UNKNOWN_SETTING = "Write the setting's name and value out as constants: what is put together while it runs cannot be judged."

ROW_WRITES = frozenset({Operation.INSERT, Operation.UPDATE, Operation.DELETE, Operation.TRUNCATE})
ROLE_SETTINGS = frozenset({"role", "session_authorization"})

FOREIGN = frozenset({"foreign server", "foreign data wrapper", "foreign table", "foreign schema", "user mapping"})
REPLICATION = frozenset({"publication", "subscription"})
SERVER = frozenset({"tablespace", "language", "access method", "conversion"})


class BeyondAccess(Rule):
    """The agent's access level does not include this: `read` runs queries, `write` rows, `migrate` also additive schema changes.

    Stopped:
        [read] INSERT INTO orders VALUES (1)
        [read] CREATE TEMP TABLE t (id integer)
        [write] CREATE TABLE t (id integer)
        [write] ALTER TABLE t ADD COLUMN a text
        [read] SELECT * FROM orders FOR UPDATE
    Allowed:
        [read] SELECT * FROM orders
        [write] CREATE TEMP TABLE t (id integer)
        CREATE TABLE t (id integer)
    """

    id = "DS301"
    name = "control.beyond-access"
    verdict = DENY
    passes = frozenset({LEVELS[-1]})

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        least = least_access(effect)
        if LEVELS.index(context.access) >= LEVELS.index(least):
            return None
        return self.finding(
            effect,
            hint=f"Go on with what this agent may do: {MAY[context.access]}. Its access level is {context.access}, and this "
            f"takes {least}: ask a human for such an agent if it must be done.",
        )


class Privileges(Rule):
    """Grants, roles and owners decide who may do what; an agent that changes them writes its own rights.

    Stopped:
        GRANT ALL ON shop.customers TO public
        REVOKE SELECT ON shop.customers FROM reporting
        ALTER ROLE current_user PASSWORD 'x'
        CREATE ROLE backdoor LOGIN SUPERUSER
        ALTER TABLE shop.orders OWNER TO current_user
        ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO public
        REASSIGN OWNED BY a TO b
        CREATE SCHEMA s GRANT DELETE ON shop.customers TO public
    Allowed:
        SELECT has_table_privilege('shop.orders', 'DELETE')
    """

    id = "DS302"
    name = "control.privileges"
    verdict = DENY
    hint = ASK_ADMINISTRATOR

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if effect.operation is Operation.GRANT or effect.detail == "change owner":
            return self.finding(effect)
        if effect.kind is ObjectKind.ROLE and effect.operation in {Operation.CREATE, Operation.ALTER}:
            return self.finding(effect, message=f"{effect.operation} role {effect.name}")
        return None


class BecomeAnother(Rule):
    """SET ROLE and SET SESSION AUTHORIZATION turn the session into somebody with other rights.

    Stopped:
        SET ROLE app_owner
        set session authorization app_owner
        select set_config('role', 'app_owner', true)
    Allowed:
        RESET ROLE
    """

    id = "DS303"
    operations = frozenset({Operation.SET, Operation.CALL})
    name = "control.become-another"
    verdict = DENY
    hint = "Work as the role that you are (current_user), or ask whoever administers the server for the right that you miss."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        name, value = set_value(effect)
        return self.finding(effect, message=f"set {name}") if name in ROLE_SETTINGS and value is not None else None


class Setting(Rule):
    """A setting that is not on the list can run files, hide what was done, or make the server read another text than dbshield.

    Stopped:
        SET standard_conforming_strings = off
        SET client_encoding = 'SJIS'
        SET search_path = pg_temp, shop
        SELECT set_config(name, 'off', false) FROM pg_settings
        SELECT set_config('default_transaction_' || 'read_only', 'off', false)
    Allowed:
        SET statement_timeout = '30s'
        SET search_path TO shop, archive
        SET myapp.tenant = '42'
        RESET ALL
        SELECT set_config('application_name', 'agent', false)
    """

    id = "DS304"
    operations = frozenset({Operation.SET, Operation.CALL})
    name = "control.setting"
    verdict = DENY

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        name, value = set_value(effect)
        if value is None or name in ROLE_SETTINGS or of_guard(name):
            return None  # Rules of their own speak about these.
        reason = refusal(name, value, context.functions.taken)
        if reason is None:
            return None
        hint = UNKNOWN_SETTING if "?" in (name, value) else f"Leave {name[:MAX_NAME]} alone: {reason}."
        return self.finding(effect, message=f"set {name}", hint=hint)


def set_value(effect: Effect) -> tuple[str, str | None]:
    """The setting that an effect changes, and to what; None where it changes none or only resets it."""
    if effect.operation is Operation.SET and effect.kind is ObjectKind.SETTING and effect.detail:
        return effect.name.name.lower(), effect.detail[1:]
    if effect.operation is Operation.CALL and effect.name.name == "set_config":
        name, _, rest = effect.detail.partition("\n")
        return name.lower(), rest.rpartition("\n")[0]
    return "", None


class Files(Rule):
    """The server's files are not the database's: reading them leaks secrets, writing them changes the server.

    Stopped:
        COPY t FROM '/etc/passwd'
        COPY (SELECT 1) TO '/tmp/x'
        LOAD 'auto_explain'
    Allowed:
        COPY t FROM STDIN
        COPY (SELECT 1) TO STDOUT
    """

    id = "DS305"
    name = "control.files"
    verdict = DENY
    hint = "Use COPY … FROM STDIN or TO STDOUT: the data then goes through your own connection."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if effect.operation is not Operation.FILE:
            return None
        hint = "Do without that library: it is a file of the server." if effect.detail == "load" else ""
        return self.finding(effect, message="a file on the server", hint=hint)


class Programs(Rule):
    """COPY … PROGRAM runs a command on the server.

    Stopped:
        COPY t TO PROGRAM 'cat'
        COPY t FROM PROGRAM 'id'
    Allowed:
        COPY t TO STDOUT
    """

    id = "DS306"
    name = "control.programs"
    verdict = DENY
    hint = "Run the program on your own side and send its output with COPY … FROM STDIN."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        return self.finding(effect, message="a program on the server") if effect.operation is Operation.PROGRAM else None


class Catalogue(Rule):
    """The system catalogue is changed by statements that say so, never by rows; an UPDATE of pg_settings is a SET.

    Stopped:
        UPDATE pg_catalog.pg_authid SET rolsuper = true WHERE rolname = 'reporting'
        update pg_settings set setting = 'off' where name = 'standard_conforming_strings'
        DELETE FROM pg_largeobject WHERE loid = 424242
    Allowed:
        SELECT * FROM pg_settings
    """

    id = "DS307"
    name = "control.catalogue"
    verdict = DENY
    hint = "Use the statement that is made for it, such as SET, ALTER or COMMENT; the catalogue is only read by queries."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if effect.operation not in ROW_WRITES:
            return None
        schema, name = effect.name.schema, effect.name.name
        system = schema in {"pg_catalog", "information_schema", "pg_toast"} or (not schema and name.startswith("pg_"))
        return self.finding(effect) if system else None


class Extension(Rule):
    """An extension brings functions that nobody judged, some of which read files or run texts. A few that only compute pass.

    Stopped:
        CREATE EXTENSION dblink
        CREATE EXTENSION IF NOT EXISTS tablefunc
        CREATE LANGUAGE plperlu
        alter extension hstore update
    Allowed:
        CREATE EXTENSION IF NOT EXISTS "uuid-ossp"
        SELECT * FROM pg_extension
    """

    id = "DS308"
    name = "control.extension"
    hint = "Look in pg_extension whether it is there already, or ask a human to create it."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if effect.kind is not ObjectKind.EXTENSION or effect.operation not in {Operation.CREATE, Operation.ALTER}:
            return None
        harmless = effect.operation is Operation.CREATE and effect.name.name in HARMLESS_EXTENSIONS
        return None if harmless else self.finding(effect)


class ForeignServer(Rule):
    """A foreign server, wrapper or table reaches other databases, files and programs.

    Stopped:
        CREATE SERVER self FOREIGN DATA WRAPPER postgres_fdw
        CREATE FOREIGN TABLE t (line text) SERVER files
        IMPORT FOREIGN SCHEMA shop FROM SERVER self INTO mirror
        CREATE USER MAPPING FOR current_user SERVER self
    Allowed:
        SELECT * FROM pg_foreign_server
    """

    id = "DS309"
    name = "control.foreign-server"
    verdict = DENY
    hint = ASK_ADMINISTRATOR

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        changed = effect.operation in {Operation.CREATE, Operation.ALTER} and effect.detail in FOREIGN
        return self.finding(effect) if changed else None


class Server(Rule):
    """Databases, tablespaces, languages and the server's own configuration belong to whoever runs it.

    Stopped:
        CREATE DATABASE other
        ALTER DATABASE shop CONNECTION LIMIT 0
        ALTER SYSTEM SET archive_command = 'id'
        CREATE TABLESPACE fast LOCATION '/mnt/x'
    Allowed:
        SHOW archive_command
    """

    id = "DS310"
    name = "control.server"
    verdict = DENY
    hint = ASK_ADMINISTRATOR

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if effect.operation not in {Operation.CREATE, Operation.ALTER}:
            return None
        server = effect.kind is ObjectKind.DATABASE or effect.detail in SERVER
        system = effect.kind is ObjectKind.SETTING and effect.operation is Operation.ALTER
        return self.finding(effect) if server or system else None


class Replication(Rule):
    """Publications and subscriptions copy data out, or rows in past every trigger.

    Stopped:
        CREATE PUBLICATION p FOR ALL TABLES
        CREATE SUBSCRIPTION s CONNECTION 'host=x' PUBLICATION p
    Allowed:
        SELECT * FROM pg_publication
    """

    id = "DS311"
    name = "control.replication"
    verdict = DENY
    hint = ASK_ADMINISTRATOR

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        return self.finding(effect) if effect.detail in REPLICATION else None


class DefinedBehaviour(Rule):
    """Triggers, rules, casts and operators run when somebody else's statement touches the table or the type.

    Stopped:
        CREATE TRIGGER t BEFORE INSERT ON shop.settings FOR EACH ROW EXECUTE FUNCTION shop.f()
        CREATE RULE r AS ON INSERT TO shop.settings DO ALSO DELETE FROM shop.orders
        CREATE OPERATOR shop.= (leftarg = integer, rightarg = integer, function = shop.same)
        CREATE CAST (shop.parcel AS text) WITH FUNCTION shop.parcel_text(shop.parcel)
        CREATE TYPE span AS RANGE (subtype = integer, subtype_diff = shop.f)
        CREATE TEMP VIEW settings AS SELECT * FROM shop.orders
    Allowed:
        CREATE VIEW shop.open_orders AS SELECT * FROM shop.orders
    """

    id = "DS312"
    name = "control.defined-behaviour"
    verdict = HOLD
    hint = f"Do the work in your own statements, {ASK}."

    DETAILS = frozenset({"operator", "operator class", "operator family", "cast", "aggregate", "transform", "collation", "type"})

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if effect.operation not in {Operation.CREATE, Operation.REPLACE}:
            return None
        behaviour = effect.kind in {ObjectKind.TRIGGER, ObjectKind.RULE}
        hidden = effect.kind is ObjectKind.OTHER and effect.detail in self.DETAILS
        hidden = hidden or (effect.kind is ObjectKind.TYPE and effect.detail == "range")
        shadow = effect.kind is ObjectKind.VIEW and Flag.TEMPORARY in effect.flags
        return self.finding(effect) if behaviour or hidden or shadow else None
