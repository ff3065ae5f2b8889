"""The audit of a proxy under load: nothing is lost and nothing twice, when its database goes away and when workers are killed."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import psutil
import psycopg
import pytest
from support.audited import RULE, Refusal, anew, audited_shield, away, chain, running, said, settled, statements, without_gaps
from support.servers import Server
from support.shield import Shield
from support.waiting import until

WRITERS = 4


@pytest.fixture(scope="module")
def audited(server18: Server, worker_id: str) -> Iterator[Shield]:
    with audited_shield(server18, worker_id) as shield:
        yield shield


@pytest.fixture
def shield(audited: Shield) -> Iterator[Shield]:
    with anew(audited) as shield:
        yield shield


class Load:
    """Threads that insert numbers through the proxy, each its own, and come back whenever their session ends."""

    def __init__(self, shield: Shield) -> None:
        self.shield = shield
        self.done = threading.Event()
        self.committed: dict[int, list[int]] = {who: [] for who in range(WRITERS)}
        self.refused = 0
        self.ended = 0
        self.faults: list[str] = []
        self._threads = [threading.Thread(target=self._write, args=[who]) for who in range(WRITERS)]

    @property
    def count(self) -> int:
        return sum(map(len, self.committed.values()))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        for thread in self._threads:
            thread.join(60)
        assert not self.faults, self.faults

    def more(self, count: int) -> bool:
        """Whether so many more are committed in time."""
        goal = self.count + count
        return until(lambda: self.count >= goal)

    def _write(self, who: int) -> None:
        number = 0
        while not self.done.is_set():
            try:
                with self.shield.connect() as connection:
                    while not self.done.is_set():
                        number += 1
                        try:
                            connection.execute(f"insert into shop.journal values ({who}, {number})".encode())
                            self.committed[who].append(number)
                        except Refusal as error:
                            if f"rule={RULE}" not in (error.diag.message_detail or ""):
                                self.faults.append(str(error))
                            self.refused += 1
                            self.done.wait(0.01)
            except psycopg.Error:
                self.ended += 1
                self.done.wait(0.05)


def check(shield: Shield, load: Load) -> None:
    """Everything that was written has its one entry, in its order, whatever the client was told."""
    links = chain(shield)
    assert without_gaps(links)
    entries = statements(links)
    with shield.server.connect(shield.database) as admin:
        there = admin.execute("select who, number from shop.journal").fetchall()
    assert len(there) == len(set(there))
    assert {(who, number) for who, numbers in load.committed.items() for number in numbers} <= set(there)
    assert {entries[f"insert into shop.journal values ({who}, {number})"] for who, number in there} == {1}
    for who in range(WRITERS):
        begin = f"insert into shop.journal values ({who}, "
        texts = [said(link)["statement"] for link in links if link.kind == "statement"]
        numbers = [int(text[len(begin) : -1]) for text in texts if text.startswith(begin)]
        assert len(numbers) == len(set(numbers))
        # A session that comes back may be another worker's, which may write sooner than the one that has to find the database.
        order = {number: place for place, number in enumerate(numbers)}
        sessions: dict[object, list[int]] = {}
        for link in links:
            text = said(link).get("statement") or ""
            if text.startswith(begin):
                sessions.setdefault((link.writer, link.session), []).append(order[int(text[len(begin) : -1])])
        assert all(places == sorted(places) for places in sessions.values())


def test_nothing_is_lost_when_it_goes_away_under_load(shield: Shield) -> None:
    with running(shield, statements="full"), Load(shield) as load:
        for _ in range(3):
            assert load.more(100)
            with away(shield):
                refused = load.refused
                assert until(lambda before=refused: load.refused > before + 20 or load.ended > 8)  # type: ignore[misc]
        assert load.more(100)
    assert load.refused
    check(shield, load)


def kill_a_worker(shield: Shield, chance: random.Random) -> None:
    assert shield._process is not None
    children = psutil.Process(shield._process.pid).children()
    if children:
        with suppress(psutil.NoSuchProcess):
            chance.choice(children).kill()


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost_or_doubled_when_workers_are_killed(shield: Shield, seed: int) -> None:
    """On the disk counts as kept here, so what was acknowledged while the database was away must come out of a dead worker's
    file. Killed at any moment: at work, while it is away, while the file is brought over."""
    chance = random.Random(seed)
    with running(shield, statements="full", when_away="spool"), Load(shield) as load:
        for _ in range(3):
            assert load.more(50)
            kill_a_worker(shield, chance)
            assert load.more(50)
            with away(shield):
                before = load.count
                assert until(lambda before=before: load.count > before + 200)  # type: ignore[misc]
                if chance.random() < 0.5:
                    kill_a_worker(shield, chance)
            until(chance_of(chance, 0.1), deadline=1.0)
            kill_a_worker(shield, chance)
        assert load.more(50)
        assert settled(shield)
    folder = shield.folder / "state" / "audit"
    with running(shield):
        assert until(lambda: not [path for path in folder.iterdir() if path.stat().st_size])
        assert settled(shield)
    check(shield, load)


def chance_of(chance: random.Random, seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + chance.random() * seconds
    return lambda: time.monotonic() > end
