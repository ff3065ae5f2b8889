"""Agents that ask humans: a proxy in an environment where they can, its settings, and what the agents are told."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from support import servers
from support.humans import EXECUTOR, Humans
from support.servers import Server
from support.shield import Shield, prepared_shield, started
from support.waiting import until

DELETE = "delete from shop.settings"
WAIT = 45
ENVIRONMENT: dict[str, Any] = {"executor": EXECUTOR, "approval_wait": WAIT, "denial_memory_minutes": 0}


@contextmanager
def asking_shield(server: Server, worker_id: str) -> Iterator[Shield]:
    """A proxy in an environment where humans can be asked."""
    folder = servers.here() / f"approvals-{worker_id}-{server.major}"
    with prepared_shield(server, f"approvals_{worker_id}", folder) as shield:
        shield.write_config(ENVIRONMENT)
        with started(shield):
            yield shield


@contextmanager
def enrolled(shield: Shield) -> Iterator[Humans]:
    """The humans who can be asked."""
    humans = Humans(shield)
    humans.enrol()
    yield humans
    humans.close()


@contextmanager
def nothing_waiting(humans: Humans, shield: Shield) -> Iterator[Humans]:
    """Nothing waits before, and nothing is left waiting."""
    assert humans.waiting() == []
    shield.server.clone(shield.database)
    yield humans
    humans.end_all()
    assert until(lambda: shield.backends() == 0)


@contextmanager
def configured(shield: Shield, **settings: Any) -> Iterator[None]:
    """The environment with other settings, taken up by the running proxy."""
    reload(shield, ENVIRONMENT | settings)
    try:
        yield
    finally:
        reload(shield, ENVIRONMENT)


def reload(shield: Shield, environment: dict[str, Any]) -> None:
    before = shield.text().count("configuration reloaded")
    shield.write_config(environment)
    shield.signal(signal.SIGHUP)
    assert until(lambda: shield.text().count("configuration reloaded") > before)


def left(shield: Shield, table: str = "shop.settings") -> int:
    """The rows that the server still has."""
    with shield.server.connect(shield.database) as admin:
        row = admin.execute(f"select count(*) from {table}").fetchone()
    assert row is not None
    return int(str(row[0]))


def told_by(conn: psycopg.Connection[Any]) -> list[str]:
    """The notices that the connection gets, from now on."""
    notices: list[str] = []
    conn.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
    return notices


def detail(error: psycopg.Error, word: str) -> str:
    """What stands behind `word=` in DETAIL."""
    words = dict(pair.partition("=")[::2] for pair in (error.diag.message_detail or "").split())
    return words[word]
