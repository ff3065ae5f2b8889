"""Freezes: from a human's word to every proxy's memory, through an outage of the control database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from support.control import ENVIRONMENTS, NOW, agents_of, control_database
from support.waiting import seconds_until

from dbshield.cluster import Cluster, temporary_folder
from dbshield.config import EnvironmentConfig
from dbshield.control.directory import Directory
from dbshield.control.freezes import REASON_MAX, Freezes
from dbshield.errors import ConfigError, Refused
from dbshield.store.database import Database

pytestmark = pytest.mark.one_server

PROPAGATION = 1.0
"""Seconds within which a freeze reaches every proxy: what is promised."""
HOUR = timedelta(hours=1)


@pytest.fixture
def freezes(control: Database) -> Freezes:
    return Freezes(control, ENVIRONMENTS)


@pytest.fixture
async def directories(control: Database, control_dsn: str, tmp_path: Path) -> AsyncIterator[list[Directory]]:
    """Two proxies' worth."""
    _, vault = agents_of(control, tmp_path)
    made = [Directory(control_dsn=control_dsn, environments=ENVIRONMENTS, vault=vault) for _ in range(2)]
    for directory in made:
        await directory.start()
    yield made
    for directory in made:
        await directory.stop()


def test_a_freeze_lasts_until_it_is_lifted_or_over(freezes: Freezes) -> None:
    endless = freezes.freeze("staging", reason=" incident\n 17 ", by="ann", now=NOW)
    assert endless.reason == "incident 17"
    short = freezes.freeze("production", reason="release", by="bob", now=NOW, until=NOW + HOUR)
    assert freezes.in_force(NOW) == {"staging": (endless,), "production": (short,)}
    assert freezes.in_force(NOW + HOUR) == {"staging": (endless,)}
    with pytest.raises(Refused, match="nobody froze production"):
        freezes.thaw("production", by="ann", now=NOW + HOUR)
    assert freezes.thaw("staging", by="ann", now=NOW) == 1
    assert freezes.in_force(NOW) == {"production": (short,)}
    with pytest.raises(Refused, match="nobody froze staging") as caught:
        freezes.thaw("staging", by="ann", now=NOW)
    assert "reload" in caught.value.hint


def test_several_freezes_hold_together_and_are_lifted_together(freezes: Freezes) -> None:
    for hours in (1, 3, 2):
        freezes.freeze("staging", reason=f"{hours} hours", by="ann", now=NOW, until=NOW + hours * HOUR)
    assert [freeze.reason for freeze in freezes.in_force(NOW + 2 * HOUR)["staging"]] == ["3 hours"]
    assert freezes.thaw("staging", by="ann", now=NOW + HOUR) == 2
    assert [freeze.reason for freeze in freezes.in_force(NOW)["staging"]] == ["1 hours"], "what was over is not lifted afterwards"


@pytest.mark.parametrize(
    ("environment", "reason", "end", "said"),
    [
        ("stagin", "r", None, '"stagin" is not configured'),
        ("staging", " \n", None, "needs a reason"),
        ("staging", "x" * (REASON_MAX + 1), None, "at most"),
        ("staging", "a\u202eb", None, "printable"),
        ("staging", "r", NOW, "over before it begins"),
    ],
)
def test_what_is_no_freeze(freezes: Freezes, environment: str, reason: str, end: datetime | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        freezes.freeze(environment, reason=reason, by="ann", now=NOW, until=end)
    assert freezes.in_force(NOW) == {}


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("reason = ''", "freezes_reason_check"),
        ("until = frozen_at", "freezes_until_check"),
        ("until = 'infinity'", "freezes_until_check"),
        ("lifted_at = now()", "freezes_lifted_check"),
        ("environment = 'nowhere'", "freezes_environment_fkey"),
    ],
)
def test_the_database_refuses_what_no_freeze_is(control: Database, freezes: Freezes, change: str, constraint: str) -> None:
    freezes.freeze("staging", reason="r", by="ann", now=NOW)
    with pytest.raises(IntegrityError, match=constraint), control.transaction() as connection:
        connection.execute(text(f"update dbshield.freezes set {change}"))


async def test_every_proxy_knows_a_freeze_and_its_end_within_a_second(freezes: Freezes, directories: list[Directory]) -> None:
    heard: list[int] = []
    for number, directory in enumerate(directories):
        directory.on_change(lambda number=number: heard.append(number))  # type: ignore[misc]
        assert directory.frozen("staging") is None
    freezes.freeze("staging", reason="incident", by="ann", now=datetime.now(UTC))
    took = await seconds_until(lambda: all(directory.frozen("staging") for directory in directories))
    assert took < PROPAGATION
    for directory in directories:
        found = directory.frozen("staging")
        assert found is not None
        assert (found.reason, found.frozen_by, found.until) == ("incident", "ann", None)
        assert directory.frozen("production") is None
    freezes.thaw("staging", by="ann", now=datetime.now(UTC))
    assert await seconds_until(lambda: not any(directory.frozen("staging") for directory in directories)) < PROPAGATION
    assert sorted(heard) == [0, 0, 1, 1]


async def test_a_freeze_ends_by_itself(freezes: Freezes, control: Database, directories: list[Directory]) -> None:
    heard: list[bool] = []
    directories[0].on_change(lambda: heard.append(directories[0].frozen("staging") is not None))
    now = datetime.now(UTC)
    freezes.freeze("staging", reason="short", by="ann", now=now, until=now + HOUR)
    freezes.freeze("production", reason="long", by="ann", now=now, until=now + HOUR)
    await seconds_until(lambda: all(directory.frozen("staging") for directory in directories))
    # Now that all know of it, however long that took, its end is near.
    end = datetime.now(UTC) + timedelta(seconds=1)
    with control.transaction() as connection:
        connection.execute(text("update dbshield.freezes set until = :end where environment = 'staging'"), {"end": end})
    took = await seconds_until(lambda: not any(directory.frozen("staging") for directory in directories))
    assert datetime.now(UTC) >= end
    assert took < 1 + PROPAGATION
    assert heard[-1] is False
    assert directories[0].frozen("production") is not None


async def test_of_several_the_one_that_holds_longest_is_said(freezes: Freezes, directories: list[Directory]) -> None:
    now = datetime.now(UTC)
    directory = directories[0]
    for hours in (1, 3, 2):
        freezes.freeze("staging", reason=f"{hours}", by="ann", now=now, until=now + hours * HOUR)
    await seconds_until(lambda: (found := directory.frozen("staging")) and found.reason == "3")
    for reason in ("first", "second"):
        freezes.freeze("staging", reason=reason, by="ann", now=now)
    await seconds_until(lambda: (found := directory.frozen("staging")) and found.reason == "first")


async def test_what_was_frozen_stays_frozen_through_an_outage(tmp_path: Path) -> None:
    """Even past its end: while nothing can be known, a longer freeze may have come."""
    ahead = timedelta()
    cluster = Cluster(temporary_folder(), settings={"fsync": "off", "shared_buffers": "1MB"})
    cluster.start(tethered=True, throwaway=True)
    try:
        with control_database(cluster.dsn()) as database:
            _, vault = agents_of(database, tmp_path)
            freezes = Freezes(database, ENVIRONMENTS)
            directory = Directory(
                control_dsn=cluster.dsn(), environments=ENVIRONMENTS, vault=vault, clock=lambda: datetime.now(UTC) + ahead
            )
            await directory.start()
            now = datetime.now(UTC)
            freezes.freeze("staging", reason="incident", by="ann", now=now)
            freezes.freeze("production", reason="release", by="ann", now=now, until=now + HOUR)
            await seconds_until(lambda: directory.frozen("staging") and directory.frozen("production"))
            await asyncio.to_thread(cluster.kill)
            await seconds_until(lambda: not directory.available)
            # The end of one goes by, and there is time to look for the control database again.
            ahead, now = 2 * HOUR, datetime.now(UTC)
            await seconds_until(lambda: datetime.now(UTC) > now + timedelta(seconds=0.5))
            assert directory.frozen("staging") is not None
            assert directory.frozen("production") is not None
            await asyncio.to_thread(cluster.start, tethered=True, throwaway=True)
            await seconds_until(lambda: directory.available)
            assert directory.frozen("staging") is not None
            assert directory.frozen("production") is None
            freezes.thaw("staging", by="ann", now=datetime.now(UTC))
            assert await seconds_until(lambda: not directory.frozen("staging")) < PROPAGATION
            await directory.stop()
    finally:
        cluster.remove()


async def test_a_proxy_that_starts_later_knows_as_well(
    freezes: Freezes, control: Database, control_dsn: str, tmp_path: Path
) -> None:
    freezes.freeze("staging", reason="incident", by="ann", now=datetime.now(UTC))
    _, vault = agents_of(control, tmp_path)
    directory = Directory(control_dsn=control_dsn, environments=dict[str, EnvironmentConfig](), vault=vault)
    await directory.start()
    assert list(directory.freezes) == ["staging"], "an environment may be configured by the next reload"
    await directory.stop()
