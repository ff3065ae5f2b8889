"""Every number that dbshield tells a monitoring, by name: what it counts, in which unit, and by which labels.

This table is the contract. The endpoint exports what stands here and nothing else, the reference is printed from it, and the
dashboard and the alert rules in `deploy/` are checked against it. Names follow Prometheus' conventions: base units, `_total` for
what only grows. A moment is told as seconds since 1970, so its age is `time()` less it, however old the answer is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, unique
from types import MappingProxyType
from typing import Final


@unique
class Kind(StrEnum):
    """What may be done with a number: a counter only grows, a gauge goes up and down, a histogram counts by size."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@unique
class Source(StrEnum):
    """Who knows it."""

    PROXY = "proxy"
    """The workers of this proxy; alike for nobody else."""
    CONTROL = "control"
    """The control database: every proxy that reads it tells the same. Absent while it is away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number. `labels` are the names of its labels, in order; `unit` is empty for what is counted in ones."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    source: Source = Source.PROXY


WHO: Final = ("environment", "agent")
PLAN: Final = ("environment", "plan")

LATENCY_BUCKETS: Final = (
    *(0.000_005, 0.000_01, 0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5),
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0),
)
"""Seconds. A cached verdict takes some ten microseconds, a fresh one some hundred, a write waits for a commit."""

METRICS: Final = (
    # What this proxy is
    Metric(
        name="dbshield_build_info", kind=Kind.GAUGE, help="Always 1; the labels are what runs here.", labels=("version", "python")
    ),
    Metric(name="dbshield_workers", kind=Kind.GAUGE, help="Workers of this proxy whose event loop turns."),
    Metric(name="dbshield_workers_configured", kind=Kind.GAUGE, help="Workers that this proxy should have."),
    Metric(
        name="dbshield_worker_starts_total",
        kind=Kind.COUNTER,
        help="Workers that were started, those too that replaced a dead one.",
    ),
    # Who is connected
    Metric(name="dbshield_connections", kind=Kind.GAUGE, help="Sessions that stand.", labels=WHO),
    Metric(
        name="dbshield_sessions_held",
        kind=Kind.GAUGE,
        help="Sessions whose statement waits for a human.",
        labels=("environment",),
    ),
    Metric(name="dbshield_logins_total", kind=Kind.COUNTER, help="Logins that became a session.", labels=WHO),
    Metric(
        name="dbshield_logins_refused_total",
        kind=Kind.COUNTER,
        help="Logins that were refused: before a token proved right (client), after that (token), one of too many (throttled).",
        labels=("stage",),
    ),
    # What they do
    Metric(
        name="dbshield_statements_total",
        kind=Kind.COUNTER,
        help="Statements by their verdict (allow, limit, hold, deny) and the rule that gave it; no rule where none spoke.",
        labels=(*WHO, "verdict", "rule"),
    ),
    Metric(
        name="dbshield_rows_changed_total",
        kind=Kind.COUNTER,
        help="Rows that counted statements changed.",
        labels=WHO,
    ),
    # What it costs them
    Metric(
        name="dbshield_added_latency_seconds",
        kind=Kind.HISTOGRAM,
        help="Time from a chunk's arrival to its forwarding, of one chunk in sixteen; to is server or client.",
        labels=("to",),
        unit="seconds",
    ),
    Metric(
        name="dbshield_durable_wait_seconds",
        kind=Kind.HISTOGRAM,
        help="Time that a write waited until the audit had it for good; every write.",
        unit="seconds",
    ),
    Metric(
        name="dbshield_verdict_cache_hits_total",
        kind=Kind.COUNTER,
        help="Statements whose verdict was known.",
        labels=("environment",),
    ),
    Metric(
        name="dbshield_verdict_cache_misses_total",
        kind=Kind.COUNTER,
        help="Statements that had to be read.",
        labels=("environment",),
    ),
    # What they depend on
    Metric(
        name="dbshield_upstream_errors_total",
        kind=Kind.COUNTER,
        help="Protected servers that did not let a session begin (login), or closed one (session).",
        labels=("environment", "stage"),
    ),
    Metric(
        name="dbshield_upstream_up",
        kind=Kind.GAUGE,
        help="1 where the protected server answers that it takes connections, else 0.",
        labels=("environment",),
    ),
    Metric(
        name="dbshield_control_database_up",
        kind=Kind.GAUGE,
        help="1 where the control database answers this endpoint, else 0: what comes from it is absent then.",
    ),
    Metric(
        name="dbshield_control_connected_workers",
        kind=Kind.GAUGE,
        help="Workers that follow the control database.",
    ),
    Metric(
        name="dbshield_audit_workers",
        kind=Kind.GAUGE,
        help="Workers by where their audit entries are kept now: database, disk or nowhere.",
        labels=("keeping",),
    ),
    Metric(
        name="dbshield_audit_entries_behind",
        kind=Kind.GAUGE,
        help="Audit entries that are not in the control database yet.",
    ),
    Metric(
        name="dbshield_audit_lag_seconds",
        kind=Kind.GAUGE,
        help="Age of the oldest audit entry that is not in the control database yet; 0 where all are.",
        unit="seconds",
    ),
    # What waits for humans
    Metric(
        name="dbshield_approvals_waiting",
        kind=Kind.GAUGE,
        help="Statements that wait for a human's decision.",
        labels=("environment",),
        source=Source.CONTROL,
    ),
    Metric(
        name="dbshield_approvals_oldest_seconds",
        kind=Kind.GAUGE,
        help="For how long the oldest of them waits; 0 where none does.",
        labels=("environment",),
        unit="seconds",
        source=Source.CONTROL,
    ),
    Metric(
        name="dbshield_freezes",
        kind=Kind.GAUGE,
        help="Freezes that hold: of agents, or of the environment.",
        labels=("environment",),
        source=Source.CONTROL,
    ),
    # What brings the data back
    Metric(
        name="dbshield_snapshot_timestamp_seconds",
        kind=Kind.GAUGE,
        help="When the newest complete snapshot of a plan began; its age is time() less this.",
        labels=PLAN,
        unit="seconds",
        source=Source.CONTROL,
    ),
    Metric(
        name="dbshield_snapshot_size_bytes",
        kind=Kind.GAUGE,
        help="What the newest complete snapshot takes where it is stored.",
        labels=PLAN,
        unit="bytes",
        source=Source.CONTROL,
    ),
    Metric(
        name="dbshield_drill_timestamp_seconds",
        kind=Kind.GAUGE,
        help="When the newest drill of a plan ended.",
        labels=PLAN,
        unit="seconds",
        source=Source.CONTROL,
    ),
    Metric(
        name="dbshield_drill_verdict",
        kind=Kind.GAUGE,
        help="1 for the verdict of the newest drill, 0 for the others: passed, failed (the backup is bad), error (no verdict).",
        labels=(*PLAN, "verdict"),
        source=Source.CONTROL,
    ),
    Metric(
        name="dbshield_drill_rpo_seconds",
        kind=Kind.GAUGE,
        help="Age of the newest data that the newest drill brought back (recovery point); absent where it was not measured.",
        labels=PLAN,
        unit="seconds",
        source=Source.CONTROL,
    ),
    Metric(
        name="dbshield_drill_rto_seconds",
        kind=Kind.GAUGE,
        help="How long the newest drill took from nothing to a server that was checked.",
        labels=PLAN,
        unit="seconds",
        source=Source.CONTROL,
    ),
    # What holds without the proxy
    Metric(
        name="dbshield_guard_verified",
        kind=Kind.GAUGE,
        help="1 where the newest scheduled look found the guard as it was installed, 0 where it did not, or could not look.",
        labels=("environment",),
        source=Source.CONTROL,
    ),
    Metric(
        name="dbshield_guard_verified_timestamp_seconds",
        kind=Kind.GAUGE,
        help="When the guard was last found as it was installed.",
        labels=("environment",),
        unit="seconds",
        source=Source.CONTROL,
    ),
    Metric(
        name="dbshield_job_overdue",
        kind=Kind.GAUGE,
        help="1 for a scheduled job that was not done in time, else 0.",
        labels=("job_name",),
        source=Source.CONTROL,
    ),
    Metric(
        name="dbshield_scheduler_leads",
        kind=Kind.GAUGE,
        help="1 where a scheduler leads the group that this configuration names, else 0: nothing is run.",
        source=Source.CONTROL,
    ),
)
"""In the order of the endpoint and of the reference."""

BY_NAME: Final[Mapping[str, Metric]] = MappingProxyType({metric.name: metric for metric in METRICS})
