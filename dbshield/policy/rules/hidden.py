"""DS6xx: statements whose work does not stand in their text."""

from __future__ import annotations

from dbshield.model import Effect, Finding, ObjectKind, Operation
from dbshield.policy.allowed import LEVELS
from dbshield.policy.function_lists import DENIED, EXTENSIONS_ALLOWED, HELD, OTHER_SESSIONS, allowed_volatile, listed
from dbshield.policy.functions import KEPT_TO_THEIR_WORD, Function, Volatility
from dbshield.policy.rules.base import ASK, DENY, HOLD, Context, Rule
from dbshield.sqltext.blocks import Why
from dbshield.sqltext.bodies import CHANGES, DEFINER, LATER, READ_DETAILS

WRITE_IT_OUT = f"Write the statements out instead of calling a function, {ASK}."

LARGE_OBJECT_READ = 0x40000
"""INV_READ of src/include/libpq/libpq-fs.h; anything with another bit (INV_WRITE, 0x20000) may write."""


HARMLESS_ALTER = frozenset({"comment", "rename", "set schema", "change owner"})
"""What changes nothing of what a function does; moving one away has a rule of its own."""

DOMAINS = frozenset({"create domain", "alter domain", "create type"})
"""Kinds of statements that make functions run behind a type, which only the catalogue tells of."""

SPOKEN_OF_ELSEWHERE = READ_DETAILS | {CHANGES, Why.DYNAMIC, Why.LANGUAGE, Why.TRANSACTION}
"""Details of CREATE FUNCTION that pass, or that have a rule of their own."""


class DoBlock(Rule):
    """DO runs a program. It is read statement by statement, each judged as if it came alone; where a part of it cannot
    be read, nobody sees what it does.

    Stopped:
        DO $$ BEGIN DELETE FROM; END $$
        DO $$ BEGIN x := ; END $$
        DO 'no program'
        DO $$ BEGIN CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END; END $$
    Allowed:
        DO $$ BEGIN ALTER TABLE orders ADD COLUMN a text; EXCEPTION WHEN duplicate_column THEN null; END $$
        DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_type) THEN CREATE TYPE mood AS ENUM ('sad'); END IF; END $$
        DO $$ DECLARE r record; BEGIN FOR r IN SELECT id FROM a LOOP UPDATE b SET c = 1 WHERE id = r.id; END LOOP; END $$
        SELECT 'do $$ begin end $$'
    """

    id = "DS601"
    name = "hidden.do-block"
    hint = f"Send the statements one by one, {ASK}."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if effect.operation is not Operation.EXECUTE or effect.kind is not ObjectKind.FUNCTION or effect.detail != Why.GRAMMAR:
            return None
        return self.finding(effect, message="a DO block with a part that cannot be read")


class DefineFunction(Rule):
    """CREATE FUNCTION makes a program that somebody calls later. A new one passes for migrations when its body was read and does
    no more than read, compute and insert; replacing or altering one changes what others rely on, SECURITY DEFINER gives it its
    owner's rights, and what cannot be read nobody can judge.

    Stopped:
        CREATE OR REPLACE FUNCTION shop.touch() RETURNS trigger LANGUAGE plpgsql AS 'begin return null; end'
        CREATE FUNCTION shop.tidy() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'select 1'
        CREATE FUNCTION shop.tidy() RETURNS void LANGUAGE plpgsql AS 'begin a b c'
        CREATE FUNCTION shop.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'begin end'
        CREATE FUNCTION shop.planned(internal) RETURNS int LANGUAGE sql SUPPORT shop.help AS 'select 1'
        ALTER FUNCTION shop.purge() SECURITY DEFINER
    Allowed:
        CREATE FUNCTION shop.label(a text, b text) RETURNS text LANGUAGE sql IMMUTABLE RETURN a || b
        CREATE FUNCTION shop.note() RETURNS trigger LANGUAGE plpgsql AS 'begin insert into log values (new.id); return new; end'
        SELECT lower('X')
    """

    id = "DS602"
    name = "hidden.define-function"
    hint = f"Send the statements themselves, {ASK}."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if effect.kind is not ObjectKind.FUNCTION:
            return None
        if effect.operation is Operation.ALTER:
            return self.finding(effect) if effect.detail not in HARMLESS_ALTER else None
        if effect.operation is Operation.CREATE and effect.detail not in SPOKEN_OF_ELSEWHERE:
            return self.finding(effect, message=f"create function {effect.name}, which {_why(effect.detail)}")
        return self.finding(effect) if effect.operation is Operation.REPLACE else None


class DynamicSql(Rule):
    """EXECUTE in a body runs a text that is put together while it runs, so that nobody can read it before.

    Stopped:
        DO $$ BEGIN EXECUTE 'drop ' || 'table orders'; END $$
        DO $$ DECLARE r record; BEGIN FOR r IN EXECUTE 'delete from orders returning 1' LOOP NULL; END LOOP; END $$
        CREATE FUNCTION shop.run(t text) RETURNS void LANGUAGE plpgsql AS 'begin execute t; end'
        CREATE FUNCTION shop.run(t text) RETURNS SETOF int LANGUAGE plpgsql AS 'begin return query execute t; end'
    Allowed:
        DO $$ BEGIN RAISE NOTICE 'execute'; END $$
    """

    id = "DS607"
    name = "hidden.dynamic-sql"
    hint = f"Write the statement out instead of putting it together, {ASK}."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        return self.finding(effect, message=f"{_where(effect)} runs a text") if _body(effect, Why.DYNAMIC) else None


class OtherLanguage(Rule):
    """Bodies are read in SQL and PL/pgSQL; what one in another language does, only its author knows.

    Stopped:
        DO LANGUAGE plpython3u 'import os'
        CREATE FUNCTION shop.native() RETURNS text LANGUAGE c AS '$libdir/dblink', 'dblink_current_query'
        CREATE FUNCTION shop.count(text) RETURNS int LANGUAGE plperl AS 'return length $_[0]'
    Allowed:
        CREATE FUNCTION shop.one() RETURNS int LANGUAGE sql AS 'select 1'
    """

    id = "DS608"
    name = "hidden.other-language"
    hint = f"Write it in SQL or PL/pgSQL, {ASK}."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        return self.finding(effect, message=f"{_where(effect)} {Why.LANGUAGE}") if _body(effect, Why.LANGUAGE) else None


class TransactionInBody(Rule):
    """COMMIT and ROLLBACK inside a body end the transaction in which changed rows are counted, so no limit could hold.

    Stopped:
        DO $$ BEGIN DELETE FROM orders WHERE id = 7; COMMIT; END $$
        CREATE PROCEDURE shop.step() LANGUAGE plpgsql AS 'begin insert into log values (1); rollback; end'
    Allowed:
        DO $$ BEGIN INSERT INTO log VALUES (1); EXCEPTION WHEN others THEN null; END $$
    """

    id = "DS609"
    name = "hidden.transaction-in-body"
    hint = f"Send the parts as transactions of their own, {ASK}."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        return self.finding(effect, message=f"{_where(effect)} {Why.TRANSACTION}") if _body(effect, Why.TRANSACTION) else None


class ChangingFunction(Rule):
    """A function that updates, deletes or defines anything does so whenever it is called, by a trigger behind a plain INSERT too,
    where nobody counts its rows.

    Stopped:
        CREATE FUNCTION shop.tidy() RETURNS void LANGUAGE sql AS 'delete from orders where id = 7'
        CREATE FUNCTION shop.tidy() RETURNS bigint BEGIN ATOMIC DELETE FROM orders WHERE id = 7; SELECT 1::bigint; END
        CREATE FUNCTION shop.note() RETURNS trigger LANGUAGE plpgsql AS 'begin update log set n = 1 where a = 2; return new; end'
    Allowed:
        CREATE FUNCTION shop.total(n int) RETURNS bigint LANGUAGE sql STABLE AS 'select count(*) from orders where id = n'
    """

    id = "DS610"
    name = "hidden.changing-function"
    hint = f"Send what the function would change as statements of their own, {ASK}."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        return self.finding(effect, message=f"{_where(effect)} {CHANGES}") if _body(effect, CHANGES) else None


class TakenName(Rule):
    """A new function whose name is taken is reached by calls that are written already, also those of PostgreSQL's own functions:
    the types of the arguments decide, and nobody who calls sees the difference.

    Stopped:
        CREATE FUNCTION shop.lower(varchar) RETURNS text LANGUAGE sql IMMUTABLE RETURN 'x'
    Allowed:
        CREATE FUNCTION shop.lowest(varchar) RETURNS text LANGUAGE sql IMMUTABLE RETURN 'x'
    """

    id = "DS611"
    name = "hidden.taken-name"
    hint = f"Give the function a name that no other has, {ASK}."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if effect.operation is not Operation.CREATE or effect.kind is not ObjectKind.FUNCTION:
            return None
        named = context.functions.named
        known = (*named("pg_catalog", effect.name.name), *named(effect.name.schema, effect.name.name))
        # One that is fresh may have been rolled back, and its body was read like this one's.
        taken = any(not function.fresh for function in known)
        return self.finding(effect, message=f"a function named {effect.name.name} exists") if taken else None


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
        functions = context.functions.named(effect.name.schema, name)
        if name in HELD and functions and all(_let_through(function, effect, context) for function in functions):
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
            if _let_through(function, effect, context):
                continue
            if stopped_for_volatility(function, context):
                return self.finding(effect)
            if context.kind in DOMAINS and context.functions.writes_when_called(function):
                return self.finding(effect, message=f"{effect.name} in a domain, whose values run it where nobody counts")
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
    hint = (
        f"Look whether the name and its schema are right; if so, write the statements out instead of calling a function, {ASK}."
    )

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if effect.operation is not Operation.CALL:
            return None
        if effect.detail == "operator":
            return self.finding(effect, message=f"operator {effect.name}", hint=f"Use PostgreSQL's own operators, {ASK}.")
        if listed(effect.name.name, DENIED) or context.functions.named(effect.name.schema, effect.name.name):
            return None
        return self.finding(effect)


def _let_through(function: Function, effect: Effect, context: Context) -> bool:
    """Whether a human allowed this function by its name. What is called from a function that is created runs uncounted later,
    which is more than that human said."""
    return effect.detail != LATER and context.policy.allows(function)


def _body(effect: Effect, what: str) -> bool:
    """Whether `what` is said of the body of a DO or of a function that is created."""
    if effect.kind is not ObjectKind.FUNCTION or effect.detail != what:
        return False
    return effect.operation in {Operation.EXECUTE, Operation.CREATE, Operation.REPLACE}


def _where(effect: Effect) -> str:
    return "a DO block" if effect.operation is Operation.EXECUTE else f"the body of {effect.name}"


def _why(detail: str) -> str:
    return f"is {detail}" if detail == DEFINER else detail


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
