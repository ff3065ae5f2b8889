"""The whole way with the real parts: an agent asks, a human approves on the command line, the executor runs it, and who waits
is answered."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg import errors
from support import servers
from support.asking import enrolled
from support.background import Background
from support.commands import Command
from support.humans import Humans, second_proxy
from support.servers import Server
from support.shield import SECRET, Shield, prepared_shield, started
from support.waiting import until

from dbshield.control.approval import State

pytestmark = pytest.mark.one_server(by="module")

WAIT = 50


@pytest.fixture(scope="module")
def environment(server: Server, worker_id: str) -> dict[str, Any]:
    return {"executor": server.dsn(_database(worker_id)), "approval_wait": WAIT}


@pytest.fixture(scope="module")
def shield(server: Server, worker_id: str, environment: dict[str, Any]) -> Iterator[Shield]:
    folder = servers.here() / f"executed-{worker_id}-{server.major}"
    with prepared_shield(server, _database(worker_id), folder, agents=["write"]) as shield:
        shield.write_config(environment)
        with started(shield):
            yield shield


@pytest.fixture(scope="module")
def humans(shield: Shield) -> Iterator[Humans]:
    """Where nobody is there who could decide, nobody is asked."""
    with enrolled(shield) as humans:
        yield humans


@contextmanager
def executing(shield: Shield) -> Iterator[None]:
    """The executor as a user starts it."""
    log = shield.folder / "executor.log"
    with log.open("wb") as out:
        words = ["executor", "--config", str(shield.config)]
        process = Command(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        assert until(lambda: "ready" in log.read_text() or process.poll() is not None)
        yield
    finally:
        process.terminate()
        assert process.wait(30) == 0, log.read_text()


def _database(worker_id: str) -> str:
    return f"executed_{worker_id}"


def test_approved_on_the_command_line_and_answered_on_two_proxies(
    shield: Shield, humans: Humans, environment: dict[str, Any]
) -> None:
    assert humans.phone is not None
    told: tuple[list[str], list[str]] = ([], [])
    with (
        executing(shield),
        started(second_proxy(shield, environment)) as second,
        shield.connect() as here,
        second.connect() as there,
    ):
        for conn, notices in zip((here, there), told, strict=True):
            conn.add_notice_handler(lambda notice, notices=notices: notices.append(notice.message_primary or ""))  # type: ignore[misc]
        text = "delete from shop.settings returning key"
        waits = [Background(lambda conn=conn: conn.execute(text).fetchall()) for conn in (here, there)]  # type: ignore[misc]
        # Each is told anew while it waits.
        assert until(lambda: all(told))
        asked = humans.asked()
        assert until(lambda: humans.approvals.get(asked.id).preview is not None)
        code = humans.phone.code(datetime.now(UTC))
        shield.cli("approvals", "approve", asked.id, "--person", "ann", "--code-env", SECRET, secret=code)
        assert [sorted(each.result()) for each in waits] == [[("currency",), ("theme",), ("vat",)]] * 2
        assert humans.state(asked.id) is State.DONE
        assert here.execute("select count(*) from shop.settings").fetchone() == (0,)
        # Used once: the same again is a new question, which nobody answers here.
        again = Background(lambda: here.execute(text))
        assert humans.asked().id != asked.id
        here.cancel_safe(timeout=20)
        assert isinstance(again.error(), errors.QueryCanceled)


def test_a_forged_notice_decides_nothing(shield: Shield, humans: Humans) -> None:
    """A notice is a reason to look, and what is looked at is the table, whose triggers keep to the decisions of humans."""
    with shield.connect() as conn:
        waits = Background(lambda: conn.execute("delete from shop.orders"))
        asked = humans.asked()
        with psycopg.connect(shield.server.dsn(shield.control)) as control:
            control.execute("select pg_notify('dbshield_approvals', %s)", [f"{asked.id} approved"])
        assert humans.state(asked.id) is State.WAITING
        assert not waits.done
        conn.cancel_safe(timeout=20)
        assert isinstance(waits.error(), errors.QueryCanceled)
