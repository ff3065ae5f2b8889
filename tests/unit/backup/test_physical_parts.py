"""What the physical engine decides without a server: the moment in the WAL, and whether a tar is whole."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbshield.backup import moment
from dbshield.backup.moment import XIDS, End, View
from dbshield.backup.tarball import Tarball
from dbshield.errors import BackupError

WALDUMP = """\
rmgr: Heap        len (rec/tot):     54/  7302, tx:        731, lsn: 0/05000028, prev 0/04000100, desc: INSERT off 5 flags 0x00
rmgr: Transaction len (rec/tot):     34/    34, tx:        732, lsn: 0/05001D00, prev 0/05000028, desc: COMMIT 2026-05-01 12:00:00.1 UTC
rmgr: Transaction len (rec/tot):     46/    46, tx:        730, lsn: 0/05001D28, prev 0/05001D00, desc: ABORT 2026-05-01 12:00:00.2 UTC; x
rmgr: Transaction len (rec/tot):    186/   186, tx:        733, lsn: 0/05001D58, prev 0/05001D28, desc: PREPARE gid g: 2026-05-01 12:00
rmgr: Transaction len (rec/tot):     46/    46, tx:          0, lsn: 1/05001E18, prev 0/05001D58, desc: COMMIT_PREPARED 733: 2026-05-01 UTC
rmgr: Transaction len (rec/tot):     46/    46, tx:          0, lsn: 1/05001F00, prev 1/05001E18, desc: ABORT_PREPARED 735: 2026-05-01 UTC
rmgr: Transaction len (rec/tot):     46/    46, tx:        734, lsn: 1/05001F50, prev 1/05001E18, desc: INVALIDATION ; inval msgs: COMMIT
"""  # noqa: E501


def view(end: int, *running: int) -> View:
    return View(end=end, running=frozenset(running))


def commits(*xids: int) -> list[End]:
    """Committed one after another, at LSN 100, 200, …"""
    return [End(lsn=100 * place, xid=xid % XIDS, committed=True) for place, xid in enumerate(xids, 1)]


def test_ends_are_read_from_pg_waldump() -> None:
    assert moment.ends(WALDUMP.splitlines()) == (
        End(lsn=0x5001D00, xid=732, committed=True),
        End(lsn=0x5001D28, xid=730, committed=False),
        End(lsn=0x105001E18, xid=733, committed=True),
        End(lsn=0x105001F00, xid=735, committed=False),
    )


@pytest.mark.parametrize(
    ("views", "found", "expected"),
    [
        pytest.param([view(12)], commits(10, 11, 12), 300, id="quiet"),
        pytest.param([view(12, 11)], commits(10, 11, 12), 200, id="one-runs"),
        pytest.param([view(12, 10)], commits(10, 11, 12), None, id="ended-in-another-order"),
        pytest.param([view(12, 10)], commits(11, 10, 12), 200, id="the-same-in-the-wal's-order"),
        pytest.param([view(12)], commits(12, 11, 13), None, id="a-later-one-first"),
        pytest.param([view(12), view(12)], commits(11, 12), 200, id="two-alike"),
        pytest.param([view(12), view(13)], commits(11, 12, 13), None, id="two-that-differ"),
        pytest.param([view(12), view(13, 12)], commits(11, 12, 13), 200, id="two-that-show-the-same"),
        pytest.param([view(12)], commits(10, 11), None, id="no-end-in-sight"),
        pytest.param([view(12)], [], None, id="nothing-seen"),
        pytest.param([view(5 * XIDS + 3)], commits(5 * XIDS - 1, 5 * XIDS + 2, 5 * XIDS + 3), 300, id="numbers-wrap-around"),
    ],
)
def test_the_target_shows_what_the_views_show(views: list[View], found: list[End], expected: int | None) -> None:
    assert moment.target(views, found) == expected


@given(st.data())
def test_a_target_is_exact_whatever_the_order(data: st.DataObject) -> None:
    """Against the plain definition: those before the target are those shown."""
    order = data.draw(st.permutations(range(100, 112)))
    end = data.draw(st.integers(100, 112))
    running = data.draw(st.sets(st.integers(100, 111)))
    shot = view(end, *(xid for xid in running if xid < end))
    found = commits(*order)
    place = moment.target([shot], found)
    shown = {xid for xid in order if shot.shows(xid)}
    if place is None:
        assert not any({order[k] for k in range(cut)} == shown for cut in range(len(order)))
    else:
        assert {xid for xid, one in zip(order, found, strict=True) if one.lsn < place} == shown


def test_a_transaction_that_runs_since_before_is_undecided_until_its_end_is_seen() -> None:
    views = [view(20, 9, 15, 17), view(20, 10, 17)]
    assert moment.undecided(views, view(16, 9, 10, 15), commits(15, 20)) == {9, 10}
    assert moment.undecided(views, view(16, 9, 10, 15), [*commits(15, 9), End(lsn=1, xid=10, committed=False)]) == frozenset()


def test_names_of_segments_and_places() -> None:
    assert moment.segment_name(1, 0x1_23, 16 << 20) == "000000010000000100000023"
    assert moment.segment_name(2, 5, 1 << 20) == "000000020000000000000005"
    assert moment.lsn("16/B374D848") == 0x16B374D848
    assert moment.lsn_text(0x16B374D848) == "16/B374D848"


def tar(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as out:
        for name, content in files.items():
            facts = tarfile.TarInfo(name)
            facts.size = len(content)
            out.addfile(facts, io.BytesIO(content))
    return made.getvalue()


WHOLE = tar(
    {"backup_label": b"START", "base/1/16384": b"x" * 1300, "d" * 90 + "/" + "f" * 90: b"", "backup_manifest": b"{}" * 700}
)


def went_through(text: bytes, pieces: int) -> dict[str, bytes]:
    source = io.BytesIO(text)
    watched = Tarball(source, lambda: None)
    read = bytearray()
    while data := watched.read(pieces):
        read += data
    assert bytes(read) == text
    return {name: bytes(content) for name, content in watched.files.items()}


@pytest.mark.parametrize("pieces", [1, 7, 511, 512, 513, 4096, 1 << 20])
def test_a_tar_goes_by_unchanged_and_its_small_files_are_kept(pieces: int) -> None:
    assert went_through(WHOLE, pieces) == {"backup_label": b"START", "backup_manifest": b"{}" * 700}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(WHOLE[:512], id="a-header"),
        pytest.param(WHOLE[: WHOLE.index(b"backup_manifest")], id="before-the-manifest"),
        pytest.param(WHOLE[: WHOLE.index(b"{}") + 1400], id="no-end"),
        pytest.param(tar({"backup_label": b"x"}), id="no-manifest"),
        pytest.param(b"pg_basebackup: error".ljust(1024, b"."), id="no-tar"),
        pytest.param(b"\xff" * 4096, id="noise"),
    ],
)
@pytest.mark.parametrize("pieces", [100, 1 << 20])
def test_a_tar_that_is_not_whole_is_an_error(text: bytes, pieces: int) -> None:
    with pytest.raises(BackupError, match=r"ended in the middle|is no tar"):
        went_through(text, pieces)


def test_a_program_that_failed_is_an_error_although_the_tar_looks_whole() -> None:
    def failed() -> None:
        raise BackupError("pg_basebackup failed")

    watched = Tarball(io.BytesIO(WHOLE), failed)
    assert watched.read(len(WHOLE)) == WHOLE
    with pytest.raises(BackupError, match="pg_basebackup failed"):
        watched.read(1)
