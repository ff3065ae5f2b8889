"""The key that seals stored secrets is exchanged: on a proxy that runs, with a crash between any two steps, and not by halves."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.control import ENVIRONMENTS, NOW
from support.people import enrol
from support.shield import Shield

from dbshield.control import audit_read, key_file, key_rotation
from dbshield.control.agents import Agents
from dbshield.control.key_file import key_name
from dbshield.control.people import People
from dbshield.control.vault import Vault, password_identity
from dbshield.errors import ConfigError, StoreError
from dbshield.model import AccessLevel
from dbshield.store.database import Database


class Desk:
    """A control database with an agent's password and a person, sealed with the key of a file."""

    def __init__(self, database: Database, dsn: str, folder: Path) -> None:
        self.database, self.dsn = database, dsn
        self.path = folder / "secret.key"
        vault = Vault.create(self.path)
        agents = Agents(database, ENVIRONMENTS, lambda: Vault.load(self.path))
        agents.create(
            name="claude",
            environment="staging",
            access=AccessLevel.WRITE,
            now=NOW,
            by="test",
            role="agent_claude",
            role_password="hunter2",
        )
        self.phone = enrol(People(database, vault), "ann", NOW)
        self.moment = NOW

    def opens(self) -> bool:
        """Whether the file opens everything, as whoever starts now reads it."""
        vault = Vault.load(self.path)
        with psycopg.connect(self.dsn) as connection:
            [(number, sealed)] = connection.execute("select id, sealed_password from dbshield.agents").fetchall()
        self.moment += timedelta(minutes=1)
        with self.database.transaction() as connection:
            wrong = People(self.database, vault).verify(connection, "ann", self.phone.code(self.moment), now=self.moment)
        return not wrong and vault.unseal(bytes(sealed), identity=password_identity(number)) == "hunter2"

    @property
    def step(self) -> str:
        return key_rotation.look(self.database, self.path).step

    def rotate(self) -> int:
        return key_rotation.rotate(self.database, self.path, now=NOW, by="ann")

    def sealed(self) -> list[Any]:
        with psycopg.connect(self.dsn) as connection:
            query = "select sealed_password from dbshield.agents union all select sealed_totp from dbshield.people"
            return connection.execute(query).fetchall()


@pytest.fixture
def desk(control: Database, control_dsn: str, tmp_path: Path) -> Desk:
    return Desk(control, control_dsn, tmp_path)


pytestmark = pytest.mark.one_server


def test_each_step_leaves_everything_open_and_what_was_signed_trusted(desk: Desk) -> None:
    old = Vault.load(desk.path)
    signed = audit_read.checkpoint(desk.database, old)
    assert (desk.step, desk.opens()) == ("idle", True)
    with pytest.raises(ConfigError, match="no next key is prepared"):
        desk.rotate()
    key_rotation.prepare(desk.path)
    assert (desk.step, desk.opens()) == ("prepared", True)
    assert key_rotation.prepare(desk.path) == key_file.read(desk.path), "a second time is the same next key"
    assert desk.rotate() == 2
    assert (desk.step, desk.opens()) == ("rotated", True)
    now = Vault.load(desk.path)
    assert now.name != old.name
    assert {bytes(sealed)[1:5] for (sealed,) in desk.sealed()} == {now.name}
    assert not signed.is_signed_by(audit_read.public_key(now))
    assert any(signed.is_signed_by(key) for key in audit_read.public_keys(now))
    assert key_rotation.retire(desk.database, desk.path, now=NOW, by="ann") == (old.name.hex(),)
    assert (desk.step, desk.opens()) == ("idle", True)
    assert key_rotation.retire(desk.database, desk.path, now=NOW, by="ann") == ()
    assert audit_read.public_keys(Vault.load(desk.path)) == (audit_read.public_key(now),)
    [rotated] = audit_read.stream(desk.database, audit_read.Filter(kind="key-rotated"))
    told = json.loads(rotated.entry)
    assert signed.is_signed_by(told["old_public_key"]), "who has the audit has the old public key"
    assert (told["person"], told["old"], told["new"], told["secrets"]) == ("ann", old.name.hex(), now.name.hex(), 2)


def test_a_crash_behind_the_transaction_is_gone_on_from(desk: Desk) -> None:
    """The database has been exchanged and the file not: as by a kill between the two."""
    before = key_file.read(desk.path)
    ring = key_rotation.prepare(desk.path)
    key_file.staged(desk.path, ring.switched())
    key_rotation.reseal(desk.database, ring, ring.switched(), now=NOW, by="ann")
    assert (desk.step, desk.opens()) == ("sealed", True)
    assert key_file.read(desk.path).current == before.current
    # Somebody stores another secret meanwhile, with the key that the file has.
    agents = Agents(desk.database, ENVIRONMENTS, lambda: Vault.load(desk.path))
    [claude] = agents.list_agents(now=NOW)
    agents.change_role_password(claude, "hunter2", now=NOW, by="test")
    assert desk.opens()
    assert desk.rotate() == 1
    assert (desk.step, desk.opens()) == ("rotated", True)
    assert [each.name for each in desk.path.parent.iterdir()] == ["secret.key"]


def test_what_an_old_key_sealed_afterwards_keeps_that_key_in_the_file(desk: Desk) -> None:
    """By a machine that had no copy of the new file yet."""
    stale = Vault.load(desk.path)
    key_rotation.prepare(desk.path)
    desk.rotate()
    agents = Agents(desk.database, ENVIRONMENTS, lambda: stale)
    [claude] = agents.list_agents(now=NOW)
    agents.change_role_password(claude, "hunter2", now=NOW, by="test")
    assert (desk.step, desk.opens()) == ("mixed", True)
    with pytest.raises(ConfigError, match="the agent claude in staging is sealed with an old key"):
        key_rotation.retire(desk.database, desk.path, now=NOW, by="ann")
    assert desk.rotate() == 1
    assert desk.step == "rotated"


def test_one_secret_that_does_not_open_leaves_all_as_they_are(desk: Desk) -> None:
    ring = key_rotation.prepare(desk.path)
    with psycopg.connect(desk.dsn) as connection:
        strange = Vault(b"?" * 32).seal("x", identity="people/ann/totp")
        connection.execute("update dbshield.people set sealed_totp = %s", [strange])
    before = desk.sealed()
    assert desk.step == "foreign"
    with pytest.raises(StoreError, match="the key was not exchanged") as caught:
        desk.rotate()
    assert "the person ann" in caught.value.hint
    assert desk.sealed() == before
    assert key_file.read(desk.path) == ring
    # Nobody misses the secret of somebody who is gone.
    with psycopg.connect(desk.dsn) as connection:
        connection.execute("update dbshield.people set removed_at = now()")
    assert desk.rotate() == 1


def test_a_proxy_that_runs_goes_on_with_another_key(gate: Shield) -> None:
    def show() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(gate.cli("key", "show", "--json"))
        return found

    def lets_in() -> bool:
        with gate.connect("write") as connection:
            return connection.execute("select 1").fetchone() == (1,)

    file = gate.folder / "state" / "secret.key"
    before = key_name(key_file.read(file).current).hex()
    [current] = show()["keys"]
    assert (current["key"], current["state"]) == (before, "current")
    with gate.connect("write") as standing:
        gate.cli("key", "prepare")
        said = gate.cli("key", "rotate")
        assert "sealed anew" in said
        assert "dbshield key retire" in said
        assert lets_in()
        keys = {each["state"]: each for each in show()["keys"]}
        assert keys["old"]["key"] == before
        assert keys["old"]["secrets"] == 0 < keys["current"]["secrets"]
        # Whatever the proxy loads now is sealed with a key that it has not seen at its start.
        gate.agent("later", "write")
        gate.connect("later").close()
        gate.cli("key", "retire")
        assert [each["state"] for each in show()["keys"]] == ["current"]
        assert lets_in()
        assert standing.execute("select 1").fetchone() == (1,)
    assert "another key" not in gate.text()
