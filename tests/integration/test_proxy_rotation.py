"""A login to the server that meets the exchange of its role's password, on real servers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.servers import TEMPLATE, Server

from dbshield.errors import Refused, StoreError
from dbshield.model import AccessLevel, AgentLogin, Upstream
from dbshield.proxy import rotation
from dbshield.proxy.rotation import INVALID_PASSWORD, PAUSES, Find

pytestmark = pytest.mark.one_server

SETTINGS = {"application_name": "rotation"}


def login_of(server: Server, password: str) -> AgentLogin:
    return AgentLogin(
        agent="claude",
        environment="test",
        access=AccessLevel.READ,
        databases=(TEMPLATE,),
        salt=b"",
        iterations=1,
        tokens=(),
        upstream=Upstream(host=server.cluster.host, port=server.cluster.port, user="agent_read", password=password),
    )


class Known:
    """What the directory answers, one answer for each time that it is asked."""

    def __init__(self, *answers: AgentLogin | StoreError | None) -> None:
        self.answers = list(answers)
        self.asked = 0

    def find(self, user: str) -> AgentLogin | None:
        assert user == "claude.test"
        answer = self.answers[self.asked]
        self.asked += 1
        if isinstance(answer, StoreError):
            raise answer
        return answer


async def connects(find: Find, login: AgentLogin, database: str = TEMPLATE) -> None:
    server = await rotation.connect(find, login, database=database, settings=SETTINGS)
    server.transport.abort()


async def test_the_newest_password_is_asked_for(server: Server) -> None:
    old, new = login_of(server, "old"), login_of(server, server.passwords["read"])
    known = Known(old, new)
    await connects(known.find, old)
    assert known.asked == 2


async def test_the_right_password_asks_nobody(server: Server) -> None:
    await connects(Known().find, login_of(server, server.passwords["read"]))


@pytest.mark.parametrize("answer", [None, StoreError("away")])
async def test_a_wrong_password_stays_wrong(server: Server, answer: StoreError | None) -> None:
    known = Known(*[answer] * len(PAUSES))
    with pytest.raises(Refused) as caught:
        await connects(known.find, login_of(server, "wrong"))
    assert caught.value.sqlstate == INVALID_PASSWORD
    assert known.asked == len(PAUSES)


async def test_another_failure_is_told_at_once(server: Server) -> None:
    login = login_of(server, server.passwords["read"])
    with pytest.raises(Refused, match='"nowhere" does not exist'):
        await connects(Known().find, login, database="nowhere")
    missing = replace(login, upstream=replace(login.upstream, user="agent_read", password=None))
    with pytest.raises(Refused, match="dbshield has none"):
        await connects(Known().find, missing)
