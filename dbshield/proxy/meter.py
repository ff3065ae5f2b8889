"""What one worker counts of its sessions, and how it shows it. Where no metrics are wanted, every call here does nothing.

Nothing is counted a statement: the audit's batches are, several times a second. Latencies are collected in lists, which are
emptied into the histograms when the numbers are shown.
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from dbshield.control.audit import Event
from dbshield.control.audit_shipping import Shipping
from dbshield.errors import DbshieldError
from dbshield.model import AccessLevel, AgentLogin, Judgement
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.proxy.timing import TimedSession, Timing
from dbshield.proxy.verdicts import decisive
from dbshield.telemetry.counts import Counts, Series

if TYPE_CHECKING:
    from dbshield.proxy.state import WorkerState

EVERY: Final = 16
"""Of so many chunks one is timed."""
HEADS_KEPT: Final = 10_000
"""Sessions whose names are remembered between two batches; when there are more, all are read again."""
MARKS: Final = 1_000
"""Moments that are remembered for telling how old the oldest entry is; thinned out when there are more."""
STATEMENT: Final = 'Z","event":"statement",'


class Meter:
    """One for each worker; `counts` and `shipping` are given together, or no metrics are wanted."""

    def __init__(self, counts: Counts | None = None, shipping: Shipping | None = None) -> None:
        self._counts = counts
        self._shipping = shipping
        self._heads: dict[str, tuple[str, str]] = {}
        self._to_server: list[float] = []
        self._to_client: list[float] = []
        self._durable: list[float] = []
        self._caches: WeakKeyDictionary[Judge, tuple[int, int]] = WeakKeyDictionary()
        self._marks: deque[tuple[float, int]] = deque()
        self._timing = Timing(
            every=EVERY,
            to_server=self._to_server.append,
            to_client=self._to_client.append,
            durable=self._durable.append,
        )

    # -- what happens

    def statements(self, events: Sequence[Event]) -> None:
        """A batch of the audit's events; those that are no statements are passed by."""
        if self._counts is None:
            return
        judged: dict[int, Judgement] = {}
        # By identity: a judgement's own hash looks at all of its effects.
        seen: Counter[tuple[str, int]] = Counter()
        for event in events:
            if event.judgement is not None:
                judged[id(event.judgement)] = event.judgement
                seen[event.head, id(event.judgement)] += event.count
        for (head, identity), count in seen.items():
            judgement = judged[identity]
            finding = decisive(judgement)
            labels = (*self._who(head), judgement.verdict.word, finding.rule if finding is not None else "")
            self._counts.add("dbshield_statements_total", labels, count)

    def session(self) -> TimedSession | None:
        """What times a session; nothing where no metrics are wanted."""
        return TimedSession(self._timing) if self._counts is not None else None

    def began(self, login: AgentLogin) -> None:
        """A login became a session."""
        if self._counts is not None:
            self._counts.add("dbshield_logins_total", (login.environment, login.agent))

    def refused(self, stage: str) -> None:
        """A login was refused, by what the audit counts it: client, token or throttled."""
        if self._counts is not None:
            self._counts.add("dbshield_logins_refused_total", (stage,))

    def changed(self, login: AgentLogin, rows: Mapping[str, int]) -> None:
        """A transaction changed rows, by table."""
        if self._counts is not None:
            self._counts.add("dbshield_rows_changed_total", (login.environment, login.agent), sum(rows.values()))

    def upstream_failed(self, environment: str, stage: str) -> None:
        """The protected server did not let a session begin (login), or ended one (session)."""
        if self._counts is not None:
            self._counts.add("dbshield_upstream_errors_total", (environment, stage))

    # -- what is shown

    def publish(self, state: WorkerState, *, draining: bool) -> None:
        """Show how things stand now."""
        if self._counts is None or self._shipping is None:
            return
        self._take_latencies(self._counts)
        self._take_caches(self._counts, state)
        now = time.monotonic()
        self._counts.gauges(self._gauges(state, self._shipping, now))
        self._counts.publish(now, {"refuses": "the proxy is shutting down" if draining else self._refuses(state, self._shipping)})

    def _take_latencies(self, counts: Counts) -> None:
        for name, labels, seconds in (
            ("dbshield_added_latency_seconds", ("server",), self._to_server),
            ("dbshield_added_latency_seconds", ("client",), self._to_client),
            ("dbshield_durable_wait_seconds", (), self._durable),
        ):
            counts.observe(name, labels, seconds)
            # The list stays the same: every session holds its append.
            seconds.clear()

    def _take_caches(self, counts: Counts, state: WorkerState) -> None:
        """Judges come and go with policies, so what they have counted since the last look is added."""
        for environment, judge in state.judges:
            hits, misses = self._caches.get(judge, (0, 0))
            counts.add("dbshield_verdict_cache_hits_total", (environment,), judge.hits - hits)
            counts.add("dbshield_verdict_cache_misses_total", (environment,), judge.misses - misses)
            self._caches[judge] = (judge.hits, judge.misses)

    def _gauges(self, state: WorkerState, shipping: Shipping, now: float) -> dict[Series, float]:
        gauges: dict[Series, float] = {}
        for environment in state.config.environments:
            gauges["dbshield_sessions_held", (environment,)] = 0.0
        for session in state.sessions:
            who = (session.login.environment, session.login.agent)
            for series, value in (
                (("dbshield_connections", who), 1.0),
                (("dbshield_sessions_held", who[:1]), float(session.pair.waits)),
            ):
                gauges[series] = gauges.get(series, 0.0) + value
        gauges["dbshield_control_connected_workers", ()] = float(state.directory.available)
        gauges["dbshield_audit_workers", (shipping.keeping.value,)] = 1.0
        gauges["dbshield_audit_entries_behind", ()] = float(max(0, shipping.newest - shipping.arrived))
        gauges["dbshield_audit_lag_seconds", ()] = self._lag(shipping, now)
        return gauges

    def _lag(self, shipping: Shipping, now: float) -> float:
        """Seconds for which the oldest entry waits for the database, to about a look."""
        marks = self._marks
        while marks and marks[0][1] <= shipping.arrived:
            marks.popleft()
        if shipping.newest > shipping.arrived and (not marks or marks[-1][1] < shipping.newest):
            marks.append((now, shipping.newest))
            if len(marks) > MARKS:
                self._marks = deque(mark for place, mark in enumerate(marks) if place == 0 or place % 2)
        return now - self._marks[0][0] if self._marks else 0.0

    def _refuses(self, state: WorkerState, shipping: Shipping) -> str:
        """Why a login would be refused now, whoever it is; nothing where it would not be."""
        try:
            state.directory.find("")
            shipping.applied(Policy(access=AccessLevel.READ))
        except DbshieldError as error:
            return error.message
        return "" if state.audit.healthy else "the audit's file cannot be written"

    def _who(self, head: str) -> tuple[str, str]:
        """The environment and the agent of a session, from what its lines begin with."""
        found = self._heads.get(head)
        if found is None:
            if len(self._heads) >= HEADS_KEPT:
                self._heads.clear()
            fields = json.loads("{" + head.removeprefix(STATEMENT).removesuffix(",") + "}")
            found = self._heads[head] = (fields["environment"], fields["agent"])
        return found
