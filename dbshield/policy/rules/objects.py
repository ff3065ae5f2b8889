"""DS1xx: statements that destroy objects, or move them out of reach of those who use them."""

from __future__ import annotations

from dbshield.model import Effect, Finding, Flag, ObjectKind, Operation
from dbshield.policy.rules.base import ASK, ASK_ADMINISTRATOR, DENY, Context, Rule, named

OWN_TEMPORARY = frozenset({ObjectKind.TABLE, ObjectKind.VIEW, ObjectKind.SEQUENCE, ObjectKind.INDEX})
"""What may be dropped from pg_temp: it holds no data of others, and without CASCADE nothing else goes with it."""

CLUSTER_WIDE = frozenset({ObjectKind.DATABASE, ObjectKind.ROLE, ObjectKind.EXTENSION})

RENAMES = frozenset({"rename", "set schema", "move all"})
PARTITIONS = frozenset({"attach partition", "detach partition", "detach partition finalize", "add inherit", "drop inherit"})
STORAGE = frozenset({"set un logged", "set logged", "set access method", "set table space"})

ADDITIVE_ALTER = frozenset(
    {
        "add column",
        "add constraint",
        "add identity",
        "add index",
        "add index constraint",
        "add value",
        "column default",
        "cooked column default",
        "comment",
        "drop not null",
        "enable row security",
        "force row security",
        "set not null",
        "set statistics",
        "set storage",
        "set compression",
        "validate constraint",
    }
)
"""What an ALTER may do and lose nothing: it adds, or can be turned back without knowing what was there."""


STORAGE_PARAMETERS = frozenset(
    {
        "autovacuum_analyze_scale_factor",
        "autovacuum_analyze_threshold",
        "autovacuum_vacuum_cost_delay",
        "autovacuum_vacuum_cost_limit",
        "autovacuum_vacuum_insert_scale_factor",
        "autovacuum_vacuum_insert_threshold",
        "autovacuum_vacuum_max_threshold",
        "autovacuum_vacuum_scale_factor",
        "autovacuum_vacuum_threshold",
        "deduplicate_items",
        "fastupdate",
        "fillfactor",
        "gin_pending_list_limit",
        "log_autovacuum_min_duration",
        "parallel_workers",
        "toast_tuple_target",
    }
)
"""What tunes a table or an index and can be turned back: how full its pages are, when it is vacuumed. Not whether it is
(autovacuum_enabled), and nothing that guards a view (security_barrier)."""


def only_tunes(effect: Effect) -> bool:
    """True for ALTER … SET or RESET of nothing but storage parameters that lose nothing."""
    what, *names = effect.detail.split("\n")
    return what in {"set rel options", "reset rel options"} and bool(names) and STORAGE_PARAMETERS.issuperset(names)


def own_temporary(effect: Effect) -> bool:
    """True for an object of the session's own temporary schema that goes alone."""
    return Flag.TEMPORARY in effect.flags and effect.kind in OWN_TEMPORARY and Flag.CASCADE not in effect.flags


class DropObject(Rule):
    """DROP removes an object with everything in it, and what it held comes back only from a backup.

    Stopped:
        DROP TABLE shop.orders
        drop view if exists a, b
        DROP INDEX CONCURRENTLY orders_customer
        drop schema archive cascade
        drop function order_count(integer)
        drop table pg_temp.scratch cascade
    Allowed:
        DROP TABLE pg_temp.scratch
        SELECT 'DROP TABLE shop.orders'
    """

    id = "DS101"
    name = "objects.drop"
    hint = "Leave it in place, or ask a human to drop it."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if effect.operation is not Operation.DROP or effect.kind in CLUSTER_WIDE:
            return None
        if effect.kind in {ObjectKind.COLUMN, ObjectKind.CONSTRAINT} or effect.detail == "event trigger":
            return None
        return None if own_temporary(effect) else self.finding(effect, hint=self._hint(effect))

    def _hint(self, effect: Effect) -> str:
        name = named(effect)
        hint = f"Leave {name} in place, or ask a human to drop it."
        if Flag.CASCADE in effect.flags:
            return f"{hint} CASCADE takes what depends on it as well: name the objects one by one."
        if effect.kind in OWN_TEMPORARY and not effect.name.schema:
            return f"{hint} A temporary one of your own goes with DROP {effect.kind.value.upper()} pg_temp.{name}."
        return hint


class DropOwned(Rule):
    """DROP OWNED removes everything that a role owns, and every right that it has.

    Stopped:
        DROP OWNED BY app_owner CASCADE
        drop owned by current_user
    Allowed:
        SELECT 'drop owned by app_owner'
    """

    id = "DS102"
    name = "objects.drop-owned"
    verdict = DENY
    hint = "Ask a human to drop single objects by their names; DROP OWNED takes them all."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if effect.operation is Operation.DROP and effect.kind is ObjectKind.ROLE and effect.detail == "owned":
            return self.finding(effect, message=f"drop everything owned by {effect.name}")
        return None


class DropClusterWide(Rule):
    """DROP DATABASE, ROLE, EXTENSION, TABLESPACE and SUBSCRIPTION reach beyond one schema.

    Stopped:
        DROP DATABASE other WITH (FORCE)
        DROP ROLE case_worker
        DROP EXTENSION plpgsql CASCADE
    Allowed:
        SELECT datname FROM pg_database
    """

    id = "DS103"
    name = "objects.drop-cluster-wide"
    verdict = DENY
    hint = ASK_ADMINISTRATOR

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if effect.operation is Operation.DROP and effect.kind in CLUSTER_WIDE and effect.detail != "owned":
            return self.finding(effect)
        return None


class DropColumn(Rule):
    """ALTER TABLE … DROP COLUMN removes the column's values from every row.

    Stopped:
        ALTER TABLE shop.orders DROP COLUMN total
        alter table shop.orders drop total
        alter table t add column a text, drop column if exists b cascade
    Allowed:
        ALTER TABLE shop.orders ADD COLUMN note text
    """

    id = "DS104"
    name = "objects.drop-column"
    hint = "Leave the column in place and stop using it; add a new one where you need another. Ask a human to drop it."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if effect.operation is Operation.DROP and effect.kind is ObjectKind.COLUMN:
            return self.finding(effect)
        return None


class DropConstraint(Rule):
    """Dropping a constraint lets in the rows that it kept out, and often drops an index.

    Stopped:
        ALTER TABLE shop.orders DROP CONSTRAINT orders_customer_id_fkey
        alter domain email drop constraint email_check
    Allowed:
        ALTER TABLE shop.orders ADD CONSTRAINT total_positive CHECK (total >= 0) NOT VALID
    """

    id = "DS105"
    name = "objects.drop-constraint"
    hint = "Keep the constraint and correct the rows that it refuses, or ask a human to drop it."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        dropped = effect.operation is Operation.DROP and effect.kind is ObjectKind.CONSTRAINT
        return self.finding(effect) if dropped or effect.detail == "domain" else None


class ChangeColumnType(Rule):
    """A change of type rewrites every value, and what does not fit is lost.

    Stopped:
        ALTER TABLE shop.products ALTER price TYPE integer
        alter table t alter column payload set data type jsonb using null
    Allowed:
        ALTER TABLE shop.products ALTER price SET DEFAULT 0
    """

    id = "DS106"
    name = "objects.change-type"
    hint = f"Add a column of the new type and fill it by UPDATE … WHERE, some rows at a time, {ASK}."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        return self.finding(effect) if effect.operation is Operation.ALTER and Flag.REWRITE in effect.flags else None


class MoveAway(Rule):
    """A new name or schema takes an object away from everybody who uses it by its old one. ALTER INDEX and ALTER SEQUENCE rename
    tables too, so the word before the name says nothing; only a constraint's name is nobody's way to the data.

    Stopped:
        ALTER TABLE shop.settings RENAME TO settings_old
        alter index shop.orders rename to orders_idx
        alter table shop.products set schema archive
        alter table t rename column a to b
        alter type mood rename value 'sad' to 'blue'
    Allowed:
        CREATE VIEW shop.settings_new AS SELECT * FROM shop.settings
        ALTER TABLE shop.orders RENAME CONSTRAINT orders_total_check TO total_is_positive
    """

    id = "DS107"
    name = "objects.move-away"
    hint = "Leave the old name and create a view under the new one, or ask a human to rename it."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if effect.operation is not Operation.ALTER or effect.detail not in RENAMES or effect.kind is ObjectKind.CONSTRAINT:
            return None
        return self.finding(effect)


class ChangePartition(Rule):
    """Attaching or detaching a partition or a parent changes which rows a statement on the other table reaches.

    Stopped:
        ALTER TABLE shop.events DETACH PARTITION shop.events_2026_02
        alter table shop.parent attach partition archive.orders for values from (1) to (2)
        alter table archive.orders inherit shop.parent
    Allowed:
        CREATE TABLE e3 PARTITION OF shop.events FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')
    """

    id = "DS108"
    name = "objects.change-partition"
    hint = f"Create a new partition with CREATE TABLE … PARTITION OF, {ASK}."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        return self.finding(effect) if effect.operation is Operation.ALTER and effect.detail in PARTITIONS else None


class ChangeStorage(Rule):
    """An unlogged table or sequence is empty after a crash; a move of storage rewrites the table under a lock.

    Stopped:
        ALTER TABLE archive.orders SET UNLOGGED
        alter table t set tablespace fast
    Allowed:
        CREATE TABLE t (id integer)
    """

    id = "DS109"
    name = "objects.change-storage"
    hint = "Leave the storage as it is, or ask a human to change it."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        return self.finding(effect) if effect.operation is Operation.ALTER and effect.detail in STORAGE else None


class AlterSequence(Rule):
    """A sequence that is set back hands out numbers a second time; one that gets an owner goes with it.

    Stopped:
        ALTER SEQUENCE shop.invoice_number RESTART
        alter sequence shop.invoice_number owned by shop.settings.n
    Allowed:
        CREATE SEQUENCE shop.ticket_number START 100
        SELECT nextval('shop.invoice_number')
    """

    id = "DS110"
    name = "objects.alter-sequence"
    hint = "Create a new sequence and use that, or ask a human to change this one."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if (
            effect.operation is Operation.ALTER
            and effect.kind is ObjectKind.SEQUENCE
            and effect.detail not in {"comment", *RENAMES, *STORAGE}
        ):
            return self.finding(effect)
        return None


class EmptyMaterializedView(Rule):
    """REFRESH … WITH NO DATA throws the stored result away.

    Stopped:
        REFRESH MATERIALIZED VIEW shop.sales_by_day WITH NO DATA
    Allowed:
        REFRESH MATERIALIZED VIEW CONCURRENTLY shop.sales_by_day
    """

    id = "DS111"
    name = "objects.empty-materialized-view"
    hint = "Refresh it with data: REFRESH MATERIALIZED VIEW without WITH NO DATA."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        return self.finding(effect) if effect.operation is Operation.MAINTAIN and effect.detail == "refresh no data" else None
