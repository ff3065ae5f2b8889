"""How many agents are active is not said to be fewer than there are."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dbshield.control.agents_active import SHOWN, Active, Activity


@pytest.mark.parametrize(("listed", "living", "said"), [(0, 9, "0"), (7, 900, "7"), (SHOWN, SHOWN, "50"), (SHOWN, 900, "50+")])
def test_a_list_that_is_cut_is_no_count(listed: int, living: int, said: str) -> None:
    one = Active(name="claude", environment="staging", at=datetime(2026, 5, 1, tzinfo=UTC), kind="statement")
    assert Activity(agents=(one,) * listed, living=living).counted == said
