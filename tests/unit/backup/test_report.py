"""Reports of drills: whole, and nothing in them is taken for markup."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from dbshield.backup.catalogue import Snapshot
from dbshield.backup.damage import Damaged
from dbshield.backup.drill import Drilled
from dbshield.backup.drill_store import Drill, Kept, check
from dbshield.backup.keys import SigningKey
from dbshield.backup.report import MEANING, html, markdown, write_reports
from dbshield.backup.report_picture import picture
from dbshield.errors import BackupError

BEGAN = datetime(2026, 5, 1, 12, 0, 0, 250000, tzinfo=UTC)
EVIL = "<script>alert(1)</script>|x*y"
DRILL = Drill(
    snapshot="20260501t110000z-abcdefgh",
    began=BEGAN,
    ended=BEGAN + timedelta(seconds=30),
    verdict="failed",
    checks=[
        {"name": "manifest", "outcome": "passed", "measure": "12 members", "problems": [], "seconds": 0.01},
        {"name": "rows", "outcome": "failed", "measure": "3 tables", "problems": [f"{EVIL}: 7 rows"], "seconds": 1.5},
    ],
    rpo_seconds=3600.25,
    rto={"download": 1.0, "start": 2.0, "restore": 3.5, "checks": 8.0},
)
NOTHING: dict[str, Any] = dict.fromkeys(field.name for field in fields(Snapshot))
SNAPSHOT = Snapshot(**NOTHING)


def drilled(tmp_path: Path) -> Drilled:
    key = SigningKey.create(tmp_path / "key")
    found = replace(SNAPSHOT, id=DRILL.snapshot, environment="shop", plan="nightly", engine="logical", kind="full")
    return Drilled(
        drill=DRILL,
        signature=DRILL.sign(key),
        snapshot=found,
        server_version=150018,
        rpo_from="canary",
        evidence=tmp_path / "kept",
    )


def test_both_say_everything_and_escape_it(tmp_path: Path) -> None:
    made = drilled(tmp_path)
    assert made.rto_seconds == 6.5
    for text in (markdown(made), html(made, [DRILL])):
        for part in ("failed", MEANING["failed"], DRILL.snapshot, "12 members", "6.5 s", "3600 s", "canary", made.signature.key):
            assert part in text
        assert str(tmp_path / "kept").replace("_", "\\_") in text or str(tmp_path / "kept") in text
    assert "<script>" not in html(made, [])
    assert "<script>" not in markdown(made)
    rows = [line for line in markdown(made).splitlines() if line.startswith("| ")]
    # A stroke in a name makes no further column.
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {5}


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    page = html(drilled(tmp_path), [])
    assert not re.search(r"""(?:src|href)=|url\(|@import|https?://""", page)


def test_the_picture_has_a_bar_for_each(tmp_path: Path) -> None:
    drills = [
        replace(DRILL, began=BEGAN + timedelta(days=day), verdict=verdict, rto={"restore": float(day)})
        for day, verdict in enumerate(("passed", "failed", "error", "passed"))
    ]
    tree = ElementTree.fromstring(picture(drills))
    bars = tree.findall("rect")
    assert len(bars) == 4
    assert [float(bar.attrib["height"]) for bar in bars] == sorted(float(bar.attrib["height"]) for bar in bars)
    assert len({bar.attrib["fill"] for bar in bars}) == 3
    assert ElementTree.fromstring(picture([replace(DRILL, rto={})])).find("rect") is not None
    many = ElementTree.fromstring(picture([DRILL] * 400))
    assert max(float(bar.attrib["x"]) for bar in many.findall("rect")) < 720


def test_files_are_for_their_owner_and_never_written_over(tmp_path: Path) -> None:
    made = drilled(tmp_path)
    first = write_reports(tmp_path / "reports", made, [])
    second = write_reports(tmp_path / "reports", made, [])
    assert {*first}.isdisjoint(second)
    assert all(path.stat().st_mode & 0o077 == 0 for path in (*first, *second))
    (tmp_path / "file").write_text("")
    with pytest.raises(BackupError, match="the drill failed"):
        write_reports(tmp_path / "file", made, [])


def test_a_signature_is_of_everything_that_a_row_says(tmp_path: Path) -> None:
    made = drilled(tmp_path)
    key = SigningKey.load(tmp_path / "key")
    kept = Kept(id=1, drill=DRILL, environment="shop", report=None, signature=made.signature)
    trusted = {key.name: key.public}
    check(kept, trusted)
    # The control database gives times in its own zone, which is the same moment.
    check(replace(kept, drill=replace(DRILL, began=DRILL.began.astimezone())), trusted)
    for changed in (
        replace(DRILL, verdict="passed"),
        replace(DRILL, checks=DRILL.checks[:1]),
        replace(DRILL, rpo_seconds=None),
        replace(DRILL, rto={}),
        replace(DRILL, ended=DRILL.ended + timedelta(microseconds=1)),
        replace(DRILL, snapshot="20260501t110000z-abcdefgi"),
    ):
        with pytest.raises(Damaged):
            check(replace(kept, drill=changed), trusted)
    with pytest.raises(Damaged):
        check(replace(kept, signature=None), trusted)
    with pytest.raises(Damaged):
        check(kept, {})
