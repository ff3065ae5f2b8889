"""The metrics of a real proxy by its real endpoint: what agents do is counted, what is away is said, what dies loses nothing.

The control database, and the server of one environment, are on a server that really dies, and comes back.
"""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from psycopg.conninfo import make_conninfo
from support import servers
from support.commands import run_command
from support.ports import free_port
from support.receivers import trace_receiver
from support.servers import Server
from support.shield import ENVIRONMENT, Shield, prepared_shield, started
from support.waiting import until

from dbshield.metrics import METRICS, Source

WORKERS = 2
MORTAL = "mortal"
AGENT = {"environment": ENVIRONMENT, "agent": "write"}
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Endpoint:
    """What a Prometheus and a load balancer read of a proxy."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> tuple[int, str]:
        """Status and body; status 0 where nobody answers."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def said(self, path: str) -> tuple[int, dict[str, Any]]:
        status, body = self.get(path)
        return status, json.loads(body) if body else {}

    def samples(self) -> Samples:
        status, body = self.get("/metrics")
        assert status == 200, body
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(body)
            for sample in family.samples
        }

    def sum(self, name: str, **labels: str) -> float:
        """All samples of a name that have these labels."""
        wanted = set(labels.items())
        return sum(value for (found, has), value in self.samples().items() if found == name and wanted <= set(has))

    def ready(self, environment: str = "") -> int:
        return self.get(f"/readyz?environment={environment}" if environment else "/readyz")[0]


@pytest.fixture(scope="module")
def mortal() -> Iterator[Server]:
    """It dies and comes back, with all that was committed: what it told to be kept is what a proxy goes by."""
    with servers.own_server(18, "mortal") as server:
        with server.connect() as admin:
            admin.execute("alter role all set synchronous_commit = on")
            admin.execute("checkpoint")
        yield server


@pytest.fixture(scope="module")
def shield(server18: Server, mortal: Server, worker_id: str) -> Iterator[Shield]:
    """Set up, with a control database that may die."""
    folder = servers.here() / f"measured-{worker_id}"
    with prepared_shield(
        server18,
        f"measured_{worker_id}",
        folder,
        agents=("read", "write"),
        control_server=mortal,
        workers=WORKERS,
        drain_timeout=5.0,
    ) as prepared:
        yield prepared


@pytest.fixture(scope="module")
def endpoint(shield: Shield, mortal: Server) -> Iterator[Endpoint]:
    """Of a proxy that the tests share, and leave as they found it."""
    upstream = make_conninfo("", host=str(mortal.cluster.socket_folder), port=mortal.cluster.port, user="app", dbname="postgres")
    with measured(shield, f"[environments.{MORTAL}]", f"upstream = {json.dumps(upstream)}") as running:
        yield running


@contextmanager
def measured(shield: Shield, *also: str) -> Iterator[Endpoint]:
    """The proxy while it runs and tells its metrics; `also` are further lines of its configuration."""
    port = free_port()
    shield.write_config()
    lines = [shield.config.read_text(), "[metrics]", f'listen = "127.0.0.1:{port}"', *also]
    shield.config.write_text("\n".join(lines) + "\n")
    endpoint = Endpoint(port)
    with started(shield):
        assert until(lambda: endpoint.ready() == 200), endpoint.said("/readyz")
        yield endpoint


@contextmanager
def dead(server: Server) -> Iterator[None]:
    """While the server is not there."""
    server.cluster.stop("immediate")
    try:
        yield
    finally:
        servers.start(server.major, server.cluster.folder.name)  # on the port that it had


def test_what_agents_do_is_counted_once_and_outlives_the_workers(shield: Shield, endpoint: Endpoint) -> None:
    begun = endpoint.samples()
    with shield.connect() as session:
        for _ in range(60):
            session.execute("select 1")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("delete from shop.orders")
        session.execute("update shop.orders set id = id where id = 1")
        assert until(lambda: endpoint.sum("dbshield_statements_total", **AGENT, verdict="limit") >= 1)
        assert endpoint.sum("dbshield_connections", **AGENT) == 1
    with suppress(psycopg.OperationalError):
        shield.connect(password="dbs_test_aaaaaaaaaaaa_wrong").close()
    assert until(lambda: endpoint.sum("dbshield_connections") == 0)
    assert until(lambda: endpoint.sum("dbshield_logins_refused_total", stage="client") >= 1)
    before = endpoint.samples()

    def grown(name: str, **labels: str) -> float:
        series = (name, tuple(sorted(labels.items())))
        return before[series] - begun.get(series, 0.0)

    assert grown("dbshield_statements_total", **AGENT, verdict="allow", rule="") == 60
    assert grown("dbshield_statements_total", **AGENT, verdict="hold", rule="DS201") == 1
    assert grown("dbshield_statements_total", **AGENT, verdict="limit", rule="") == 1
    assert grown("dbshield_rows_changed_total", **AGENT) == 1
    assert grown("dbshield_logins_total", **AGENT) == 1
    assert grown("dbshield_logins_refused_total", stage="client") == 1
    assert grown("dbshield_durable_wait_seconds_count") == 1
    assert grown("dbshield_added_latency_seconds_count", to="server") >= 60 // 16
    assert grown("dbshield_added_latency_seconds_count", to="client") >= 60 // 16
    assert 0 < grown("dbshield_added_latency_seconds_sum", to="server") < 60
    assert grown("dbshield_verdict_cache_hits_total", environment=ENVIRONMENT) > 0
    assert grown("dbshield_verdict_cache_misses_total", environment=ENVIRONMENT) > 0

    # Every worker dies without a word. What it counted stays, and what comes adds up.
    starts = endpoint.sum("dbshield_worker_starts_total")
    for worker in endpoint.said("/healthz")[1]["workers"]:
        os.kill(worker["pid"], signal.SIGKILL)
    assert until(lambda: endpoint.sum("dbshield_worker_starts_total") == starts + WORKERS)
    assert until(lambda: endpoint.sum("dbshield_workers") == WORKERS)
    after = endpoint.samples()
    grows = ("_total", "_count", "_sum", "_bucket")
    assert {one: value for one, value in before.items() if one[0].endswith(grows) and after.get(one, -1.0) < value} == {}
    with shield.connect() as session:
        session.execute("select 1")
    allowed = before["dbshield_statements_total", tuple(sorted({**AGENT, "verdict": "allow", "rule": ""}.items()))]
    assert until(lambda: endpoint.sum("dbshield_statements_total", **AGENT, verdict="allow") == allowed + 1)


def test_ready_tells_the_truth_when_databases_die(shield: Shield, mortal: Server, endpoint: Endpoint) -> None:
    # A look at a server may be late, and is then not told as one that succeeded.
    assert until(lambda: endpoint.ready(MORTAL) == 200)
    assert until(lambda: endpoint.said("/readyz")[1]["environments"][MORTAL] == "answers")
    assert endpoint.said("/readyz")[1]["control_database"] == "answers"
    with dead(mortal):
        # Fifteen minutes from memory: a login is served, and so it is ready, and says what it lacks.
        assert until(lambda: endpoint.said("/readyz")[1]["control_database"] == "away")
        assert until(lambda: endpoint.ready(MORTAL) == 503)
        assert endpoint.sum("dbshield_upstream_up", environment=MORTAL) == 0
        assert until(lambda: endpoint.ready(ENVIRONMENT) == endpoint.ready() == 200)
        with shield.connect() as session:
            assert session.execute("select 1").fetchone() == (1,)
            # Kept on disk meanwhile, and so not in the database.
            assert until(lambda: endpoint.sum("dbshield_audit_entries_behind") > 0)
        assert until(lambda: endpoint.sum("dbshield_audit_lag_seconds") > 0)
        assert until(lambda: endpoint.sum("dbshield_audit_workers", keeping="disk") == WORKERS)
        # Absent, which is not 0: nobody knows.
        assert until(lambda: endpoint.sum("dbshield_control_database_up") == 0)
        known = {name for name, _ in endpoint.samples()}
        assert known.isdisjoint(metric.name for metric in METRICS if metric.source is Source.CONTROL)
        assert endpoint.get("/healthz")[0] == 200
    assert until(lambda: endpoint.ready(MORTAL) == 200)
    assert until(lambda: endpoint.said("/readyz")[1]["control_database"] == "answers")
    assert until(lambda: endpoint.sum("dbshield_audit_entries_behind") == 0)
    assert until(lambda: "dbshield_approvals_waiting" in {name for name, _ in endpoint.samples()})
    assert endpoint.ready("nowhere") == 404


def test_a_proxy_that_may_serve_nobody_is_not_ready_and_yet_healthy(shield: Shield, mortal: Server) -> None:
    strict = shield.twin()
    with measured(strict, "[audit]", 'when_away = "stop"') as endpoint:
        with dead(mortal):
            # As long as one worker has not noticed, a login is served.
            assert until(lambda: "audit" in (endpoint.said("/readyz")[1]["why"] or ""))
            assert endpoint.said("/readyz")[1]["ready"] is False
            assert endpoint.ready() == 503
            with pytest.raises(psycopg.OperationalError):
                strict.connect().close()
            assert endpoint.get("/healthz")[0] == 200
        assert until(lambda: endpoint.ready() == 200)
        # Ready is a proxy of which one worker serves, and a login may come to another one.
        assert until(lambda: endpoint.said("/readyz")[1]["workers"]["serving"] == WORKERS)
        strict.connect().close()


def test_a_worker_that_hangs_is_not_healthy(endpoint: Endpoint) -> None:
    pid = endpoint.said("/healthz")[1]["workers"][0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert until(lambda: endpoint.get("/healthz")[0] == 503)
        # The other worker serves.
        assert until(lambda: endpoint.ready() == 200)
        assert endpoint.sum("dbshield_workers") == WORKERS - 1
    finally:
        os.kill(pid, signal.SIGCONT)
    assert until(lambda: endpoint.get("/healthz")[0] == 200)


def test_a_server_that_closes_a_session_is_counted(server18: Server, shield: Shield, endpoint: Endpoint) -> None:
    before = endpoint.sum("dbshield_upstream_errors_total", environment=ENVIRONMENT, stage="session")
    with shield.connect() as session:
        session.execute("select 1")
        with server18.connect(shield.database) as admin:
            admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'agent_write' and datname = %s",
                [shield.database],
            )
        with pytest.raises(psycopg.OperationalError):
            session.execute("select 1")
    assert until(lambda: endpoint.sum("dbshield_upstream_errors_total", environment=ENVIRONMENT, stage="session") == before + 1)


def test_every_metric_is_told_and_nothing_else(endpoint: Endpoint) -> None:
    families = {family.name: family for family in text_string_to_metric_families(endpoint.get("/metrics")[1])}
    assert set(families) == {metric.name.removesuffix("_total") for metric in METRICS}
    for metric in METRICS:
        family = families[metric.name.removesuffix("_total")]
        assert family.type == metric.kind.value
        assert family.documentation == metric.help
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels), sample


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
def test_a_name_that_somebody_points_here_is_told_nothing(endpoint: Endpoint, path: str) -> None:
    request = urllib.request.Request(endpoint.url + path, headers={"Host": "rebound.example"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=60)
    with caught.value as answer:
        assert answer.code == 421
        assert ENVIRONMENT not in answer.read().decode()


def test_top_says_what_happens(shield: Shield, endpoint: Endpoint) -> None:
    # Workers tell once a second: of sessions before this one too, and the control database may have been away.
    assert until(lambda: endpoint.sum("dbshield_connections") == 0)
    assert until(lambda: endpoint.sum("dbshield_control_database_up") == 1)
    with shield.connect() as session:
        session.execute("select 1")
        assert until(lambda: endpoint.sum("dbshield_connections", **AGENT) == 1)
        words = ["top", "--once", "--interval", "0.2", "--config", str(shield.config)]
        text = run_command(words, env={"PATH": os.environ["PATH"]})
        assert text.returncode == 0, text.stderr
        assert f"workers:    {WORKERS} of {WORKERS}" in text.stdout
        assert f"write.{ENVIRONMENT}" in text.stdout
        assert "\x1b" not in text.stdout
        seen = json.loads(run_command([*words, "--json"], env={"PATH": os.environ["PATH"]}).stdout)
        assert seen["control_database"] is True
        assert seen["held"] == []
        assert [(row["agent"], row["connections"]) for row in seen["rows"]] == [("write", 1)]


def test_a_collector_gets_a_span_for_each_statement_and_no_literal(shield: Shield) -> None:
    traced = shield.twin()
    with trace_receiver() as receiver:
        with (
            measured(traced, "[tracing]", f'endpoint = "http://127.0.0.1:{receiver.port}/v1/traces"'),
            traced.connect(application_name="app") as session,
        ):
            session.execute("select id from shop.orders where id = 987654321")
            session.execute("update shop.orders set total = total where id = 987654321")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute("delete from shop.orders")
        # The proxy has ended, and sent what was left.
        spans = sorted(receiver.spans, key=lambda span: span.start)
    assert [(span.name, span.attributes["dbshield.verdict"]) for span in spans] == [
        ("read shop.orders", "allow"),
        ("update shop.orders", "limit"),
        ("delete shop.orders", "hold"),
    ]
    read, written, stopped = spans
    for span in spans:
        assert span.attributes["db.system.name"] == "postgresql"
        assert span.attributes["db.namespace"] == traced.database
        assert (span.attributes["dbshield.environment"], span.attributes["dbshield.agent"]) == (ENVIRONMENT, "write")
        assert span.start < span.events["forwarded"] < span.end
        assert 0 < float(str(span.attributes["dbshield.added_seconds"])) < (span.end - span.start) / 1e9
    assert read.attributes["db.query.text"] == "select id from shop.orders where id = $1"
    assert stopped.attributes["dbshield.rules"] == ("DS201",)
    assert (read.failed, written.failed, stopped.failed) == (False, False, True)
    assert b"987654321" not in receiver.bodies
    assert str(traced.parameters("write")["password"]).encode() not in receiver.bodies
