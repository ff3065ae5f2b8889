"""The values that drivers bind: in the audit with statements = "full", and nowhere at all otherwise."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from support import servers
from support.servers import Server
from support.shield import Shield, prepared_shield, started

pytestmark = pytest.mark.one_server
SECRET = "hunter2 of ann"
STATEMENT = "insert into shop.notes values (%s, %b, %b, %s)"


@pytest.fixture(scope="module")
def shield(server18: Server, worker_id: str) -> Iterator[Shield]:
    folder = servers.here() / f"values-{worker_id}"
    with prepared_shield(server18, f"values_{worker_id}", folder, agents=("write",)) as prepared:
        with server18.connect(prepared.database) as admin:
            admin.execute("create table shop.notes (who text, number int4, secret text, nothing text)")
            admin.execute("grant select, insert, delete on shop.notes to agent_write")
        yield prepared


def worked(shield: Shield, mode: str) -> tuple[list[dict[str, Any]], str]:
    """What the audit has of an agent's work in this mode, and all that was written anywhere meanwhile."""
    audit = shield.folder / "state" / "audit.jsonl"
    audit.unlink(missing_ok=True)
    with psycopg.connect(shield.server.dsn(shield.control), autocommit=True) as control:
        (before,) = control.execute("select coalesce(max(id), 0) from dbshield.audit").fetchone() or (0,)
        shield.write_config()
        shield.config.write_text(f'{shield.config.read_text()}[audit]\nstatements = "{mode}"\n[log]\nlevel = "debug"\n')
        with started(shield), shield.connect() as agent:
            for prepare in (False, True, True):
                agent.execute(STATEMENT, [SECRET, 42, SECRET, None], prepare=prepare)
            query = "select count(*) from shop.notes where secret = %s"
            assert agent.execute(query, [SECRET], prepare=True).fetchone() is not None
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                agent.execute("delete from shop.notes where 'x' = %s or true", [SECRET])
        links = control.execute("select entry from dbshield.audit where id > %s order by id", [before]).fetchall()
    entries = [json.loads(entry) for (entry,) in links]
    written = audit.read_text()
    assert all(json.loads(line)["ts"] for line in written.splitlines())
    found = [entry for entry in entries if entry["event"] == "statement"]
    return found, written + shield.text() + "".join(entry for (entry,) in links)


@pytest.mark.parametrize("mode", ["redacted", "none"])
def test_a_value_is_nowhere_unless_it_is_wanted(shield: Shield, mode: str) -> None:
    found, everything = worked(shield, mode)
    assert len(found) >= 5
    assert not any("parameters" in entry for entry in found)
    for secret in (SECRET, "hunter2", SECRET.encode().hex()):
        assert secret not in everything


def test_values_stand_with_their_statements_where_they_are_wanted(shield: Shield) -> None:
    found, everything = worked(shield, "full")
    inserts = [entry for entry in found if entry["statement"].startswith("insert")]
    assert len(inserts) == 3, "one for each execution, prepared or not"
    binary = {"binary": SECRET.encode().hex(), "type": 25}
    for entry in inserts:
        assert entry["statement"] == "insert into shop.notes values ($1, $2, $3, $4)"
        who, number, secret, nothing = entry["parameters"]
        assert (who, secret, nothing) == (SECRET, binary, None)
        assert int(number["binary"], 16) == 42
        assert number["type"] in {20, 21, 23}
    (read,) = [entry for entry in found if entry["statement"].startswith("select count")]
    assert read["parameters"] == [SECRET]
    assert SECRET not in shield.text(), "the audit is no log"
    assert SECRET in everything
    text = shield.cli("audit", "search", "--text", SECRET)
    assert f"$1 = '{SECRET}', $2 = '\\x" in text
    assert "$4 = NULL" in text
    exported = [json.loads(line) for line in shield.cli("audit", "export", "--text", SECRET).splitlines()]
    assert exported[0]["entry"]["parameters"] == inserts[0]["parameters"]
    tail = [json.loads(line) for line in shield.cli("audit", "tail", "-n", "100", "--json").splitlines()]
    assert [line["entry"]["parameters"] for line in tail if "parameters" in line["entry"]][:1] == [inserts[0]["parameters"]]
