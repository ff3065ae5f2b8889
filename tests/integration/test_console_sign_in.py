"""The console's door: who comes in, who stays in, and what no other site can do in somebody's name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.consoles import ConsoleDesk
from support.control import control_database, empty_database
from support.servers import Server

from dbshield.control.person_roles import Role


@pytest.fixture(scope="module")
def desk(server18: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleDesk]:
    """Ann, an admin, and Vera, who may only look."""
    folder: Path = tmp_path_factory.mktemp("console")
    with empty_database(server18) as dsn, control_database(dsn) as database:
        made = ConsoleDesk(database, dsn, folder)
        made.enrol("ann", Role.ADMIN)
        made.enrol("vera", Role.VIEWER, vouch="ann")
        yield made
        made.close()


def test_who_has_password_and_code_is_in(desk: ConsoleDesk) -> None:
    browser = desk.signed_in("ann")
    page = browser.get("/")
    assert page.status_code == 200
    assert "<b>ann</b>" in page.text
