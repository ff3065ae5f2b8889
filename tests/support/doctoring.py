"""Snapshots that are as good as any by every signature and hash, with something changed inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from dbshield.backup import sealing
from dbshield.backup.catalogue import Catalogue
from dbshield.backup.engine import Silent
from dbshield.backup.keys import SigningKey
from dbshield.backup.repository import Repository
from dbshield.backup.restore import fetch, kept_record
from dbshield.backup.store import Folder
from dbshield.backup.work import work_folder
from support.backups import Backups


def doctored(backups: Backups, snapshot: str, change: Callable[[Path], None]) -> str:
    """Another snapshot: the members of the first after `change` had the folder with them. What it removes is no member."""
    with backups.store() as store, work_folder(backups.folder / "doctoring") as work:
        catalogue = Catalogue(store)
        repository = Repository(Folder(backups.destination))
        reader = repository.open("test", snapshot, catalogue.trusted())
        identities = sealing.identities(backups.identity)
        folder = work.make("all")
        fetch(reader, identities, folder, Silent())
        change(folder)
        now = datetime.now(UTC)
        was = reader.manifest
        writer = repository.begin("test", now, recipients=was.recipients, level=1)
        place = f"file://{backups.destination}"
        catalogue.begin(
            writer.snapshot, environment="test", plan="nightly", engine=was.engine, kind="full", destination=place, now=now
        )
        for member in was.members:
            if (folder / member.name).is_file():
                writer.add_file(member.name, folder / member.name)
        manifest, signature = writer.finish(
            lambda members: replace(was, snapshot=writer.snapshot, members=members),
            SigningKey.load(backups.state / "backup.key"),
        )
        record = kept_record(repository.open("test", writer.snapshot, catalogue.trusted()), identities)
        catalogue.complete(manifest, signature, record, now=now)
        return writer.snapshot


def filling(ground: Path, name: str) -> Path | None:
    """The data folder of a throwaway cluster below `ground / name` once a database is being restored into it."""
    for data in ground.glob(f"{name}/work-*/cluster/server/data"):
        # initdb makes three.
        if (data / "postmaster.pid").exists() and len(list(data.glob("base/[0-9]*"))) > 3:
            return data
    return None
