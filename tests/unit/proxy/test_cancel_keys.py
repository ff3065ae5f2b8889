"""Keys of cancel requests, between two workers that hear each other over real sockets. Traps 2 and 3."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbshield.cluster import temporary_folder
from dbshield.errors import ConfigError
from dbshield.proxy.cancel import LONG_KEY, SESSION_BITS, SHORT_KEY, CancelKeys


class Cancelled:
    """Counts how often a session was cancelled."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self) -> None:
        self.times += 1


async def test_a_key_works_here_and_from_another_worker() -> None:
    folder = temporary_folder("cancel-test-")
    one, two = CancelKeys(0, folder / "run"), CancelKeys(1, folder / "run")
    await one.start()
    await two.start()
    try:
        session = Cancelled()
        process_id, key = one.register(session, long=True)
        await one.cancel(process_id, key)
        await two.cancel(process_id, key)
        assert session.times == 2
        for wrong in (b"", key[:-1], key + b"\0", bytes(LONG_KEY)):
            await one.cancel(process_id, wrong)
            await two.cancel(process_id, wrong)
        await two.cancel(process_id ^ 1 << SESSION_BITS, key)
        await two.cancel(-process_id, key)
        one.forget(process_id)
        await two.cancel(process_id, key)
        assert session.times == 2
    finally:
        await one.stop()
        await two.stop()
        (folder / "run").rmdir()
        folder.rmdir()


def test_numbers_are_not_used_twice_while_they_live() -> None:
    keys = CancelKeys(3, Path("/unused"))
    made = [keys.register(Cancelled(), long=False) for _ in range(1_000)]
    assert len({process_id for process_id, _ in made}) == 1_000
    assert all(process_id >> SESSION_BITS == 3 and len(key) == SHORT_KEY for process_id, key in made)


async def test_a_folder_whose_name_is_too_long_for_a_socket(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot hear each other"):
        await CancelKeys(0, tmp_path / ("x" * 120)).start()
