"""Scaled out: two proxies behind HAProxy, two executors, two schedulers, one control PostgreSQL; each is killed under load.

Agents connect anew. What was acknowledged is there, once; what a human approved runs once or not at all, and the approval says
which; what is due runs once; the audit is one whole chain that has every write.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psutil
import psycopg
import pytest
from support import servers
from support.background import Background
from support.balanced import Balanced
from support.company import Company, Place
from support.roles import keep_to_itself
from support.servers import Server
from support.waiting import until

ENVIRONMENT, DATABASE, CONTROL = "production", "scaled", "scaled_control"
AGENT, WRITERS = "claude", 4
COUNT = "update shop.tally set n = n + 1"
"""Without a condition, so a human decides; that it ran twice would show."""
JOB = f"guard-verify {ENVIRONMENT}"
SCHEDULED = """
    insert into dbshield.schedule_jobs (name, kind, target, environment, scheduled_by, cron, zone, since)
    values (%s, 'guard-verify', %s, %s, 'main', '0 0 1 * *', 'UTC', now() - interval '40 days')
    on conflict (name) do update set since = excluded.since
"""
"""As if it had been scheduled forty days ago: a time was missed."""

pytestmark = [pytest.mark.needs("haproxy"), pytest.mark.one_server]


@pytest.fixture(scope="module")
def control() -> Iterator[Server]:
    """It dies and comes back."""
    with servers.own_server(18, "scaled-control") as server:
        with server.connect() as admin:
            admin.execute(f"create database {CONTROL}")
        yield server


@pytest.fixture(scope="module")
def site(control: Server) -> Iterator[Balanced]:
    with servers.own_server(18, "scaled") as server:
        keep_to_itself(server)
        settings = {
            "administrator": server.dsn(DATABASE),
            "approval_wait": 300.0,
            "execution_lock_timeout": 120.0,
            "max_rows_per_hour": 0,
            "freeze_after_refusals": 0,
        }
        place = Place(server=server, database=DATABASE, settings=settings)
        place.prepare()
        with server.connect(DATABASE) as conn:
            conn.execute("create table shop.ledger (writer int not null, number int not null)")
            conn.execute("create table shop.tally (n int not null)")
            conn.execute("insert into shop.tally values (0)")
            conn.execute("alter table shop.ledger owner to app_owner")
            conn.execute("alter table shop.tally owner to app_owner")
        company = Company(servers.here() / f"{server.cluster.folder.name}-company", control.dsn(CONTROL), {ENVIRONMENT: place})
        balanced = Balanced(company, control)
        company.set_up("ann")
        company.agent(AGENT, "write", ENVIRONMENT)
        yield balanced


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("rounds", [1, pytest.param(5, marks=pytest.mark.long)])
def test_each_part_is_killed_in_turn_under_load(site: Balanced, rounds: int) -> None:
    before = tally(site)
    answered = Counter[str]()
    with site.running():
        with site.load(AGENT, WRITERS):
            for _ in range(rounds):
                for _ in site.company.ports:
                    the_busier_proxy_dies(site)
                answered[the_proxy_of_a_waiting_agent_dies(site)] += 1
                answered[an_executor_dies_in_a_statement(site)] += 1
                the_leading_scheduler_dies(site)
                the_control_database_dies(site)
        nothing_is_lost_or_done_twice(site)
        assert answered["done"] >= rounds
        assert tally(site) == before + answered["done"]
        assert states(site) == ["done"]
        the_audit_is_whole(site)


def the_busier_proxy_dies(site: Balanced) -> None:
    """Its agents have an error, and are at the other one when they connect anew."""
    [(machine, _)] = site.sessions().most_common(1)
    lost = sum(agent.lost for agent in site.agents)
    site.kill(f"proxy-{machine}")
    site.worked(f"after proxy {machine} was killed")
    assert sum(agent.lost for agent in site.agents) > lost, "its agents noticed"
    site.start(f"proxy-{machine}")
    site.serving()


def ask(site: Balanced, told: list[str], port: int) -> Background[str | None]:
    """An agent that asks for what a human has to decide, and waits; what it is told meanwhile is put to `told`."""

    def wait() -> str | None:
        with site.company.connect(AGENT, port=port, connect_timeout=60) as conn:
            conn.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
            return conn.execute(COUNT.encode()).statusmessage

    return Background(wait)


def the_proxy_of_a_waiting_agent_dies(site: Balanced) -> str:
    """The agent asks again through the other one, waits for the same approval, and has its answer; it ran once."""
    told: list[str] = []
    waits = ask(site, told, site.company.ports[0])
    asked = site.company.asked(previewed=True)
    site.kill("proxy-0")
    assert isinstance(waits.error(), psycopg.OperationalError)
    told.clear()
    again = ask(site, told, site.port)
    assert until(lambda: any(asked["id"] in notice for notice in told)), f"it does not wait for {asked['id']}: {told}"
    assert site.company.decide("approvals", "approve", asked["id"], "--wait")["state"] == "done"
    assert again.result() == "UPDATE 1"
    site.start("proxy-0")
    site.serving()
    return site.company.state(asked["id"])


def an_executor_dies_in_a_statement(site: Balanced) -> str:
    """It has begun and waits for a lock. The other one finds out that nothing came of it, says so, and runs nothing again."""
    place = site.company.places[ENVIRONMENT]
    told: list[str] = []
    waits = ask(site, told, site.port)
    asked = site.company.asked(previewed=True)
    with place.server.connect(DATABASE) as holder, place.server.connect(DATABASE) as admin:
        holder.autocommit = False
        holder.execute("lock table shop.tally in access exclusive mode")
        site.company.decide("approvals", "approve", asked["id"])
        query = "select client_port from pg_stat_activity where wait_event_type = 'Lock' and usename = 'team_executor'"
        found: list[Any] = []
        assert until(lambda: found.extend(admin.execute(query).fetchall()) or found), site.said()  # type: ignore[func-returns-value]
        [(port,)] = found
        dying = next(name for name in ("executor-0", "executor-1") if port in ports_of(site.parts[name].pid))
        site.kill(dying)
        holder.rollback()
    assert until(lambda: site.company.state(asked["id"]) in {"done", "failed"}, deadline=120), site.said()
    state = site.company.state(asked["id"])
    error = waits.error()
    assert (error is None) == (state == "done")
    site.start(dying)
    return state


def ports_of(pid: int) -> set[int]:
    """Its own ends of its TCP connections."""
    return {connection.laddr.port for connection in psutil.Process(pid).net_connections("tcp")}


def the_leading_scheduler_dies(site: Balanced) -> None:
    """It has run what was due. The other one leads, looks at what is due, and does not run it again."""
    assert until(lambda: leader(site) is not None), site.said()
    first = leader(site)
    assert first is not None
    with psycopg.connect(site.company.control) as conn:
        conn.execute("delete from dbshield.schedule_runs")
        conn.execute(SCHEDULED, [JOB, ENVIRONMENT, ENVIRONMENT])
    site.signal(first, signal.SIGHUP)
    assert until(lambda: states(site) == ["done"], deadline=120), site.said()
    site.kill(first)
    assert until(lambda: leader(site) not in {None, first}, deadline=60), site.said()
    site.start(first)
    assert until(lambda: first in schedulers(site), deadline=60), site.said()


LEADS = "pid in (select pid from pg_locks where locktype = 'advisory' and granted)"


def schedulers(site: Balanced, condition: str = "true") -> list[str]:
    """Those that are connected to the control database, by their names here."""
    query = f"select application_name from pg_stat_activity where application_name like 'dbshield scheduler %' and {condition}"
    with psycopg.connect(site.company.control) as conn:
        found = {str(name).split("/")[-2] for (name,) in conn.execute(query.encode()).fetchall()}
    return [name for name in ("scheduler-0", "scheduler-1") if str(site.parts[name].pid) in found]


def leader(site: Balanced) -> str | None:
    return next(iter(schedulers(site, LEADS)), None)


def states(site: Balanced) -> list[str]:
    with psycopg.connect(site.company.control) as conn:
        found = conn.execute("select state from dbshield.schedule_runs where job = %s order by id", [JOB]).fetchall()
    return [str(state) for (state,) in found]


def the_control_database_dies(site: Balanced) -> None:
    """Reads go on; writes are refused, since nobody could tell afterwards that they were; and go on when it is back."""
    pid = site.control.cluster.pid
    assert pid is not None
    children = psutil.Process(pid).children()
    site.control.cluster.kill()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has noticed, and is gone already
            child.kill()
    assert until(lambda: all(agent.refused + agent.lost for agent in site.agents if agent.writes))
    site.worked("while the control database was away", writers=False)
    servers.start(site.control.major, site.control.cluster.folder.name)
    site.worked("after the control database came back")
    assert until(lambda: leader(site) is not None, deadline=60), site.said()
    assert [name for name, process in site.parts.items() if process.poll() is not None] == [], site.said()


def nothing_is_lost_or_done_twice(site: Balanced) -> None:
    place = site.company.places[ENVIRONMENT]
    with place.server.connect(DATABASE) as conn:
        rows = Counter(conn.execute("select writer, number from shop.ledger").fetchall())
    for agent in site.agents:
        if agent.writes:
            assert [number for number in agent.acknowledged if rows[agent.number, number] != 1] == []
    assert max(rows.values()) == 1
    assert sum(agent.connected for agent in site.agents) > len(site.agents), "agents connected anew"


def the_audit_is_whole(site: Balanced) -> None:
    """It has every write that was acknowledged, in one chain."""
    verified = site.company.run("audit", "verify", "--json")
    assert verified.returncode == 0, verified.stdout
    told: dict[str, Any] = json.loads(verified.stdout)
    assert (told["verdict"], told["faults"]) == ("whole", [])
    query = "select count(*) from dbshield.audit where kind = 'statement' and verdict <> 'deny' and entry like '%shop.ledger%'"
    with psycopg.connect(site.company.control) as conn:
        [(entries,)] = conn.execute(query).fetchall()
    assert entries >= sum(len(agent.acknowledged) for agent in site.agents if agent.writes)


def tally(site: Balanced) -> int:
    with site.company.places[ENVIRONMENT].server.connect(DATABASE) as conn:
        [(count,)] = conn.execute("select n from shop.tally").fetchall()
    return int(str(count))
