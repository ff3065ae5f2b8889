"""A company with a console: what tests need besides the commands that its people type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from dbshield.backup.catalogue import Catalogue
from dbshield.backup.drill_store import Drill, Drills
from dbshield.backup.keys import SigningKey
from dbshield.control.people import People
from dbshield.control.vault import Vault
from dbshield.store.database import Database
from support.company import Company, Place
from support.ports import free_port
from support.waiting import until

PASSWORD = "seven tall ships at anchor"
SNAPSHOT = "20260501t020000z-abcdefgh"


class Office(Company):
    """A company with a console, which is open while `open()` is."""

    def __init__(self, folder: Path, control: str, places: dict[str, Place]) -> None:
        self.console = free_port()
        super().__init__(folder, control, places)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.console}"

    def configure(self, **environment: Any) -> None:
        super().configure(**environment)
        first = self.configs[0]
        first.write_text(f'{first.read_text()}[console]\nlisten = "127.0.0.1:{self.console}"\n')

    @contextmanager
    def open(self) -> Iterator[None]:
        log = self.folder / "console.log"
        with self.process("console", self.configs[0], log):
            assert until(lambda: "listening" in log.read_text(), deadline=120), log.read_text()
            yield

    def store(self) -> Database:
        return Database(self.control)

    def passwords(self) -> None:
        """Everybody gets the same one."""
        database = self.store()
        try:
            people = People(database, Vault.load(self.folder / "state" / "secret.key"))
            for name in self.people:
                people.set_password(name, PASSWORD, self.code(name), by="test", now=datetime.now(UTC))
        finally:
            database.close()


def add_drills(office: Office, environment: str) -> int:
    """Drills of one snapshot: one that passed, and then one that failed; the number of the second."""
    now = datetime.now(UTC)
    fine = {"name": "restored", "outcome": "passed", "measure": "1 database in 42 s", "problems": [], "seconds": 42.0}
    lost = {
        "name": "rows",
        "outcome": "failed",
        "measure": "26,000 rows in 6 tables",
        "problems": ["shop.orders: 5990 rows, expected 6000 rows"],
        "seconds": 1.5,
    }
    database = office.store()
    try:
        key = SigningKey.create(office.folder / "drills.key")
        Catalogue(database).trust(key, by="test")
        _add_snapshot(database, environment, key)
        number = 0
        for hours, verdict, checks in ((2, "passed", [fine]), (1, "failed", [fine, lost])):
            drill = Drill(
                snapshot=SNAPSHOT,
                began=now - timedelta(hours=hours),
                ended=now - timedelta(hours=hours) + timedelta(minutes=2),
                verdict=verdict,
                checks=checks,
                rpo_seconds=31.0,
                rto={"download": 20.0, "restore": 42.0, "checks": 9.0},
            )
            number = Drills(database).add(drill, drill.sign(key), report=None)
        return number
    finally:
        database.close()


def _add_snapshot(database: Database, environment: str, key: SigningKey) -> None:
    with database.transaction() as connection:
        connection.execute(
            text("""
                insert into dbshield.snapshots (id, environment, plan, engine, kind, destination, state, began, ended, bytes,
                    stored_bytes, objects, manifest, manifest_sha256, signature, signing_key)
                values (:id, :environment, 'nightly', 'logical', 'full', 's3://vault', 'complete', now() - interval '3 hours',
                    now() - interval '2 hours 56 minutes', 4200000000, 910000000, 12, '{}', sha256('m'),
                    sha256('s') || sha256('t'), :key)
            """),
            {"id": SNAPSHOT, "environment": environment, "key": key.name},
        )
