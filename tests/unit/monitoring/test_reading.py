"""What is reckoned from two looks at the metrics."""

from __future__ import annotations

import math

import pytest

from dbshield.errors import StoreError
from dbshield.metrics import LATENCY_BUCKETS
from dbshield.monitoring.exposition import BOUNDS, exposed
from dbshield.monitoring.reading import Sample, compare, fetch, parse, quantile
from dbshield.telemetry.counts import Histogram, Series

WHO = ("production", "claude")


def told(statements: float, *, held: float = 0.0, lag: float = 0.0, seconds: tuple[float, ...] = ()) -> str:
    """The text of a proxy with one agent."""
    values: dict[Series, float] = {
        ("dbshield_statements_total", (*WHO, "allow", "")): statements,
        ("dbshield_statements_total", (*WHO, "hold", "DS201")): held,
        ("dbshield_connections", WHO): 3.0,
        ("dbshield_workers", ()): 2.0,
        ("dbshield_workers_configured", ()): 2.0,
        ("dbshield_control_database_up", ()): 1.0,
        ("dbshield_audit_entries_behind", ()): 5.0,
        ("dbshield_audit_lag_seconds", ()): lag,
        ("dbshield_verdict_cache_hits_total", ("production",)): statements,
        ("dbshield_verdict_cache_misses_total", ("production",)): held,
        ("dbshield_upstream_up", ("production",)): 1.0,
    }
    histogram = Histogram()
    for one in seconds:
        histogram.observe(one)
    return exposed(values, {("dbshield_added_latency_seconds", ("server",)): histogram}, "")[0].decode()


def looked(text: str, instance: str = "proxy") -> tuple[Sample, ...]:
    return parse(text, instance=instance)


def test_bounds_are_the_buckets_as_text() -> None:
    assert tuple(map(float, BOUNDS)) == (*LATENCY_BUCKETS, math.inf)


def test_rates_are_between_two_looks() -> None:
    seen = compare(looked(told(100, held=1)), looked(told(140, held=3, seconds=(0.000_03,) * 98 + (0.7, 0.7))), 2.0)
    assert seen.per_second == 21.0
    assert seen.verdicts == {"allow": 20.0, "limit": 0.0, "hold": 1.0, "deny": 0.0}
    (row,) = seen.rows
    assert (row.environment, row.agent, row.connections, row.per_second) == (*WHO, 3, 21.0)
    assert seen.cache_hits == pytest.approx(40 / 42)
    assert (seen.workers, seen.audit_behind, seen.upstreams) == ((2, 2), 5, {"production": True})
    assert seen.latency is not None
    assert 0.000_02 < seen.latency[0] <= 0.000_05
    assert 0.5 < seen.latency[1] <= 1.0
    assert seen.durable_wait is None


def test_several_proxies_are_added_up_and_the_worst_lag_is_told() -> None:
    before = looked(told(100), "a") + looked(told(5_000), "b")
    # The second was started anew.
    after = looked(told(110, lag=3.0), "a") + looked(told(60, lag=9.0), "b")
    seen = compare(before, after, 1.0)
    assert seen.per_second == 70.0
    assert [(row.connections, row.per_second) for row in seen.rows] == [(6, 70.0)]
    assert seen.audit_lag == 9.0


def test_a_proxy_that_was_started_anew_begins_at_nothing() -> None:
    assert compare(looked(told(1000)), looked(told(8)), 4.0).per_second == 2.0


def test_quantiles_are_those_of_prometheus() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({1.0: 0.0, math.inf: 0.0}, 0.5) is None
    assert quantile({1.0: 0.0, 2.0: 10.0, math.inf: 10.0}, 0.5) == 1.5
    assert quantile({1.0: 10.0, 2.0: 20.0, math.inf: 20.0}, 0.25) == 0.5
    assert quantile({1.0: 10.0, math.inf: 20.0}, 0.99) == 1.0


def test_what_is_no_proxy_is_said_so() -> None:
    with pytest.raises(StoreError, match="is no address"):
        fetch("file:///etc/passwd")
    with pytest.raises(StoreError, match="does not answer"):
        fetch("http://127.0.0.1:1/metrics")
