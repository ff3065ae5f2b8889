"""The cases and their own tools (tests/cases), which import one another by bare names, and a sender with more ways to send.

Besides what tests/cases/README.md says of steps, `send` knows `{"sql": …, "params": […], "name": "…"}` (a named prepared
statement) and `{"pipeline": ["…", …]}` (Parse, Bind and Execute of each text, and one Sync behind them all).
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo
from psycopg.pq.abc import PGconn

from support.remembered import Memory
from support.servers import CASES

sys.path.append(str(CASES))
live: Any = importlib.import_module("live")
oracle: Any = importlib.import_module("oracle")
validate: Any = importlib.import_module("validate")

SEEDED_ROLES = frozenset({"postgres", "app_owner", "reporting", "agent_read", "agent_write", "agent_migrate"})
_MEMORY = Memory()
Case = dict[str, Any]
Step = dict[str, Any]


def load(name: str) -> list[Case]:
    """The cases of one file, in its order."""
    return [json.loads(line) for line in (CASES / name).read_text().splitlines() if line.strip()]


def facts(connection: psycopg.Connection[Any]) -> Any:
    """What the oracle sees of this database and of the seed's roles."""
    return own(oracle.snapshot(_MEMORY.over(connection)), connection)


def own(seen: Any, connection: psycopg.Connection[Any]) -> Any:
    """What was seen, without what is another database's or role's: other tests make some in the same cluster meanwhile."""
    row = connection.execute("select oid::text, datname from pg_database where datname = current_database()").fetchone()
    assert row is not None
    mine: dict[str, Callable[[str], bool]] = {
        "role": lambda key: key in SEEDED_ROLES,
        "membership": lambda key: SEEDED_ROLES.issuperset(key.split("<")),
        "role setting": lambda key: key.split("/")[0] == row[0],
        "database": lambda key: key == row[1],
    }
    for kind, keep in mine.items():
        seen["facts"][kind] = {key: value for key, value in seen["facts"][kind].items() if keep(key)}
    return seen


def send(dsn: str, steps: list[Step]) -> list[str | None]:
    """Send the steps over one connection; the error of each, or None."""
    options = steps[0].get("options")
    conn = pq.PGconn.connect(make_conninfo(dsn, connect_timeout=30, **({"options": options} if options else {})).encode())
    if conn.status != pq.ConnStatus.OK:
        # Startup options may end a login; without them it is the shield itself that does not work, and stops nothing.
        assert options, conn.get_error_message()
        return [conn.get_error_message()] * len(steps)
    try:
        return [_sent(conn, step) for step in steps]
    finally:
        conn.finish()


def _sent(conn: PGconn, step: Step) -> str | None:
    try:
        if "options" in step:
            return None
        if "function" in step:
            return _text(validate.call_function(conn, step["function"], step["args"]))
        if "pipeline" in step:
            return _pipelined(conn, step["pipeline"])
        values = [value if value is None else value.encode() for value in step.get("params", ())]
        if "name" in step:
            conn.send_prepare(step["name"].encode(), step["sql"].encode())
            failed = _text(validate.outcome(conn))
            if failed is not None:
                return failed
            conn.send_query_prepared(step["name"].encode(), values)
        elif "params" in step:
            conn.send_query_params(step["sql"].encode(), values)
        else:
            conn.send_query(step["sql"].encode())
        return _text(validate.outcome(conn))
    except psycopg.OperationalError as error:
        return str(error) or "connection lost"


def _pipelined(conn: PGconn, texts: list[str]) -> str | None:
    """The first error among the answers of a pipeline."""
    failed: str | None = None
    conn.enter_pipeline_mode()
    for text in texts:
        conn.send_query_params(text.encode(), [])
    conn.pipeline_sync()
    status = None
    while status != pq.ExecStatus.PIPELINE_SYNC:
        result = conn.get_result()
        if result is None:
            if conn.status != pq.ConnStatus.OK:
                return failed or "connection lost"
            continue
        status = result.status
        if status == pq.ExecStatus.FATAL_ERROR and failed is None:
            failed = result.get_error_message()
    conn.exit_pipeline_mode()
    return failed


def _text(error: object) -> str | None:
    return None if error is None else str(error)
