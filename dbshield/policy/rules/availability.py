"""DS5xx: statements that keep others from working."""

from __future__ import annotations

from dbshield.model import Effect, Finding, Flag, ObjectKind, Operation
from dbshield.policy.allowed import MIGRATE
from dbshield.policy.function_lists import HELD_LOCKS, OTHER_SESSIONS
from dbshield.policy.rules.base import ASK, DENY, Context, Rule

HEAVY_LOCKS = frozenset({"share", "share row exclusive", "exclusive", "access exclusive", "?"})
"""Table locks that keep writers or readers out (PostgreSQL manual, 13.3 Explicit Locking)."""

PREPARED = frozenset({"prepare transaction", "commit prepared", "rollback prepared"})
REWRITES = frozenset({"vacuum full", "cluster", "checkpoint"})


class HeavyLock(Rule):
    """LOCK TABLE in a mode that keeps writers or readers out stops everybody who uses the table.

    Stopped:
        LOCK TABLE shop.orders
        LOCK TABLE shop.orders IN SHARE MODE
    Allowed:
        LOCK TABLE shop.orders IN ROW EXCLUSIVE MODE
        SELECT * FROM shop.orders WHERE id = 1 FOR UPDATE
    """

    id = "DS501"
    name = "availability.heavy-lock"
    hint = f"Lock the rows that you need with SELECT … FOR UPDATE, {ASK}."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        return self.finding(effect) if effect.operation is Operation.LOCK and effect.detail in HEAVY_LOCKS else None


class RewriteTable(Rule):
    """VACUUM FULL, CLUSTER and REINDEX rewrite under a lock that keeps everybody out.

    Stopped:
        VACUUM FULL shop.orders
        CLUSTER shop.orders USING orders_pkey
        REINDEX TABLE shop.orders
        CHECKPOINT
    Allowed:
        VACUUM shop.orders
        ANALYZE shop.orders
        REINDEX INDEX CONCURRENTLY shop.orders_customer
    """

    id = "DS502"
    name = "availability.rewrite-table"
    hint = f"Use VACUUM, ANALYZE or REINDEX … CONCURRENTLY, {ASK}."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        if effect.operation is not Operation.MAINTAIN:
            return None
        blocking = effect.kind is ObjectKind.INDEX and Flag.CONCURRENT not in effect.flags
        return self.finding(effect) if blocking or effect.detail in REWRITES else None


class PreparedTransaction(Rule):
    """A prepared transaction outlives its session: it holds its locks, stops vacuum, and commits past every limit.

    Stopped:
        PREPARE TRANSACTION 'x'
        COMMIT PREPARED 'x'
        ROLLBACK PREPARED 'x'
    Allowed:
        PREPARE q AS SELECT 1
        COMMIT
    """

    id = "DS503"
    name = "availability.prepared-transaction"
    verdict = DENY
    hint = "Commit or roll back in the session that began the transaction."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        prepared = effect.operation is Operation.TRANSACTION and effect.detail in PREPARED
        return self.finding(effect, message=effect.detail) if prepared else None


class AdvisoryLock(Rule):
    """pg_advisory_lock waits without an end and keeps the lock past the transaction, until the session ends; whoever else uses
    the same number waits as long. Migration tools need it to lock each other out.

    Stopped:
        [write] SELECT pg_advisory_lock(42)
        [read] SELECT pg_catalog.pg_advisory_lock_shared(1, 2)
    Allowed:
        SELECT pg_advisory_lock(42)
        [read] SELECT pg_try_advisory_lock(42)
        [write] SELECT pg_advisory_xact_lock(42)
        [read] SELECT pg_advisory_unlock_all()
    """

    id = "DS504"
    operations = frozenset({Operation.CALL})
    name = "availability.advisory-lock"
    hint = f"Use pg_advisory_xact_lock inside a transaction, or pg_try_advisory_lock and pg_advisory_unlock, {ASK}."
    passes = frozenset({MIGRATE})

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        called = effect.operation is Operation.CALL and effect.name.name in HELD_LOCKS
        return self.finding(effect) if called and context.access is not MIGRATE else None


class OtherSessions(Rule):
    """Cancelling a statement or ending a session of somebody else loses the work that stood in it.

    Stopped:
        SELECT pg_terminate_backend(1)
        SELECT pg_cancel_backend(pid) FROM pg_stat_activity
    Allowed:
        SELECT pid, state, query FROM pg_stat_activity
        SELECT pg_blocking_pids(1)
    """

    id = "DS505"
    operations = frozenset({Operation.CALL})
    name = "availability.other-sessions"
    verdict = DENY
    hint = "Tell a human which session it is (pg_stat_activity, pg_blocking_pids) and why it should end."

    def judge(self, effect: Effect, context: Context) -> Finding | None:
        other = effect.operation is Operation.CALL and effect.name.name in OTHER_SESSIONS
        return self.finding(effect) if other else None
