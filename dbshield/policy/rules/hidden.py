"""DS6xx: statements whose work does not stand in their text."""

from __future__ import annotations

from dbshield.model import Effect, Finding, ObjectKind, Operation
from dbshield.policy.allowed import LEVELS
from dbshield.policy.function_lists import DENIED, EXTENSIONS_ALLOWED, HELD, OTHER_SESSIONS, allowed_volatile, listed
from dbshield.policy.functions import Function, Volatility
from dbshield.policy.rules.base import ASK, DENY, HOLD, Context, Rule

WRITE_IT_OUT = f"Write the statements out instead of calling a function, {ASK}."

LARGE_OBJECT_READ = 0x40000
"""INV_READ of src/include/libpq/libpq-fs.h; anything with another bit (INV_WRITE, 0x20000) may write."""


KEPT_TO_THEIR_WORD = frozenset({"internal", "c", "sql", "plpgsql", "plperl", "pltcl", "plv8"})
"""Languages in which STABLE means something: the server enforces it, or a superuser vouched for it. What the untrusted ones
(plpython3u, plperlu) do, nobody enforces."""


class DoBlock(Rule):
    """DO runs a program. Only the plain blocks of migration tools are read; in any other, nobody sees what it does.

    Stopped:
        DO $$ BEGIN DELETE FROM orders; END $$
        DO $$ BEGIN EXECUTE 'drop ' || 'table orders'; END $$
        DO $$ DECLARE t text; BEGIN ALTER TABLE orders ADD COLUMN a text; END $$
    Allowed:
        DO $$ BEGIN ALTER TABLE orders ADD COLUMN a text; EXCEPTION WHEN duplicate_column THEN null; END $$
        DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_type) THEN CREATE TYPE mood AS ENUM ('sad'); END IF; END $$
        SELECT 'do $$ begin end $$'
    """

    id = "DS601"
    name = "hidden.do-block"
    hint = f"Send the statements one by one, {ASK}."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        block = effect.operation is Operation.EXECUTE and effect.kind is ObjectKind.FUNCTION and context.kind == "do"
        return self.finding(effect, message="a DO block") if block else None


class DefineFunction(Rule):
    """CREATE or ALTER FUNCTION makes a program that somebody calls later; SECURITY DEFINER gives it its owner's rights.

    Stopped:
        CREATE FUNCTION shop.tidy() RETURNS void LANGUAGE sql AS 'delete from orders'
        CREATE OR REPLACE PROCEDURE p() LANGUAGE sql BEGIN ATOMIC DELETE FROM orders; END
        ALTER FUNCTION shop.purge() SECURITY DEFINER
    Allowed:
        SELECT lower('X')
    """

    id = "DS602"
    name = "hidden.define-function"
    hint = f"Send the statements themselves, {ASK}."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        operations = {Operation.CREATE, Operation.REPLACE, Operation.ALTER}
        defined = effect.kind is ObjectKind.FUNCTION and effect.operation in operations
        return (
            self.finding(effect) if defined and effect.detail not in {"comment", "rename", "set schema", "change owner"} else None
        )


class CallProcedure(Rule):
    """CALL runs a procedure, which may do anything and commit in between.

    Stopped:
        CALL shop.archive_orders()
    Allowed:
        SELECT now()
    """

    id = "DS603"
    name = "hidden.call-procedure"
    hint = f"Send the statements that the procedure would run, {ASK}."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        called = effect.operation is Operation.EXECUTE and effect.detail == "procedure"
        return self.finding(effect, message=f"call procedure {effect.name}") if called else None


class ListedFunction(Rule):
    """Some built-in functions read files, run a text they are given, change the server or overwrite large objects.

    Stopped:
        SELECT pg_read_file('/etc/passwd')
        SELECT query_to_xml('select 1', true, false, '')
        SELECT pg_reload_conf()
        SELECT lo_unlink(424242)
        SELECT U&"pg_re\\0061d_file"('x')
        SELECT shop.dblink_exec('dbname=x', 'drop table t')
        SELECT lo_open(424242, 131072)
    Allowed:
        SELECT proname FROM pg_proc WHERE proname = 'pg_read_file'
        SELECT lo_open(424242, 262144)
    """

    id = "DS604"
    operations = frozenset({Operation.CALL})
    name = "hidden.listed-function"
    verdict = DENY

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if effect.operation is not Operation.CALL:
            return None
        name = effect.name.name
        reason = listed(name, DENIED)
        if name == "lo_open" and not opens_for_reading(effect.detail):
            reason = "opens a large object for writing"
        if reason is None or name in OTHER_SESSIONS:
            return None
        hint = f"Do without it: it {reason}"
        hint = f"{hint}; {ASK}." if name in HELD else f"{hint}."
        return self.finding(effect, hint=hint, verdict=HOLD if name in HELD else DENY)


class SlyFunction(Rule):
    """A function of the database that is volatile or SECURITY DEFINER may change anything; PostgreSQL's own only if listed.

    Stopped:
        SELECT pg_get_backend_memory_contexts()
    Allowed:
        SELECT now(), random(), gen_random_uuid()
        SELECT nextval('shop.invoice_number')
    """

    id = "DS605"
    operations = frozenset({Operation.CALL})
    name = "hidden.volatile-function"
    hint = WRITE_IT_OUT

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if effect.operation is not Operation.CALL or effect.detail == "operator":
            return None
        for function in context.functions.named(effect.name.schema, effect.name.name):
            if stopped_for_volatility(function, context):
                return self.finding(effect)
        return None


class UnknownFunction(Rule):
    """A function or an operator that the catalogue does not know cannot be judged.

    Stopped:
        SELECT shop.wipe_customers()
        SELECT no_such_function(1)
        SELECT 1 OPERATOR(shop.<=>) 2
    Allowed:
        SELECT 1 OPERATOR(pg_catalog.=) 2
    """

    id = "DS606"
    operations = frozenset({Operation.CALL})
    name = "hidden.unknown-function"
    hint = WRITE_IT_OUT

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if effect.operation is not Operation.CALL:
            return None
        if effect.detail == "operator":
            return self.finding(effect, message=f"operator {effect.name}", hint=f"Use PostgreSQL's own operators, {ASK}.")
        if listed(effect.name.name, DENIED) or context.functions.named(effect.name.schema, effect.name.name):
            return None
        return self.finding(effect)


def stopped_for_volatility(function: Function, context: Context) -> bool:
    """True when what the catalogue says of `function` is not enough to let it run."""
    if function.built_in:
        if function.volatility is not Volatility.VOLATILE or function.name in {"set_config", "lo_open"}:
            return False  # The two have rules of their own, which read their arguments.
        if listed(function.name, DENIED):
            return False
        least = allowed_volatile(function.name)
        return least is None or LEVELS.index(context.access) < LEVELS.index(least)
    if function.security_definer:
        return True
    if function.language == "c" and function.name in EXTENSIONS_ALLOWED:
        return False
    return function.volatility is Volatility.VOLATILE or function.language not in KEPT_TO_THEIR_WORD


def opens_for_reading(detail: str) -> bool:
    """True when the constant arguments of lo_open, one a line, say INV_READ and nothing else."""
    mode = detail.rpartition("\n")[2]
    return mode.isascii() and mode.isdigit() and int(mode) == LARGE_OBJECT_READ
