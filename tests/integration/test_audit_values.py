"""The values that drivers bind: in the audit with statements = "full", and nowhere at all otherwise."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from support import servers
from support.servers import Server
from support.shield import Shield, prepared_shield, started
from support.waiting import until

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


def configure(shield: Shield, mode: str, other: str = "") -> None:
    shield.write_config()
    shield.config.write_text(f'{shield.config.read_text()}[audit]\nstatements = "{mode}"\n{other}\n[log]\nlevel = "debug"\n')


def newest(shield: Shield) -> int:
    """The newest entry's number."""
    with psycopg.connect(shield.server.dsn(shield.control)) as control:
        (found,) = control.execute("select coalesce(max(id), 0) from dbshield.audit").fetchone() or (0,)
    return int(found)


def entries(shield: Shield, after: int) -> list[dict[str, Any]]:
    """The entries of statements behind this one."""
    with psycopg.connect(shield.server.dsn(shield.control)) as control:
        links = control.execute("select entry from dbshield.audit where id > %s order by id", [after]).fetchall()
    return [entry for (text,) in links if (entry := json.loads(text))["event"] == "statement"]


def worked(shield: Shield, mode: str) -> tuple[list[dict[str, Any]], str]:
    """What the audit has of an agent's work in this mode, and all that was written anywhere meanwhile."""
    audit = shield.folder / "state" / "audit.jsonl"
    audit.unlink(missing_ok=True)
    before = newest(shield)
    configure(shield, mode)
    with started(shield), shield.connect() as agent:
        for prepare in (False, True, True):
            agent.execute(STATEMENT, [SECRET, 42, SECRET, None], prepare=prepare)
        query = "select count(*) from shop.notes where secret = %s"
        assert agent.execute(query, [SECRET], prepare=True).fetchone() is not None
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            agent.execute("delete from shop.notes where 'x' = %s or true", [SECRET])
    with psycopg.connect(shield.server.dsn(shield.control)) as control:
        links = control.execute("select entry from dbshield.audit where id > %s order by id", [before]).fetchall()
    written = audit.read_text()
    assert all(json.loads(line)["ts"] for line in written.splitlines())
    return entries(shield, before), written + shield.text() + "".join(entry for (entry,) in links)


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
    assert inserts[0]["parameters"] in [line["entry"]["parameters"] for line in exported]
    tail = [json.loads(line) for line in shield.cli("audit", "tail", "-n", "100", "--json").splitlines()]
    assert inserts[0]["parameters"] in [line["entry"]["parameters"] for line in tail if "parameters" in line["entry"]]


def reload(shield: Shield, mode: str, other: str = "") -> None:
    """SIGHUP with this mode, and wait until it has been taken."""
    before = shield.text().count("configuration reloaded")
    configure(shield, mode, other)
    shield.signal(signal.SIGHUP)
    assert until(lambda: shield.text().count("configuration reloaded") > before)


def test_a_reload_changes_at_once_what_is_shown(shield: Shield) -> None:
    """Also in a session that stands, and of what it has prepared: somebody has seen there what nobody may see."""
    query = "select who, 'hunter3' from shop.notes where secret = %s"

    def work(*sessions: psycopg.Connection[Any]) -> list[dict[str, Any]]:
        """What the audit has of one write and one read in each, the write by a text with a constant."""
        before = newest(shield)
        for agent in sessions:
            agent.execute("insert into shop.notes values ('hunter3', %s, %s, null)", [1, SECRET], prepare=True)
            agent.execute(query, [SECRET], prepare=True)
        # The entry of a write is there before it runs, and what came before it as well.
        sessions[0].execute("delete from shop.notes where who = 'nobody'")
        return [entry for entry in entries(shield, before) if "shop.notes" in str(entry["effects"])][: 2 * len(sessions)]

    configure(shield, "full")
    with started(shield), shield.connect() as standing:
        for entry in work(standing):
            assert "hunter3" in entry["statement"]
            assert SECRET in str(entry["parameters"])
        for mode in ("redacted", "none"):
            reload(shield, mode)
            with shield.connect() as new:
                found = work(standing, new)
            assert len(found) == 4
            assert not any("hunter" in json.dumps(entry) or "parameters" in entry for entry in found)
            assert {entry["statement"] is None for entry in found} == {mode == "none"}
        reload(shield, "full")
        with shield.connect() as new:
            assert all(SECRET in str(entry["parameters"]) for entry in work(new))
            assert all("hunter3" in entry["statement"] for entry in work(standing))
        assert "at the next start" not in shield.text()
        reload(shield, "redacted", "retention_days = 30")
        (told,) = [line for line in shield.text().splitlines() if "at the next start" in line]
        assert "audit.retention_days" in told
        assert "statements" not in told
