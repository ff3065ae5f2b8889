"""Undo points are kept for as long as the environment says, and no longer."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from support.executing import ENVIRONMENT, Stage, control_of, now, stage
from support.servers import Server

from dbshield.control.approval import Approval
from dbshield.control.undo_expiry import EVERY, Expiry, kept_until
from dbshield.control.undo_store import UndoStore
from dbshield.errors import Refused

pytestmark = pytest.mark.one_server


@pytest.fixture(scope="module")
def here(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with control_of(server) as control, stage(server, control, tmp_path_factory.mktemp("expiry")) as made:
        yield made


@pytest.fixture
def done(here: Stage) -> Approval:
    """One that was run just now, with an undo point."""
    made = here.run("update shop.settings set value = value || '!'")
    assert made.undo == made.id, made
    assert (here.folder / made.id).is_dir()
    return made


def expiry(here: Stage, folder: Path | None = None) -> Expiry:
    return Expiry(here.control, {ENVIRONMENT: here.settings.model_copy(update={"undo_keep_days": 3})}, folder or here.folder)


def entries(here: Stage, approval: Approval) -> int:
    with here.control.transaction() as connection:
        query = "select count(*) from dbshield.audit where kind = 'undo-expired' and entry::json->>'approval' = :id"
        return int(connection.execute(text(query), {"id": approval.id}).scalar_one())


def test_one_is_given_up_when_its_time_is_over_and_says_so(here: Stage, done: Approval) -> None:
    folder = here.folder / done.id
    assert done.finished_at is not None
    over = done.finished_at + timedelta(days=3)
    assert kept_until(done.finished_at, here.settings.model_copy(update={"undo_keep_days": 3})) == over
    assert expiry(here).round(over - timedelta(seconds=1)) == 0
    assert folder.is_dir()
    assert UndoStore(here.control).get(done.id).expired_at is None

    assert expiry(here).round(over) == 1
    assert not folder.exists()
    with pytest.raises(Refused, match="expired on") as refused:
        UndoStore(here.control).get(done.id)
    assert "restore --before" in refused.value.hint
    assert done.id in refused.value.hint
    assert entries(here, done) == 1
    assert expiry(here).round(over + EVERY) == 0
    assert entries(here, done) == 1


def test_the_executors_round_does_it(here: Stage, done: Approval) -> None:
    with here.control.transaction() as connection:
        connection.execute(
            text("update dbshield.approvals set finished_at = :at where id = :id"),
            {"id": done.id, "at": now() - timedelta(days=4)},
        )
    here.executor().work()
    assert (here.folder / done.id).is_dir()
    here.executor(undo_keep_days=3).work()
    assert not (here.folder / done.id).exists()
    assert entries(here, done) == 1


def test_whoever_undoes_it_right_now_keeps_it(here: Stage, done: Approval) -> None:
    late = now() + timedelta(days=4)
    with UndoStore(here.control).using(done.id):
        assert expiry(here).round(late) == 0
        assert (here.folder / done.id).is_dir()
    assert expiry(here).round(late) == 1


def test_what_was_marked_by_one_that_died_is_removed_by_the_next(here: Stage, done: Approval) -> None:
    with here.control.transaction() as connection:
        connection.execute(text("update dbshield.undo_points set expired_at = now() where id = :id"), {"id": done.id})
    assert expiry(here).round(now()) == 0
    assert not (here.folder / done.id).exists()
    assert entries(here, done) == 0


def test_what_lies_on_another_machine_is_left_to_it(here: Stage, done: Approval, tmp_path: Path) -> None:
    assert expiry(here, tmp_path / "nothing").round(now() + timedelta(days=4)) == 0
    assert UndoStore(here.control).get(done.id).expired_at is None
    (here.folder / "apr-strange2").mkdir()
    looking = expiry(here)
    assert looking.round(now() + timedelta(days=4)) == 1
    assert (here.folder / "apr-strange2").is_dir(), "no record knows it"
