"""What leaves the spool is at the destination, whatever arrives in the spool meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from dbshield.backup.keys import SigningKey
from dbshield.backup.source import Source
from dbshield.backup.store import Folder
from dbshield.backup.wal_archive import Archive
from dbshield.backup.wal_receive import Place
from dbshield.backup.wal_ship import Plan, Shipper
from dbshield.cluster import Binaries

SIZE = 1 << 20
NAMES = [f"00000001000000000000000{number}" for number in range(1, 6)]


class Slow(Folder):
    """A destination that takes so long that more segments have arrived when it has one."""

    def __init__(self, root: Path, spool: Path) -> None:
        super().__init__(root)
        self._spool = spool

    def put_new(self, key: str, data: bytes) -> None:
        super().put_new(key, data)
        for name in NAMES[2:]:
            if not (self._spool / name).exists():
                arrive(self._spool, name)


def arrive(spool: Path, name: str) -> None:
    (spool / name).write_bytes(name.encode().ljust(SIZE, b"x"))


def shipping(folder: Path, spool: Path) -> tuple[Shipper, Archive]:
    """Who puts what has arrived in the spool to a slow destination, and what lies there."""
    spool.mkdir()
    key = SigningKey.create(folder / "key")
    archive = Archive(Slow(folder / "far", spool), "test", "nightly")
    shipper = Shipper(
        Plan(
            archive=archive,
            source=cast(Source, None),
            programs=cast(Binaries, None),
            spool=spool,
            recipients=(),
            level=1,
            max_seconds=1,
            key=key,
            trusted={key.name: key.public},
            pinned=None,
            told=lambda _kind, _why: None,
            noted=lambda _piece: None,
        )
    )
    shipper._place = Place(system="7", timeline=1, forks=(), kept_from=SIZE, segment_size=SIZE, renewed="")
    return shipper, archive


def test_segments_that_arrive_while_others_are_put_are_not_removed(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    shipper, archive = shipping(tmp_path, spool)
    for name in NAMES[:2]:
        arrive(spool, name)
    assert shipper._ship_spool(spool)
    there = [each.name for each in archive.held()]
    assert there == NAMES[:2]
    # What was put is empty, and its newest stays as the place to go on from; what arrived is as it was.
    assert sorted(path.name for path in spool.iterdir()) == NAMES[1:]
    assert shipper._ship_spool(spool)
    assert [each.name for each in archive.held()] == NAMES
    assert not shipper._ship_spool(spool)


def test_regression_one_that_becomes_full_between_two_looks_is_put_whole(tmp_path: Path) -> None:
    """It was looked for under its old name, and archiving failed for a moment; with --until-shipped the command did."""
    spool = tmp_path / "spool"
    shipper, archive = shipping(tmp_path, spool)
    seen = spool / f"{NAMES[0]}.partial"
    arrive(spool, seen.name)
    seen.rename(spool / NAMES[0])
    assert not shipper._ship_partial(seen)
    assert shipper._ship_spool(spool)
    assert archive.held()[0].name == NAMES[0]
