"""The demo's last act: what no proxy sees. The volume is deleted from outside, and the database comes back from its backups."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from dbshield.cli.demo.proof import Contents, Refusal, contents
from dbshield.cli.demo.show import Show
from dbshield.cli.demo.stage import AGENT, COPY, DATABASE, ENVIRONMENT, PRISTINE, Stage

PLAN = "nightly"
LATER = "INSERT INTO orders VALUES (6002, 2, 7, 1, '2026-07-02')"
"""Work after the snapshot: only the WAL has it."""
MISTAKE = "DELETE FROM orders WHERE id BETWEEN 101 AND 140"
"""So few rows that the policy lets it pass."""
LAST_TRY = "COPY orders TO PROGRAM 'rm -rf /var/lib/postgresql'"
ARCHIVE = "select marked_at from dbshield.wal_archives where environment = %s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescued:
    """What came back: rows that the mistake deleted, rows that are missing now, seconds of the restore, and the seconds of data
    that were not in the archive yet when the volume went."""

    refusal: Refusal | None
    entry: int
    mistaken: int
    missing: int
    same: bool
    seconds: float
    at_risk: float

    @property
    def held(self) -> bool:
        refused = self.refusal is not None and self.refusal.by_dbshield
        return refused and self.mistaken == 40 and self.missing == 0 and self.same

    def report(self) -> dict[str, Any]:
        """For machines."""
        return {
            "held": self.held,
            "mistake": MISTAKE,
            "entry": self.entry,
            "rows_deleted": self.mistaken,
            "rows_missing_after_restore": self.missing,
            "restore_seconds": round(self.seconds, 2),
            "seconds_at_risk": round(self.at_risk, 2),
        }


def rescue(stage: Stage, show: Show) -> Rescued:
    """Everything from the snapshot to the proof that the database is back."""
    show.act("The volume is deleted", "by a token that lay about: dbshield stands in front of SQL and does not see that call")
    with show.step("A snapshot is made, and from now on the WAL is archived") as finish:
        stored = _back_up(stage)
        finish(f"A snapshot is made ({stored / 1e6:.1f} MB, sealed), and from now on the WAL is archived")
    show.typed("dbshield backup key", f"dbshield backup wal --plan {PLAN}", f"dbshield backup --plan {PLAN}")
    with stage.agent() as agent:
        agent.execute(LATER)
        with stage.admin(DATABASE) as admin:
            before = contents(admin)
        mistaken = agent.execute(MISTAKE).rowcount
        refusal = None
        try:
            agent.execute(LAST_TRY)
        except psycopg.Error as error:
            refusal = Refusal.of(error)
    entry = _entry(stage)
    show.mistake(MISTAKE, mistaken, LAST_TRY, refusal)
    _wait_for_archive(stage)
    with show.step("kill -9, rm -rf: server and volume are gone"):
        gone = datetime.now(UTC)
        _destroy(stage)
    with show.step(f"dbshield restores what was there before entry {entry} of the audit") as finish:
        began = time.monotonic()
        done = _restore(stage, entry)
        seconds = time.monotonic() - began
        at_risk = max(0.0, (gone - datetime.fromisoformat(done["archived_until"])).total_seconds())
        after = _look(stage)
        missing = before.lost(after)
        finish(f"dbshield restores what was there before entry {entry} of the audit: {missing:,} rows are missing")
    show.typed(f"dbshield restore --before {entry} --to-folder /srv/restored --identity-file identity.txt")
    show.proof(before, after, title="The data", how="as it was before the mistake, and on the restored server")
    show.note(f"The restore took {seconds:.1f} s; {at_risk:.1f} s of data were not in the archive when the volume went.")
    same = all(before.fingerprint(table) == after.fingerprint(table) for table in before.rows)
    return Rescued(refusal=refusal, entry=entry, mistaken=mistaken, missing=missing, same=same, seconds=seconds, at_risk=at_risk)


def _back_up(stage: Stage) -> int:
    """A plan, its keys, the archive and a snapshot; the bytes of that at the destination."""
    with stage.admin() as admin:
        for name in (COPY, PRISTINE):
            admin.execute(f"drop database if exists {name} with (force)".encode())
    identity = stage.folder / "identity.txt"
    made = json.loads(stage.run("backup", "key", "--identity", str(identity), "--json"))
    stage.plan = (
        f"[backup.{PLAN}]",
        f'environment = "{ENVIRONMENT}"',
        'engine = "physical"',
        f"destination = {json.dumps((stage.folder / 'elsewhere').as_uri())}",
        # All of the demo lies on one disk.
        'same_device = "allowed"',
        'same_account = "allowed"',
        f"source = {json.dumps(stage.cluster.dsn(DATABASE))}",
        f"encrypt_to = {json.dumps([made['recipient']])}",
        "wal_max_seconds = 1",
    )
    stage.configure(executor=True)
    stage.start("wal", "backup", "wal", "--plan", PLAN)
    stage.until(lambda: _archived(stage) is not None, "wal", "archives nothing")
    return int(json.loads(stage.run("backup", "--plan", PLAN, "--json"))["stored_bytes"])


def _archived(stage: Stage) -> datetime | None:
    """Up to when any moment can be restored."""
    with stage.ask_control() as control:
        row = control.execute(ARCHIVE, [ENVIRONMENT]).fetchone()
    return row[0] if row is not None else None


def _wait_for_archive(stage: Stage) -> None:
    now = datetime.now(UTC)
    stage.until(lambda: (_archived(stage) or now) > now, "wal", "archives nothing more")


def _entry(stage: Stage) -> int:
    """The number of the mistake in the audit."""
    words = ("--agent", AGENT, "--kind", "statement", "--text", "DELETE FROM orders WHERE id BETWEEN", "--limit", "1")
    said = stage.run("audit", "search", *words, "--json")
    return int(json.loads(said.splitlines()[-1])["id"])


def _destroy(stage: Stage) -> None:
    """What the provider's call does: the machine ends, and its disk is empty."""
    stage.cluster.kill()
    shutil.rmtree(stage.cluster.data)


def _restore(stage: Stage, entry: int) -> dict[str, Any]:
    folder = stage.folder / "restored"
    words = ("restore", "--before", str(entry), "--to-folder", str(folder))
    return dict(json.loads(stage.run(*words, "--identity-file", str(stage.folder / "identity.txt"), "--json")))


def _look(stage: Stage) -> Contents:
    """What the restored server has."""
    home: Path = stage.folder / "rescued"
    cluster = stage.a_cluster("rescued")
    home.mkdir(mode=0o711)
    cluster.account.own(home, 0o700)
    (stage.folder / "restored").rename(cluster.data)
    cluster.start(tethered=True)
    try:
        with psycopg.connect(cluster.dsn(DATABASE), autocommit=True) as connection:
            return contents(connection)
    finally:
        cluster.remove()
