"""The WAL archive without a server: names, signatures, the way to a moment, and what nothing needs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyrage
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbshield.backup import sealing, wal, wal_receive, wal_route
from dbshield.backup.damage import Damaged, WrongKey
from dbshield.backup.keys import SigningKey
from dbshield.backup.moment import segment_name
from dbshield.backup.store import Folder
from dbshield.backup.wal import Held, Kind, Piece
from dbshield.backup.wal_archive import Archive
from dbshield.backup.wal_prune import Start, going
from dbshield.backup.wal_route import Fork, MissingWal
from dbshield.errors import BackupError

SIZE = 1 << 20
PIECE = Piece(
    environment="test",
    plan="nightly",
    system="7710951481578435799",
    timeline=1,
    kind="segment",
    name="000000010000000000000002",
    segment_size=SIZE,
    start=2 * SIZE,
    end=3 * SIZE,
    size=0,
    stored=0,
    sha256="",
    plain="",
    recipients=(),
    mark=2 * SIZE + 8,
    marked_at="2026-05-01T12:00:00.000000Z",
    shipped_at="2026-05-01T12:00:01.000000Z",
)


def held(number: int, *, timeline: int = 1, length: int = 0, system: str = "1") -> Held:
    name = segment_name(timeline, number, SIZE)
    kind = Kind.PARTIAL if length else Kind.SEGMENT
    return Held(key=f"{system}/{name}/{length}", system=system, timeline=timeline, kind=kind, name=name, length=length, stored=1)


class Place:
    """An archive in a folder, with a key that signs and one that opens."""

    def __init__(self, folder: Path) -> None:
        self.archive = Archive(Folder(folder / "there"), "test", "nightly")
        self.key = SigningKey.create(folder / "key")
        self.trusted = {self.key.name: self.key.public}
        self.identity = pyrage.x25519.Identity.generate()
        self.recipients = (str(self.identity.to_public()),)

    def put(self, piece: Piece, data: bytes) -> tuple[Piece, bool]:
        whole = replace(piece, recipients=self.recipients)
        to = sealing.recipients(self.recipients)
        return self.archive.put(whole, data, to=to, level=1, key=self.key, trusted=self.trusted)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


class TestArchive:
    def test_what_is_put_is_read_and_its_name_tells_what_it_is(self, place: Place) -> None:
        whole, new = place.put(PIECE, b"page" * 1000)
        assert new
        (found,) = place.archive.held()
        assert (found.key, found.kind, found.name, found.timeline) == (whole.key, Kind.SEGMENT, PIECE.name, 1)
        assert place.archive.read(found.key, place.trusted, [place.identity]) == (whole, b"page" * 1000)

    def test_the_same_again_is_fine_and_another_is_not(self, place: Place) -> None:
        first, _ = place.put(PIECE, b"one")
        assert place.put(PIECE, b"one") == (first, False)
        with pytest.raises(BackupError, match="has another 000000010000000000000002"):
            place.put(PIECE, b"two")
        assert place.archive.read(first.key, place.trusted, [place.identity])[1] == b"one"

    def test_a_beginning_has_a_name_of_its_own(self, place: Place) -> None:
        place.put(replace(PIECE, kind="partial", end=PIECE.start + 1000), b"x" * 1000)
        (found,) = place.archive.held()
        assert (found.kind, found.name, found.length) == (Kind.PARTIAL, PIECE.name, 1000)

    def test_every_byte_that_is_changed_is_noticed(self, place: Place) -> None:
        whole, _ = place.put(PIECE, b"page" * 10)
        path = Path(place.archive.store.place) / whole.key
        good = path.read_bytes()
        for at in (3, 40, good.index(b"mark"), good.index(b'"signature"') + 20, len(good) - 100, len(good) - 1):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            with pytest.raises(Damaged):
                place.archive.read(whole.key, place.trusted, [place.identity])
        for cut in (good[:10], good[:-1], good + b"x"):
            path.write_bytes(cut)
            with pytest.raises(Damaged):
                place.archive.read(whole.key, place.trusted, [place.identity])

    def test_one_that_lies_elsewhere_is_not_believed(self, place: Place) -> None:
        whole, _ = place.put(PIECE, b"page")
        here = Path(place.archive.store.place) / whole.key
        there = here.with_name("000000010000000000000003")
        here.rename(there)
        with pytest.raises(Damaged, match="holds test/wal"):
            place.archive.head(str(there.relative_to(place.archive.store.place)), place.trusted)

    def test_one_that_nobody_known_signed_is_not_believed(self, place: Place, tmp_path: Path) -> None:
        whole, _ = place.put(PIECE, b"page")
        other = SigningKey.create(tmp_path / "other")
        with pytest.raises(Damaged, match="not known here"):
            place.archive.head(whole.key, {other.name: other.public})
        with pytest.raises(WrongKey):
            place.archive.read(whole.key, place.trusted, [pyrage.x25519.Identity.generate()])

    def test_what_is_no_piece_is_left_out(self, place: Place) -> None:
        place.put(PIECE, b"page")
        for folder in ("x/00000001", "1/00000002"):
            place.archive.store.put_new(f"test/wal/nightly/{folder}/000000010000000000000001", b"")
        assert len(place.archive.held()) == 1


class TestRoute:
    def test_a_hole_is_named(self) -> None:
        there = [held(number) for number in (3, 4, 6, 7)]
        with pytest.raises(MissingWal) as caught:
            wal_route.way(there, first=3, target=1, forks=(), size=SIZE)
        assert caught.value.names == (segment_name(1, 5, SIZE),)
        assert [each.name for each in wal_route.way(there, first=6, target=1, forks=(), size=SIZE)] == [
            segment_name(1, number, SIZE) for number in (6, 7)
        ]
        assert wal_route.gaps(there, SIZE) == caught.value.names

    def test_only_the_newest_may_be_a_beginning_and_the_longest_of_them_counts(self) -> None:
        there = [held(3), held(4, length=100), held(4, length=900)]
        assert [each.length for each in wal_route.way(there, first=3, target=1, forks=(), size=SIZE)] == [0, 900]
        with pytest.raises(MissingWal):
            wal_route.way([held(3), held(4, length=900), held(5)], first=3, target=1, forks=(), size=SIZE)

    def test_what_is_after_the_end_is_out_of_reach(self) -> None:
        with pytest.raises(BackupError, match="ends before 0/500000"):
            wal_route.way([held(3), held(4)], first=3, target=1, forks=(), size=SIZE, stop=5 * SIZE)

    def test_the_way_follows_the_timelines(self) -> None:
        forks = wal_route.history(b"1\t0/00450000\tno recovery target specified\n\n2\t0/00680000\tbefore 2026\n")
        assert forks == (Fork(timeline=1, end=0x450000), Fork(timeline=2, end=0x680000))
        there = [held(3), held(4), held(5), held(4, timeline=2), held(5, timeline=2), held(6, timeline=3), held(7, timeline=3)]
        found = wal_route.way(there, first=3, target=3, forks=forks, size=SIZE)
        assert [(each.timeline, wal.number_of(each.name, SIZE)) for each in found] == [(1, 3), (2, 4), (2, 5), (3, 6), (3, 7)]

    def test_the_newest_timeline_that_a_place_leads_to(self) -> None:
        histories = {2: (Fork(timeline=1, end=400),), 3: (Fork(timeline=1, end=200),)}
        assert wal_route.timeline_from(1, 100, histories, [1, 2, 3]) == 3
        assert wal_route.timeline_from(1, 300, histories, [1, 2, 3]) == 2
        assert wal_route.timeline_from(1, 500, histories, [1, 2, 3]) == 1

    @pytest.mark.parametrize("text", [b"x", b"1", b"1 0-0", b"\xff 0/0"])
    def test_a_history_that_is_none(self, text: bytes) -> None:
        with pytest.raises(Damaged):
            wal_route.history(text)


@given(
    numbers=st.sets(st.integers(0, 30)),
    starts=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 30 * SIZE)), max_size=3),
    timeline=st.integers(1, 3),
)
def test_what_a_snapshot_needs_never_goes(numbers: set[int], starts: list[tuple[int, int]], timeline: int) -> None:
    there = [held(number, timeline=timeline) for number in sorted(numbers)]
    needed = [Start(system="1", timeline=own, lsn=lsn, segment_size=SIZE) for own, lsn in starts]
    gone = {wal.number_of(each.name, SIZE) for each in going(there, needed)}
    if not needed:
        assert not gone
    for start in needed:
        assert not {number for number in gone if (number + 1) * SIZE > start.lsn or timeline > start.timeline}
    assert all(
        number in gone
        for number in numbers
        if needed and all((number + 1) * SIZE <= each.lsn and timeline <= each.timeline for each in needed)
    ), "what nothing needs does go"


def test_beginnings_go_when_there_is_more(tmp_path: Path) -> None:
    needed = [Start(system="1", timeline=1, lsn=0, segment_size=SIZE)]
    there = [held(3), held(3, length=5), held(4, length=5), held(4, length=9), held(5, system="2")]
    assert [(wal.number_of(each.name, SIZE), each.length) for each in going(there, needed)] == [(3, 5), (4, 5)]


class TestSpool:
    def test_what_was_received_of_a_segment(self, tmp_path: Path) -> None:
        path = tmp_path / f"{segment_name(1, 2, SIZE)}.partial"
        data = b"\x01\0" * 70_000 + b"end\0\0"
        path.write_bytes(data.ljust(SIZE, b"\0"))
        assert wal_receive.received(path) == data.rstrip(b"\0")
        path.write_bytes(bytes(SIZE))
        assert wal_receive.received(path) == b""

    def test_a_place_to_go_on_from_is_no_segment(self, tmp_path: Path) -> None:
        wal_receive.mark_beginning(tmp_path, 1, 3, SIZE)
        (tmp_path / segment_name(1, 3, SIZE)).write_bytes(b"\x10\xd1".ljust(SIZE, b"\0"))
        assert wal_receive.names(tmp_path) == [segment_name(1, 2, SIZE), segment_name(1, 3, SIZE)]
        assert list(wal_receive.segments(tmp_path)) == [segment_name(1, 3, SIZE)]
        wal_receive.empty(tmp_path / segment_name(1, 3, SIZE), SIZE)
        assert wal_receive.segments(tmp_path) == {}
        assert (tmp_path / segment_name(1, 3, SIZE)).stat().st_size == SIZE


def test_the_head_is_canonical() -> None:
    assert json.loads(PIECE.text())["format"] == wal.FORMAT
    assert PIECE.text() == replace(PIECE).text()
