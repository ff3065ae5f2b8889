"""What a proxy's /metrics says, read back: rates between two looks, quantiles of a histogram. No clock: times come in."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from dbshield.errors import StoreError

TIMEOUT: Final = 10.0
"""Seconds for an answer."""
VERDICTS: Final = ("allow", "limit", "hold", "deny")

Sample = tuple[str, Mapping[str, str], float]
"""A name, its labels, its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One agent: sessions that stand, and statements a second, all and by verdict."""

    environment: str
    agent: str
    connections: int
    per_second: float
    verdicts: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Top:
    """Everything at a glance, of one proxy or of several together. Rates are per second, over `seconds`; latencies are seconds,
    None where nothing was measured."""

    seconds: float
    rows: tuple[Row, ...]
    per_second: float
    verdicts: Mapping[str, float]
    latency: tuple[float, float] | None
    """Median and 99th percentile of what the proxy adds on the way to the server."""
    durable_wait: float | None
    """Median of what a write waits for the audit."""
    cache_hits: float | None
    """Share of the statements whose verdict was known."""
    workers: tuple[int, int]
    """Those that turn, and those that there should be."""
    held_sessions: int
    audit_behind: int
    audit_lag: float
    control_database: bool
    upstreams: Mapping[str, bool]


def fetch(url: str) -> tuple[Sample, ...]:
    """The samples of one endpoint. Raises StoreError where it does not answer."""
    if not url.startswith(("http://", "https://")):
        raise StoreError(f'"{url}" is no address of metrics', hint="Write it as in http://127.0.0.1:9632/metrics.")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:  # noqa: S310  (looked at above)
            text = answer.read().decode()
        return parse(text, instance=url)
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise StoreError(
            f"{url} does not answer: {reason}", hint="Look whether the proxy runs, and at [metrics] listen in its configuration."
        ) from error


def parse(text: str, *, instance: str) -> tuple[Sample, ...]:
    """The samples of a text, with the proxy that told them as a label. Raises ValueError where it is no text of metrics."""
    return tuple(
        (sample.name, {**sample.labels, "instance": instance}, float(sample.value))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    )


def compare(before: Iterable[Sample], after: Iterable[Sample], seconds: float) -> Top:
    """What happened between two looks at the same proxies, `seconds` apart, and what holds at the second."""
    now, grown = tuple(after), _grown(before, after, seconds)
    agents = sorted({(labels["environment"], labels["agent"]) for _, labels, _ in now if "agent" in labels})
    rows = [_row(now, grown, *who) for who in agents]
    hits, misses = _sum(grown, "dbshield_verdict_cache_hits_total"), _sum(grown, "dbshield_verdict_cache_misses_total")
    latency = _buckets(grown, "dbshield_added_latency_seconds_bucket", to="server")
    middle, late = quantile(latency, 0.5), quantile(latency, 0.99)
    return Top(
        seconds=seconds,
        rows=tuple(row for row in rows if row.connections or row.per_second),
        per_second=_sum(grown, "dbshield_statements_total"),
        verdicts={word: _sum(grown, "dbshield_statements_total", verdict=word) for word in VERDICTS},
        latency=(middle, late) if middle is not None and late is not None else None,
        durable_wait=quantile(_buckets(grown, "dbshield_durable_wait_seconds_bucket"), 0.5),
        cache_hits=hits / (hits + misses) if hits + misses else None,
        workers=(int(_sum(now, "dbshield_workers")), int(_sum(now, "dbshield_workers_configured"))),
        held_sessions=int(_sum(now, "dbshield_sessions_held")),
        audit_behind=int(_sum(now, "dbshield_audit_entries_behind")),
        audit_lag=max((value for name, _, value in now if name == "dbshield_audit_lag_seconds"), default=0.0),
        control_database=all(value for name, _, value in now if name == "dbshield_control_database_up"),
        upstreams=_upstreams(now),
    )


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """The value below which a share of the observations is, as Prometheus' histogram_quantile reckons it: straight lines within a
    bucket. `buckets` are cumulative counts by upper bound. None where nothing was observed."""
    bounds = sorted(buckets)
    if not bounds or not buckets[bounds[-1]]:
        return None
    rank = share * buckets[bounds[-1]]
    low, below = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            if bound == float("inf"):
                return low
            inside = buckets[bound] - below
            return low + (bound - low) * ((rank - below) / inside if inside else 1.0)
        low, below = bound, buckets[bound]
    return low


def _upstreams(now: Iterable[Sample]) -> dict[str, bool]:
    """A server that one of several proxies cannot reach is away."""
    found: dict[str, bool] = {}
    for name, labels, value in now:
        if name == "dbshield_upstream_up":
            found[labels["environment"]] = found.get(labels["environment"], True) and bool(value)
    return found


def _row(now: Iterable[Sample], grown: Iterable[Sample], environment: str, agent: str) -> Row:
    verdicts = {
        word: _sum(grown, "dbshield_statements_total", environment=environment, agent=agent, verdict=word) for word in VERDICTS
    }
    return Row(
        environment=environment,
        agent=agent,
        connections=int(_sum(now, "dbshield_connections", environment=environment, agent=agent)),
        per_second=sum(verdicts.values()),
        verdicts=verdicts,
    )


def _grown(before: Iterable[Sample], after: Iterable[Sample], seconds: float) -> tuple[Sample, ...]:
    """How much each counter has grown a second; one that went back belongs to a proxy that was started anew."""
    was = {(name, tuple(sorted(labels.items()))): value for name, labels, value in before}
    grown = []
    for name, labels, value in after:
        if name.endswith(("_total", "_bucket")):
            old = was.get((name, tuple(sorted(labels.items()))), 0.0)
            grown.append((name, labels, (value - old if value >= old else value) / seconds))
    return tuple(grown)


def _sum(samples: Iterable[Sample], wanted: str, **labels: str) -> float:
    return sum(value for name, has, value in samples if name == wanted and labels.items() <= has.items())


def _buckets(samples: Iterable[Sample], wanted: str, **labels: str) -> dict[float, float]:
    found: dict[float, float] = {}
    for name, has, value in samples:
        if name == wanted and labels.items() <= has.items():
            bound = float(has["le"])
            found[bound] = found.get(bound, 0.0) + value
    return found
